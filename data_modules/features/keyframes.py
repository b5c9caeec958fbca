"""Key frames of a clip, chosen by its sound (VCAN's CMSM), and stores that keep only them.

Chen, Zhou, Li, Zhou, "Video-based Cross-modal Auxiliary Network for Multimodal Sentiment Analysis", IEEE TCSVT 2022,
arXiv 2208.13954. The sound is taken apart into three signals (:mod:`data_modules.features.modes`). Each has a log-mel
map; the ten columns with the highest scores name ten video frames; the union over the three maps is the choice, 30
frames at most. For a column of 26 bands with power ``P`` and level ``L`` in dB the score is

    var(L) ^ (1 / 26 + max(P) / sum(P))

As published (variants ``numeric`` and ``official``) the exponent takes both ratios from the levels, which are negative
as a rule. ``official`` also sorts the scores as text of three decimals, and divides column numbers by 2.5, whatever the
frame rate; else the ratio is that of the rates of columns and frames, or of their numbers in the clip where frames have
no one rate. Written from the formulas and equal to the numbers
of rongfei-chen/VCAN; no code is taken over.

The published scripts drop a clip without three modes or with a mode without pitch, and every later one of its length
with it. Here only that clip is concerned: a store keeps ten evenly spread frames of it and says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from data_modules.features.modes import HOP, RATE, WINDOW, Floats, Ints, NoModes, audio_maps, magnitudes
from data_modules.libraries import optional_library
from data_modules.schema import DataError, unknown_name
from data_modules.store import FeatureStore, Recipe, Sample, StoreInfo, check_output, write_store

MELS = 26
TOP = 10
PRE_EMPHASIS = 0.97
FLOOR_DB = 80.0
SMALLEST = 1e-10  # power below this is -100 dB
PUBLISHED_RATIO = 2.5  # columns per video frame: right for 25.9 frames per second
SUFFIX = "-keyframes"
CUT = "cfnsr"  # recipe of feature sets whose sound is a piece of the clip, and whose frames are of the whole
LISTED = 20
REVISION = 1
"""Of the choice: raise it with every change after which the same store gives other key frames."""
LIBRARIES = ("librosa", "numpy", "scipy", "soxr")

Variant = Literal["default", "numeric", "official"]


@dataclass(frozen=True)
class MelMap:
    """One signal in time and pitch.

    Attributes:
        power: ``(26, T)`` mel power.
        level: ``(26, T)`` the same in dB, from 80 dB below the loudest up.
    """

    power: Floats
    level: Floats

    @classmethod
    def of(cls, signal: Floats) -> MelMap:
        """Return the map of ``(N,)`` samples at 22 050 per second, ``T = 1 + floor(N / 341)``."""
        # The sample before the first is extrapolated, and added instead of taken off, as in librosa.
        start = 3 * signal[:1] - signal[1:2]
        sharp = np.concatenate([start, signal[1:] - PRE_EMPHASIS * signal[:-1]])
        librosa = optional_library("librosa")
        power = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=MELS, dtype=np.float64) @ magnitudes(sharp) ** 2
        return cls(power, librosa.power_to_db(power, ref=1.0, amin=SMALLEST, top_db=FLOOR_DB))

    def scores(self, variant: Variant = "default") -> Floats:
        """Return ``(T,)`` how much each column has to say."""
        ratios = self.power if variant == "default" else self.level
        with np.errstate(divide="ignore", invalid="ignore"):  # a column of silence has no ratio
            total = ratios.sum(axis=0)
            exponent = ratios.mean(axis=0) / total + ratios.max(axis=0) / total
            values: Floats = self.level.var(axis=0) ** exponent
        return values


def best_columns(scores: Floats, variant: Variant = "default") -> Ints:
    """Return the ten best columns in the order of choice; of equal ones the earlier comes first.

    Args:
        scores: ``(T,)``; what is not a number comes last, but in the official order as its text.
        variant: Whose order; ``official`` compares three decimals as text, so that 9.5 is above 10.2.
    """
    if variant == "official":
        texts = [f"{score:.3f}" for score in scores]
        order = sorted(range(len(texts)), key=texts.__getitem__, reverse=True)
        return np.asarray(order[:TOP], np.int64)
    return np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")[:TOP]


def frames_of(columns: Ints, ratio: float, frames: int) -> Ints:
    """Return the frames that columns name, sorted, each once; those beyond the clip are left out.

    Args:
        columns: Column numbers.
        ratio: Columns per frame.
        frames: Frames of the clip.
    """
    # The ratio is a rounded number; what should be a whole quotient must not end below it.
    named = np.unique(np.floor(columns / ratio + 1e-9).astype(np.int64))
    return named[named < frames]


def audio_guided_keyframes(
    waveform: npt.NDArray[Any], rate: float, frames: int, variant: Variant = "default", fps: float = 0.0
) -> Ints:
    """Return the frames to look at: sorted, each once, 30 at most.

    Args:
        waveform: ``(samples,)`` mono sound of the clip: int16, or floats from -1 to 1.
        rate: Samples per second.
        frames: Number of video frames, which begin with the sound.
        variant: ``default``, or the published score with a ``numeric`` or the ``official`` order.
        fps: Frames per second; 0 where the frames are evenly spread over the time of the sound.

    Raises:
        DataError: For an unknown variant or no frames.
        NoModes: When the sound of the clip cannot choose; the message says why.
    """
    if variant not in get_args(Variant):
        raise DataError(unknown_name("variant of the selection", variant, get_args(Variant)))
    if frames < 1:
        raise DataError("There are no video frames to choose from.")
    signal = waveform.astype(np.float64) / (32768.0 if waveform.dtype == np.int16 else 1.0)
    if rate != RATE and len(signal):
        signal = optional_library("librosa").resample(signal, orig_sr=rate, target_sr=RATE, res_type="soxr_hq")
    maps = [MelMap.of(part) for part in audio_maps(signal)]
    columns = np.concatenate([best_columns(item.scores(variant), variant) for item in maps])
    ratio = RATE / HOP / fps if fps else maps[0].power.shape[1] / frames
    if variant == "official":
        ratio = PUBLISHED_RATIO
    chosen = frames_of(columns, ratio, frames)
    if not len(chosen):
        raise NoModes("its chosen columns lie beyond its frames")
    return chosen


def even_frames(frames: int) -> Ints:
    """Return ten frames in the middle of ten equal parts of a clip, or all where there are not so many."""
    count = min(TOP, frames)
    return (2 * np.arange(count) + 1) * frames // (2 * count)


@dataclass
class _Choice:
    """What was chosen from a store.

    Attributes:
        frames: By sample the frames to keep.
        reasons: Samples whose sound could not choose, by the reason.
    """

    frames: list[Ints] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        whole = len(self.frames)
        for reason, names in self.reasons.items():
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            yield (
                f"{len(names)} of {whole} clips keep evenly spread frames instead of chosen ones, because {reason}: "
                f"{', '.join(names[:LISTED])}{more}."
            )


def keyframe_store(
    source: str | os.PathLike[str], out: str | os.PathLike[str], variant: Variant = "default"
) -> FeatureStore:
    """Write the store of the same clips with only their key frames; sound, text, labels and splits stay.

    One clip is in memory at a time. The notes say which clips keep evenly spread frames, and why.

    Args:
        source: A store of frames and waveforms.
        out: The file to make or replace.
        variant: As in :func:`audio_guided_keyframes`.

    Returns:
        The written store, open for reading; its feature set is that of the source with ``-keyframes``.

    Raises:
        DataError: When the source has no frames or no waveforms of one rate, only a piece of the sound or key frames
            already, or is the output, or when the sound of no clip can choose.
    """
    store = FeatureStore(source)
    _check(store, Path(out))
    choice = _choose(store, variant)
    vision = store.modalities["vision"]
    sources = {name: item.source for name, item in store.modalities.items()}
    sources["vision"] = f"{vision.source or 'frames'}; key frames chosen by the sound (VCAN, {variant} score)"
    info = StoreInfo(
        store.dataset,
        store.feature_set + SUFFIX,
        store.target,
        sources,
        kinds={name: item.kind for name, item in store.modalities.items()},
        sizes={name: item.dim for name, item in store.modalities.items() if item.kind == "tokens"},
        unknown={name: item.unknown for name, item in store.modalities.items()},
        rates={"audio": store.modalities["audio"].rate},  # key frames are not evenly spaced
        # What is said of groups in more than one part is found again.
        notes=(*(note for note in store.notes if not note.endswith("are not independent of them.")), *choice.notes()),
        # What is taken over is known as before; what is chosen, by the store that it is chosen from.
        recipes={
            **{name: Recipe(**recipe) for name, recipe in store.recipes.items()},
            "vision": Recipe("key frames by sound", {"variant": variant}, REVISION, LIBRARIES),
        },
        libraries=store.libraries,
    )
    return write_store(out, info, _samples(store, choice), splits=lambda _: store.splits)


def _check(store: FeatureStore, out: Path) -> None:
    kinds = {name: item.kind for name, item in store.modalities.items()}
    if kinds.get("vision") != "frames" or kinds.get("audio") != "waveform":
        have = ", ".join(f"{name} as {kind}" for name, kind in kinds.items())
        raise DataError(
            f"{store.path} has {have}; key frames are chosen from vision as frames by audio as a waveform. Make such a "
            "store from the videos."
        )
    if store.feature_set.endswith(SUFFIX):
        raise DataError(f"{store.path} holds key frames already. Give the store that they were chosen from.")
    if CUT in store.feature_set.split("-"):
        raise DataError(
            f"{store.path} holds a piece of the sound of each clip beside frames of the whole (recipe {CUT}), so that "
            "sound and frames are not of the same time. Import the clips with recipe=whole."
        )
    if store.modalities["audio"].rate <= 0:
        raise DataError(f"{store.path} does not say the rate of its waveforms. Make it again with one rate for all.")
    if out.exists() and out.samefile(store.path):
        raise DataError(f"The key frames would replace {store.path}, which has all frames. Give another output.")
    check_output(out)


def _choose(store: FeatureStore, variant: Variant) -> _Choice:
    choice, rate, fps = _Choice(), store.modalities["audio"].rate, store.modalities["vision"].rate
    for row in _progress(len(store), "choosing key frames"):
        frames = int(np.diff(store.offsets["vision"])[row])
        waveform, _ = store.read("audio", np.array([row]))
        try:
            chosen = audio_guided_keyframes(waveform, rate, frames, variant, fps)
        except NoModes as reason:
            choice.reasons.setdefault(str(reason), []).append(str(store.ids[row]))
            chosen = even_frames(frames)
        choice.frames.append(chosen)
    if sum(map(len, choice.reasons.values())) == len(store):
        raise DataError(
            f"The sound of no clip of {store.path} can choose frames: {'; '.join(choice.reasons)}. Check the sound."
        )
    return choice


def _samples(store: FeatureStore, choice: _Choice) -> Iterator[Sample]:
    for row in _progress(len(store), "writing key frames"):
        inputs = {name: store.read(name, np.array([row]))[0] for name in store.modalities}
        inputs["vision"] = inputs["vision"][choice.frames[row]]
        group, speaker, said = (str(column[row]) for column in (store.groups, store.speakers, store.transcripts))
        origins = {name: str(column[row]) for name, column in store.origins.items()} | {"vision": store.identity}
        yield Sample(str(store.ids[row]), inputs, store.targets[row], None, group, speaker, said, origins)


def _progress(count: int, what: str) -> Iterator[int]:
    console = Console(stderr=True)
    yield from track(range(count), what, console=console, transient=True, disable=not console.is_terminal)
