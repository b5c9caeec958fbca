"""IEMOCAP's sound and pictures, turn by turn: what is made of them, and how that is done.

The sound of a turn is a file of its own. Its pictures are a piece of the video of the dialog, of which one half shows
the speaker; the video is decoded once for all its turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_modules.datasets.iemocap.tables import Turn
from data_modules.features import audio as sound
from data_modules.features.faces import DETECTOR, HaarFace, pictures_recipe
from data_modules.features.media import CUT_SHARE, TOO_LARGE, read_frames, video_info
from data_modules.features.sampling import CLOCK, Sampling
from data_modules.importers.clips import FACELESS, TAKEN, Clip, Decoded, decode_clips
from data_modules.schema import DataError
from data_modules.store.provenance import Recipe, digest

Sound = Literal["logmel", "mfcc", "logmel+mfcc", "waveform", "none"]
Array = npt.NDArray[Any]

SIZE, EVERY = 224, 0.5
AT_ONCE = 600
"""Whole pictures of a dialog in memory at a time, a gigabyte while they are read; one with more is decoded twice."""


@dataclass(frozen=True)
class _At(Sampling):
    """The pictures at given times, in order."""

    at: tuple[float, ...] = ()

    def number(self, duration: float, frames: int) -> int:
        return len(self.at)

    def times(self, duration: float) -> npt.NDArray[np.float64]:
        return np.asarray(self.at)


@dataclass(frozen=True)
class Sounds:
    """What is made of the sound of a turn; see :func:`data_modules.datasets.iemocap.release.read`."""

    kind: Sound
    mels: int
    mfccs: int
    window_ms: float
    hop_ms: float
    vectors: bool

    def hear(self, turns: Sequence[Turn], folder: Path) -> Decoded:
        """Decode the sound of each turn."""
        settings = {**asdict(self), "recipe": self.recipe.to_dict()}
        clips = [Clip(turn.name, (turn.wav,)) for turn in turns]
        return decode_clips(clips, self._decode, folder, settings=settings, what="IEMOCAP turns")

    def _decode(self, clip: Clip) -> dict[str, Array]:
        samples = sound.load_audio(clip.files[0])
        if self.kind == "waveform":
            return {"audio": sound.to_int16(samples)}
        makers: dict[str, Callable[[], sound.Floats]] = {
            "logmel": lambda: sound.log_mel(samples, sound.RATE, self.mels, self.window_ms, self.hop_ms),
            "mfcc": lambda: sound.mfcc(samples, sound.RATE, self.mfccs, self.window_ms, self.hop_ms, self.mels),
        }
        steps = np.concatenate([makers[part]() for part in self.kind.split("+")], axis=1)
        return {"audio": np.concatenate([steps.mean(0), steps.std(0)])[None] if self.vectors else steps}

    @property
    def recipe(self) -> Recipe:
        """How it is made."""
        return sound.sound_recipe(
            self.kind,
            mels=self.mels,
            mfccs=self.mfccs,
            window_ms=self.window_ms,
            hop_ms=self.hop_ms,
            more={"pooled": "mean and deviation"} if self.vectors else {},
        )

    @property
    def source(self) -> str:
        """What it is, in words."""
        if self.kind == "waveform":
            return f"sound of the turn at {sound.RATE} Hz"
        spelled = {"logmel": f"log-mel, {self.mels} bands", "mfcc": f"{self.mfccs} MFCC of {self.mels} bands"}
        parts = " and ".join(spelled[part] for part in self.kind.split("+"))
        pooled = "; mean and deviation over the turn" if self.vectors else ""
        return f"{parts}, {sound.RATE} Hz mono, window {self.window_ms:g} ms, hop {self.hop_ms:g} ms{pooled}"


def seen_recipe(every: float, size: int, detector: HaarFace | None) -> Recipe:
    """Return how the pictures of a turn are made; see :func:`speakers_pictures`."""
    return pictures_recipe(Sampling(every=every), size, DETECTOR if detector else "middle", half="speaker")


def turn_origin(turn: Turn, video: str) -> str:
    """Return the origin of the pictures of a turn: of the video with this digest, whose half and which seconds."""
    return digest([video, turn.side, turn.start, turn.end])


def see(turns: Sequence[Turn], every: float, size: int, detector: HaarFace | None, folder: Path) -> Decoded:
    """Decode the video of each dialog once, to one array of pictures per turn."""
    dialogs = {dialog: list(some) for dialog, some in groupby(turns, key=lambda turn: turn.dialog)}
    spans = hashlib.sha256(repr([(turn.name, turn.start, turn.end) for turn in turns]).encode()).hexdigest()
    return decode_clips(
        [Clip(dialog, (some[0].avi,)) for dialog, some in dialogs.items()],
        lambda clip: speakers_pictures(clip.files[0], dialogs[clip.id], every, size, detector),
        folder,
        settings={"turns": spans, "recipe": seen_recipe(every, size, detector).to_dict()},
        what="IEMOCAP dialogs",
    )


def speakers_pictures(
    path: Path, turns: Sequence[Turn], every: float = EVERY, size: int = SIZE, detector: HaarFace | None = None
) -> dict[str, Array]:
    """Return ``(T, 3, size, size)`` pictures of the speaker of each turn: the middle of their half, or their face.

    A turn that begins after the end of the video has none, and is not there. With a detector ``TAKEN`` says how many
    pictures there are, and ``FACELESS`` how many of them show no face and are cut in the middle.

    Args:
        path: The video of a dialog.
        turns: Turns of the dialog.
        every: Seconds between two pictures, from the start of the turn on.
        size: Side of the pictures in pixels.
        detector: What finds the face in the speaker's half; without one the middle is cut out as it is.

    Raises:
        DataError: When the video cannot be decoded or is cut short, or, without a detector, a half of it is smaller
            than the pictures.
    """
    info = video_info(path)
    # Of an AVI file that was cut, the length that is read is that of the rest.
    if info.duration < (1 - CUT_SHARE) * info.frames / info.fps:
        raise DataError(
            f"{path} is cut short: of {info.frames / info.fps:.1f} seconds {info.duration:.1f} are there. Copy or "
            "unpack it again."
        )
    height, width = info.height, info.width // 2
    if detector is None and size > min(height, width):
        raise DataError(
            f"{path} shows each actor in {height} x {width} pixels, too few for pictures of {size}. Give a smaller "
            "size."
        )
    wanted = {}
    for turn in turns:
        seconds = min(turn.end, info.duration) - turn.start
        if seconds > CLOCK:
            wanted[turn.name] = turn.start + every * np.arange(np.ceil((seconds - CLOCK) / every))
    if not wanted:
        return {}
    top, inset, rows, columns = (height - size) // 2, (width - size) // 2, size, size
    if detector is not None:
        top, inset, rows, columns = 0, 0, height, width
    made: dict[str, Array] = {}
    faceless = 0
    most = min(AT_ONCE, TOO_LARGE // (3 * info.height * info.width))
    for some in _parts([turn for turn in turns if turn.name in wanted], wanted, most):
        times = np.unique(np.concatenate([wanted[turn.name] for turn in some]))
        shown = read_frames(path, _At(at=tuple(times)))
        for turn in some:
            left = inset + (width if turn.side == "right" else 0)
            places = np.searchsorted(times, wanted[turn.name])
            pictures = shown[places, :, top : top + rows, left : left + columns]
            if detector is not None:
                pictures, found = detector(pictures)
                faceless += int((~found).sum())
            made[turn.name] = pictures
        del shown  # or it would stay while the next part is read
    counts = {TAKEN: np.asarray(sum(map(len, made.values()))), FACELESS: np.asarray(faceless)}
    return made | (counts if detector else {})


def _parts(turns: Sequence[Turn], wanted: Mapping[str, Array], most: int) -> Iterator[list[Turn]]:
    """Yield turns in groups of so many pictures at most, or of one turn."""
    part: list[Turn] = []
    count = 0
    for turn in turns:
        if part and count + len(wanted[turn.name]) > most:
            yield part
            part, count = [], 0
        part.append(turn)
        count += len(wanted[turn.name])
    yield part
