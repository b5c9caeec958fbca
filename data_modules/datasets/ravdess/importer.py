"""RAVDESS: the official release on disk, with the face as OpenFace action units.

Audio is read from ``Actor_NN/03-....wav`` (or ``.flac``), anywhere below the source. The face comes from a CSV table of
per-clip averages, or from a folder of per-frame CSV files (the official landmark-tracking release, Zenodo 3255102),
where the name starts with 01 (or 02) and means the same take as the 03 of the sound. Text is left out: the two
sentences are the same in every emotion.

What cannot be used is dropped and said in the notes: clips that do not decode, clips without a face, foreign file
names. Losing more than five per cent of the clips is an error, because a result on the rest would not be comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_modules.datasets.ravdess.names import (
    Channel,
    RavdessName,
    find_clips,
    find_tables,
    missing_takes,
    split_tables,
    target,
)
from data_modules.datasets.ravdess.splits import LUNA5
from data_modules.features import audio, openface
from data_modules.features.egemaps import Egemaps, TooShortError
from data_modules.importers.clips import listed, progress, refuse_loss
from data_modules.importers.common import Source
from data_modules.libraries import optional_library
from data_modules.schema import DataError
from data_modules.store import Sample, StoreInfo
from data_modules.store.provenance import Recipe, file_digest

KEY = "ravdess"
"""What the format is called."""
AudioFeatures = Literal["logmel", "mfcc", "logmel+mfcc", "egemaps", "egemaps-functionals"]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """The face of the clips.

    Attributes:
        by_take: ``(T, units)`` action units by take.
        feature_set: Suffix of the feature set's name.
        source: The layout, in words.
        notes: What was found.
    """

    by_take: dict[str, Floats]
    feature_set: str
    source: str
    notes: list[str]


def read_face(path: Path, takes: Iterable[str]) -> Face:
    """Read the face of some takes: a CSV table with a row per clip, or a folder with a CSV file per clip.

    Raises:
        DataError: When there is nothing at the path, or the files disagree.
    """
    if path.is_file():
        return _face_table(path)
    if path.is_dir():
        return _face_frames(path, set(takes))
    raise DataError(
        f"There is no face at {path}. Give OpenFace's CSV table with a row per clip, or a folder of its files."
    )


def _face_table(path: Path) -> Face:
    table, units = openface.read_clips(path)
    try:
        names = [RavdessName.parse(str(clip)) for clip in table.index]
    except DataError as error:
        raise DataError(f"{path}, column 'clip': {error}") from error
    notes = []
    if "fold" in table:
        own = {actor: fold for fold, actors in enumerate(LUNA5) for actor in actors}
        other = sum(own[name.actor] != fold for name, fold in zip(names, table["fold"], strict=True))
        if other:
            notes.append(f"The fold column of {path.name} differs from luna5 in {other} rows; it is not used.")
    by_take: dict[str, Floats] = {}
    for name, row in zip(names, table[list(units)].to_numpy(np.float32), strict=True):
        if name.take in by_take:
            raise DataError(f"{path} has two rows for the take {name.take}. Keep one.")
        by_take[name.take] = row[None]
    return Face(by_take, "au", f"OpenFace, {len(units)} action units averaged over the clip", notes)


def _face_frames(folder: Path, takes: set[str]) -> Face:
    by_take: dict[str, Floats] = {}
    units: tuple[str, ...] = ()
    failed = frames = 0
    for take, path in progress(list(find_tables(folder, takes).items()), "RAVDESS face"):
        values, names, dropped = openface.read_frames(path)
        if units and names != units:
            raise DataError(f"{path} has other action units than the files before it: {names} instead of {units}.")
        units, failed, frames = names, failed + dropped, frames + dropped + len(values)
        if len(values):
            by_take[take] = values
    notes = [f"{failed} of {frames} video frames without a tracked face were dropped."] if failed else []
    return Face(by_take, "auframes", f"OpenFace, {len(units)} action units per tracked video frame", notes)


@dataclass(frozen=True)
class _Sound:
    """What is made of the sound of a clip: by which function from ``(samples,)`` to ``(T, D)``, and in words."""

    extract: Callable[[Floats], Floats]
    text: str
    recipe: Recipe


def _sound(features: AudioFeatures, mels: int, mfccs: int, window_ms: float, hop_ms: float, trim_db: float) -> _Sound:
    if features == "egemaps" or features == "egemaps-functionals":
        parameters = Egemaps(features)
        return _Sound(parameters, parameters.text, parameters.recipe(trim_db))
    if min(mels, mfccs) < 1:
        raise DataError(f"The sound needs one mel band and one MFCC at least, not {mels} and {mfccs}.")
    extractors: dict[str, Callable[[Floats], Floats]] = {
        "logmel": lambda samples: audio.log_mel(samples, audio.RATE, mels, window_ms, hop_ms),
        "mfcc": lambda samples: audio.mfcc(samples, audio.RATE, mfccs, window_ms, hop_ms, mels),
    }
    spelled = {"logmel": f"log-mel, {mels} bands", "mfcc": f"{mfccs} MFCC of {mels} bands"}
    parts = features.split("+")
    return _Sound(
        lambda samples: np.concatenate([extractors[part](samples) for part in parts], axis=1),
        f"{' and '.join(spelled[part] for part in parts)}, {audio.RATE} Hz mono, window {window_ms:g} ms, "
        f"hop {hop_ms:g} ms",
        audio.sound_recipe(features, mels=mels, mfccs=mfccs, window_ms=window_ms, hop_ms=hop_ms, trim_db=trim_db),
    )


def read(
    source: Path,
    *,
    dataset: str = "ravdess",
    face: str = "",
    audio_features: AudioFeatures = "logmel",
    channel: Channel = "speech",
    mels: int = audio.MELS,
    mfccs: int = audio.MFCCS,
    window_ms: float = audio.WINDOW_MS,
    hop_ms: float = audio.HOP_MS,
    trim_db: float = 35.0,
) -> Source:
    """Read RAVDESS.

    Args:
        source: Folder above the ``Actor_NN`` folders of the audio archives.
        dataset: Key of the data set.
        face: OpenFace CSV table with a row per clip, or folder with a CSV file per clip; empty for sound alone.
        audio_features: What is computed from the sound, as sequences: log-mel, MFCC or both; or the descriptors of
            eGeMAPS in steps of 50 ms, or its functionals, one vector of each clip. eGeMAPS needs the extra
            ``opensmile``, whose licence allows research and non-commercial use.
        channel: Speech (eight classes), song (six) or both.
        mels: Mel bands.
        mfccs: Cepstral coefficients.
        window_ms: Analysis window in milliseconds, of log-mel and MFCC.
        hop_ms: Time between two steps in milliseconds, of log-mel and MFCC.
        trim_db: Cut the silence at both ends, below this many dB under the loudest moment; 0 keeps it.

    Raises:
        DataError: When the files are not as described, or more than five per cent of the clips cannot be used.
    """
    clips, foreign = find_clips(Path(source), channel)
    faces = read_face(Path(face), (name.take for name in clips)) if face else None
    sound = _sound(audio_features, mels, mfccs, window_ms, hop_ms, trim_db)
    for library in ("soundfile", "librosa"):
        optional_library(library)
    faceless = [name.stem for name in clips if faces and name.take not in faces.by_take]
    refuse_loss(f"have no face in {face}", faceless, len(clips))

    samples: list[Sample] = []
    undecoded: list[str] = []
    short: list[str] = []
    reason = ""
    for name, path in progress(list(clips.items()), "RAVDESS audio"):
        if name.stem in faceless:
            continue
        try:
            steps, origin = sound.extract(audio.load_audio(path, trim_db=trim_db)), file_digest(path)
        except TooShortError as error:
            short.append(name.stem)
            reason = reason or f"{path}: {error}"
            continue
        except DataError as error:
            undecoded.append(name.stem)
            reason = reason or str(error)
            continue
        inputs = {"audio": steps} | ({"vision": faces.by_take[name.take]} if faces else {})
        samples.append(name.sample(inputs, {"audio": origin}))
    flaw = "cannot be decoded or are too short" if short else "cannot be decoded"
    refuse_loss(flaw, [*undecoded, *short], len(clips), reason)

    expected, missing = missing_takes(clips, channel)
    notes = [
        *listed("files with a foreign name were ignored", foreign),
        *listed(f"of {expected} clips are not there", missing),
        *listed("clips without a face were left out", faceless),
        *listed("clips that do not decode were left out", undecoded),
        *listed("clips too short for the windows of their features were left out", short),
        *(faces.notes if faces else []),
    ]
    trim = f", ends below -{trim_db:g} dB cut" if trim_db > 0 else ""
    sources = {"audio": f"{sound.text}{trim}"}
    if faces:
        sources["vision"] = faces.source
    feature_set = "-".join([audio_features, *([faces.feature_set] if faces else [])])
    info = StoreInfo(
        dataset,
        feature_set if channel == "speech" else f"{feature_set}-{channel}",
        target(channel),
        sources,
        notes=tuple(notes),
        # The action units are OpenFace's own numbers.
        recipes={"audio": sound.recipe},
    )
    return Source(info, samples, partial(split_tables, channel=channel))
