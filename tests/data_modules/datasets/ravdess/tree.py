"""A small RAVDESS release for tests: real clips under the names of the official one, and tables of faces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_modules.datasets.ravdess.splits import RAVDESS_PROTOCOLS
from data_modules.formats import import_store
from data_modules.store import FeatureStore
from tests.data_modules.media_files import make_mp4, make_wav, pictures

SMALL = {"frames": 4, "size": 16, "rate": 8000}
UNITS = ("AU01_r", "AU12_r", "AU04_c")
"""The action units of the tables of faces."""
TRIALS = ("01-01-01-01-01", "01-05-02-02-01", "01-08-01-01-02")
"""Channel, emotion, intensity, statement and repetition of the takes that every actor has."""


def place_of(root: Path, stem: str, ending: str) -> Path:
    return root / f"Actor_{stem[-2:]}" / f"{stem}.{ending}"


def pitch(stem: str) -> int:
    """Return the pitch of a take in Hz: that of no other."""
    trial = TRIALS.index(stem[3:-3]) if stem[3:-3] in TRIALS else len(TRIALS)
    return 200 + 20 * int(stem[-2:]) + 5 * trial


def write_video(root: Path, stem: str, seconds: float = 0.4, **options: Any) -> Path:
    """Write pictures of 36 x 64, 25 a second, whose green is ten times the actor, with the take's pitch."""
    shown = pictures(round(25 * seconds), (36, 64))
    shown[..., 1] = 10 * int(stem[-2:])
    return make_mp4(place_of(root, stem, "mp4"), **{"frames": shown, "hertz": pitch(stem), **options})


def write_sound(root: Path, stem: str, seconds: float = 0.3, ending: str = "wav", **options: Any) -> Path:
    return make_wav(place_of(root, stem, ending), seconds, hertz=pitch(stem), **options)


def write_release(root: Path) -> Path:
    """Write three takes of each actor as video and as sound, some silent copies, a song, and what disks litter.

    The sound of actor 3 is in stereo, that of actor 4 in FLAC.
    """
    for actor in range(1, 25):
        channels, ending = 2 if actor == 3 else 1, "flac" if actor == 4 else "wav"
        for trial in TRIALS:
            write_video(root, f"01-{trial}-{actor:02d}", channels=channels)
            write_sound(root, f"03-{trial}-{actor:02d}", channels=channels, ending=ending)
        full, silent = (place_of(root, f"{kind}-{TRIALS[0]}-{actor:02d}", "mp4") for kind in ("01", "02"))
        shutil.copy(full, silent)
    write_video(root, "01-02-01-01-01-01-05")
    (root / "Actor_06" / "._01-01-01-01-01-01-06.mp4").write_bytes(b"\0\5\26\7")
    (root / "Actor_06" / "holiday.mp4").write_bytes(b"a film of mine")
    (root / "Actor_06" / "readme.txt").write_text("not a clip")
    return root


def write_faces(path: Path, takes: list[str], fold: bool = True) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.uniform(0, 1, (len(takes), len(UNITS))), columns=list(UNITS))
    table.insert(0, "clip", [f"01-{take}" for take in takes])
    if fold:
        test = {actor: place for place, one in enumerate(RAVDESS_PROTOCOLS["luna5"]) for actor in one.test}
        table.insert(1, "fold", [test[int(take[-2:])] for take in takes])
    table.sample(frac=1, random_state=0).to_csv(path, index=False)


def write_frames(path: Path, frames: int, failed: int) -> None:
    """Write what OpenFace writes: blanks before each name, and numbers of no meaning where it found no face."""
    lines = ["frame, face_id, timestamp, confidence, success, x_0, AU04_c, AU01_r, AU12_r"]
    for frame in range(frames):
        good = frame >= failed
        values = (0, frame / 10, frame / 5) if good else (1, 99, 99)
        numbers = (frame + 1, 0, frame / 30, 0.98 if good else 0.02, int(good), 640, *values)
        lines.append(", ".join(f"{number:g}" for number in numbers))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def bring(source: Path, out: Path, **options: object) -> FeatureStore:
    return import_store("ravdess_media", source, out / "r.h5", dataset="ravdess", options={**SMALL, **options})


def one(store: FeatureStore, name: str, stem: str) -> np.ndarray:
    return store.read(name, np.array([list(store.ids).index(stem)]))[0]
