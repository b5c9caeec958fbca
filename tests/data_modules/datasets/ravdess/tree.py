"""A small RAVDESS release for tests: real clips in the folders and under the names of the official one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.data_modules.media_files import make_mp4, make_wav, pictures

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
