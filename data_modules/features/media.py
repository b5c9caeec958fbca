"""Clips on disk to pictures and sound: what PyAV decodes, each clip once, both in one pass.

Needs the extra ``media`` (av, soundfile, librosa). Pictures are ``(T, 3, H, W)`` RGB bytes as they are shown (the
rotation that phones write is carried out), sound is mono. Times are in seconds from the first picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import from_numpy
from torch.nn.functional import interpolate

from data_modules.features.audio import Floats, NoSoundError, check_rate, check_sound, load_audio, to_mono
from data_modules.features.sampling import CLOCK, Sampling, VideoInfo
from data_modules.libraries import optional_library
from data_modules.schema import DataError

SOUND_ENDINGS = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".au")
"""What libsndfile reads; other files are opened by PyAV."""
GUESSED = ("aac", "ac3", "amr", "eac3", "mp3")
"""Formats without a header: what is said of their length is a guess by the bit rate."""
TOO_LARGE = 1 << 30
"""Bytes of pictures that one clip may take in memory."""
AT_ONCE = 1 << 22
"""Samples of sound that are decoded between two looks at how much memory they take."""
CUT_SHARE, CUT_PICTURES = 0.05, 2  # a file may end this much before its header says; players do not mind either

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Media:
    """A decoded clip.

    Attributes:
        pictures: ``(T, 3, H, W)`` RGB; None when not asked for.
        times: ``(T,)`` when each is taken, in seconds.
        info: What the header says of the pictures; None when not asked for.
        sound: ``(samples,)`` mono; None when not asked for.
    """

    pictures: Pictures | None
    times: npt.NDArray[np.float64]
    info: VideoInfo | None
    sound: Floats | None


def video_info(path: Path) -> VideoInfo:
    """Return what the header of a video says, without decoding more than the first picture.

    Raises:
        DataError: When it cannot be opened, or has no picture.
    """
    with _opened(path) as container:
        stream = _picture_stream(path, container)
        first = next(container.decode(stream), None)
        if first is None:
            raise DataError(f"{path} has a video track of zero length. Copy or unpack it again.")
        return _info(path, container, stream, first.rotation)


def resize(pictures: Pictures, size: tuple[int, int]) -> Pictures:
    """Squash ``(T, 3, H, W)`` pictures to a height and width (bilinear, with smoothing where they become smaller)."""
    if pictures.shape[2:] == size or not len(pictures):
        return pictures
    made = interpolate(from_numpy(np.ascontiguousarray(pictures)), size, mode="bilinear", antialias=True)
    return np.asarray(made.numpy())


def read_media(
    path: Path,
    *,
    sampling: Sampling | None = None,
    size: tuple[int, int] | None = None,
    shrink: Callable[[Pictures, tuple[int, int]], Pictures] = resize,
    rate: int = 0,
) -> Media:
    """Decode a clip once, from its beginning to its end.

    Args:
        path: A video, or a file of sound when only sound is wanted.
        sampling: Which pictures are taken; None for none.
        size: Height and width of the pictures, whatever that does to their proportions; None leaves them as they are.
        shrink: Brings one decoded picture ``(1, 3, H, W)`` to the size, when there is one; no larger one is kept.
        rate: Samples per second of the sound; 0 for none.

    Raises:
        DataError: When it cannot be decoded, is cut short, has no pictures or too many; a :class:`NoSoundError` when
            sound is wanted and there is none.
    """
    if not (sampling or rate):
        raise DataError(f"Neither pictures nor sound of {path} are asked for. Ask for one of them.")
    picker: _Picker | None = None
    with _opened(path) as container:
        stream = _picture_stream(path, container) if sampling else None
        sound = _Sound(path, _sound_stream(path, container), container.format.name) if rate else None
        for frame in container.decode([one for one in (stream, sound and sound.stream) if one]):
            if sound and isinstance(frame, sound.frame_type):
                sound.add(frame)
            elif sampling:
                # Only a decoded picture knows its rotation, and so the size of what is shown.
                if picker is None:
                    info = _info(path, container, stream, frame.rotation)
                    picker = _Picker(path, info, sampling, size, shrink, stream)
                picker.add(frame)
        if sampling and picker is None:
            raise DataError(f"{path} has a video track of zero length. Copy or unpack it again.")
        # Before the file is closed: what its header says is gone with it.
        pictures, times = picker.finish() if picker else (None, np.zeros(0))
        return Media(pictures, times, picker.info if picker else None, sound.finish(rate) if sound else None)


def read_frames(path: Path, sampling: Sampling, size: tuple[int, int] | None = None) -> Pictures:
    """Return pictures of a video as ``(T, 3, H, W)``; see :func:`read_media`."""
    pictures = read_media(path, sampling=sampling, size=size).pictures
    assert pictures is not None
    return pictures


def read_sound(path: Path, rate: int) -> Floats:
    """Return the sound of a video or of a file of sound as ``(samples,)`` mono.

    Raises:
        DataError: When it cannot be decoded or is cut short; a :class:`NoSoundError` when there is no sound.
    """
    if path.suffix.lower() in SOUND_ENDINGS:
        return load_audio(path, rate)
    sound = read_media(path, rate=rate).sound
    assert sound is not None
    return sound


class _Sound:
    """Collects the sound of a clip as it is decoded."""

    def __init__(self, path: Path, stream: Any, container: str) -> None:
        self.path, self.stream = path, stream
        known = stream.duration and container not in GUESSED
        self._length = float(stream.duration * stream.time_base) if known else 0.0
        self.rate = check_rate(path, stream.rate)
        check_sound(path, round(self._length * self.rate), self.rate, self.rate)
        self._av = optional_library("av", "Video")
        self.frame_type = self._av.AudioFrame
        self._form: tuple[Any, ...] = ()
        self._resampler: Any = None
        self._pieces: list[Floats] = []
        self._samples = self._checked = 0

    def add(self, frame: Any) -> None:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:  # a track may change its own on the way, and a resampler takes one
            self._take(None)
            self._form, self._resampler = form, self._av.AudioResampler("fltp", rate=self.rate)
        self._take(frame)

    def _take(self, frame: Any) -> None:
        """Take a frame, or with None what is left over, as the mean of its channels."""
        if self._resampler:
            new = [piece.to_ndarray().mean(axis=0) for piece in self._resampler.resample(frame)]
            self._pieces += new
            self._samples += sum(map(len, new))
            if self._samples > self._checked:  # now and then: more may come than the header says
                check_sound(self.path, self._samples, self.rate, self.rate)
                self._checked = self._samples + AT_ONCE

    def finish(self, rate: int) -> Floats:
        self._take(None)
        samples = np.concatenate(self._pieces)[:, None] if self._pieces else np.zeros((0, 1), np.float32)
        if len(samples) < (1 - CUT_SHARE) * self._length * self.rate:
            raise DataError(
                f"{self.path} is cut short: its sound ends before its header says. Copy or unpack it again."
            )
        return to_mono(self.path, samples, self.rate, rate)


class _Picker:
    """Takes the wanted pictures of a clip as it is decoded: at a time, the last one that began before it."""

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        sampling: Sampling,
        size: tuple[int, int] | None,
        shrink: Callable[[Pictures, tuple[int, int]], Pictures],
        stream: Any,
    ) -> None:
        self.path, self.info, self.size, self._shrink = path, info, size, shrink
        self._refuse_many(sampling.number(info.duration, info.frames), *(size or (info.height, info.width)))
        self.times = sampling.times(info.duration)
        # Where only the container says its length, the sound may be what is longer.
        self._length = info.duration if stream.duration else 0.0
        self._taken: list[Pictures] = []
        self._seen: list[float] = []
        self._start: float | None = None
        self._last: Any = None

    def _refuse_many(self, count: int, height: int, width: int) -> None:
        if count * height * width * 3 > TOO_LARGE:
            raise DataError(
                f"{self.path} would give {count} pictures of {height} x {width}, above {TOO_LARGE >> 30} GiB. Take "
                "fewer (a number of them, or one every so many seconds), "
                + ("take them smaller" if self.size else "do without finding faces, which takes them whole")
                + ", or cut the video into clips."
            )

    def add(self, frame: Any) -> None:
        now = len(self._seen) / self.info.fps if frame.time is None else float(frame.time)
        self._start = now if self._start is None else self._start
        now -= self._start
        if self.times is None:
            self._taken.append(self._pixels(frame))
            self._refuse_many(len(self._taken), *self._taken[-1].shape[1:])  # more may come than the header says
        elif self._last is not None:
            self._take_until(now - CLOCK)
        self._seen.append(now)
        self._last = frame

    def _take_until(self, end: float) -> None:
        """Take the last picture for every wanted time before the end."""
        assert self.times is not None
        here = int(np.searchsorted(self.times, end, side="left")) - len(self._taken)
        if here > 0:
            self._taken += [self._pixels(self._last)] * here

    def _pixels(self, frame: Any) -> Pictures:
        shown = np.rot90(frame.to_ndarray(format="rgb24"), k=_quarters(frame.rotation))
        pixels = np.ascontiguousarray(shown.transpose(2, 0, 1))
        return self._shrink(pixels[None], self.size)[0] if self.size else pixels

    def finish(self) -> tuple[Pictures, npt.NDArray[np.float64]]:
        end, step = self._seen[-1], 1 / self.info.fps
        if end + step < self._length - max(CUT_SHARE * self._length, CUT_PICTURES * step):
            raise DataError(
                f"{self.path} is cut short: its pictures end after {end + step:.2f} of {self._length:.2f} seconds. "
                "Copy or unpack it again."
            )
        if self.times is not None:
            self._take_until(float("inf"))
        if len(sizes := {pixels.shape for pixels in self._taken}) > 1:
            raise DataError(f"{self.path} has pictures of {len(sizes)} sizes. Convert it to one, for example to mp4.")
        return np.stack(self._taken), np.asarray(self._seen) if self.times is None else self.times


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    av = optional_library("av", "Video")
    if not path.is_file():
        raise DataError(f"There is no file at {path}.")
    try:
        # Titles and the like are not read here; old files have them in whatever encoding.
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except DataError:
        raise
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror}). Copy or unpack it again.") from error
    except (ValueError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        # Whatever comes of a header that makes no sense.
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path} cannot be decoded ({what}). Copy or unpack it again.") from error


def _picture_stream(path: Path, container: Any) -> Any:
    # Files of sound may carry the picture of a cover.
    cover = optional_library("av.stream", "Video").Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise DataError(f"{path} has no video track. Give a video, or ask for its sound only.")
    stream = _decodable(path, streams[0])
    stream.thread_type = "AUTO"
    return stream


def _sound_stream(path: Path, container: Any) -> Any:
    if not container.streams.audio:
        raise NoSoundError(f"{path} has no sound track. Give a video with sound, or ask for its pictures only.")
    return _decodable(path, container.streams.audio[0])


def _decodable(path: Path, stream: Any) -> Any:
    if stream.codec_context is None:
        raise DataError(
            f"{path} has a track of {stream.type} that nothing here decodes. Convert it, for example to mp4."
        )
    return stream


def _info(path: Path, container: Any, stream: Any, rotation: int) -> VideoInfo:
    fps = float(stream.average_rate or stream.guessed_rate or 0)
    micro = optional_library("av", "Video").time_base
    duration = float(stream.duration * stream.time_base if stream.duration else (container.duration or 0) / micro)
    if fps <= 0 or duration <= 0:
        raise DataError(
            f"{path} does not say how long it is or how many pictures a second has. Convert it, for example to mp4."
        )
    shown = (stream.width, stream.height) if _quarters(rotation) % 2 else (stream.height, stream.width)
    return VideoInfo(fps, stream.frames or round(duration * fps), duration, *shown)


def _quarters(rotation: int) -> int:
    """Return the counterclockwise quarter turns that show a picture upright."""
    return round(rotation / 90) % 4
