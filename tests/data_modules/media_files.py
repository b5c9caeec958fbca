"""Small real media files for tests: mp4 by PyAV (H.264 and AAC), wav and flac by soundfile.

Every picture tells its place: red rises with time, a blue square marks the upper left corner, and green falls from left
to right, so that a test sees the wrong moment, the wrong order of colours, a mirror image or a crop.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Pictures = npt.NDArray[np.uint8]
LOW_RED, HIGH_RED = 20, 220


def red_at(time: float, seconds: float) -> float:
    """Return the red of the default pictures at a time; coding loses a few units of it."""
    return LOW_RED + (HIGH_RED - LOW_RED) * time / seconds


def pictures(frames: int, size: tuple[int, int] = (48, 64)) -> Pictures:
    """Return the default pictures, ``(frames, height, width, 3)``: picture ``i`` is that of the time ``i / frames``."""
    height, width = size
    made = np.zeros((frames, height, width, 3), np.uint8)
    made[..., 0] = np.linspace(LOW_RED, HIGH_RED, frames, endpoint=False)[:, None, None]
    made[..., 1] = np.linspace(200, 40, width)
    made[:, : height // 4, : width // 4] = (0, 0, 255)
    return made


def drawn_face(height: int, width: int, row: int, column: int, size: int) -> np.ndarray:
    """Return ``(3, height, width)`` with a face as a cascade knows it: bright, with dark eyes, brows and mouth."""
    y, x = np.mgrid[:height, :width].astype(float)
    y, x = (y - row) / size, (x - column) / size

    def oval(dy: float, dx: float, high: float, wide: float) -> np.ndarray:
        return np.clip(6 * (1.2 - ((y - dy) / high) ** 2 - ((x - dx) / wide) ** 2), 0, 1)

    grey = 70 + 120 * oval(0, 0, 0.62, 0.45)
    for side in (-1, 1):
        grey -= 60 * oval(-0.24, 0.19 * side, 0.03, 0.12)  # brow
        grey -= 60 * oval(-0.11, 0.19 * side, 0.08, 0.13)  # socket
        grey -= 60 * oval(-0.11, 0.19 * side, 0.03, 0.05)  # eye
        grey -= 40 * oval(0.14, 0.06 * side, 0.02, 0.03)  # nostril
        grey -= 10 * oval(0.05, 0.3 * side, 0.2, 0.08)  # cheek
    grey += 25 * oval(0.0, 0.0, 0.14, 0.04)  # bridge of the nose
    grey -= 70 * oval(0.30, 0.0, 0.04, 0.17)  # mouth
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[None], 3, axis=0)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Return white noise of a tenth of the full scale."""
    return np.random.default_rng(seed).normal(0, 0.1, samples)


def tone(
    seconds: float, rate: int = 48_000, channels: int = 1, hertz: float = 440.0, level: float = 0.25
) -> npt.NDArray[np.float32]:
    """Return ``(samples, channels)`` of a sine; the channels are alike but each half as loud as the one before."""
    samples = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return (samples[:, None] * 0.5 ** np.arange(channels)).astype(np.float32)


def make_wav(
    path: Path,
    seconds: float = 1.0,
    rate: int = 16_000,
    channels: int = 1,
    hertz: float = 440.0,
    level: float = 0.25,
) -> Path:
    """Write a sine to a sound file, 16 bit; the ending names the format (``.wav``, ``.flac``). Level 0 is silence."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, channels, hertz, level), rate, subtype="PCM_16")
    return path


def make_mp4(
    path: Path,
    seconds: float = 1.0,
    fps: float = 25.0,
    size: tuple[int, int] = (48, 64),
    sound: bool | Literal["silent"] = True,
    *,
    frames: Pictures | None = None,
    rate: int = 48_000,
    channels: int = 1,
    hertz: float = 440.0,
    level: float = 0.25,
    sound_seconds: float | None = None,
    picture: bool = True,
    faststart: bool = False,
    turn: int = 0,
) -> Path:
    """Write a video of ``round(seconds * fps)`` pictures with a sine as its sound.

    Args:
        path: The file; folders above it are made.
        seconds: Length.
        fps: Pictures per second.
        size: Height and width in pixels, both even.
        sound: Whether there is a sound track; ``silent`` for one of zeros.
        frames: ``(T, height, width, 3)`` RGB pictures instead of the default ones; size and length follow from them.
        rate: Sampling rate of the sound in Hz.
        channels: Channels of the sound.
        hertz: Pitch of the sound.
        level: Amplitude of the sound.
        sound_seconds: Length of the sound, when it is not that of the pictures.
        picture: Whether there is a video track.
        faststart: Put the index in front, so that a file that is cut short (see :func:`cut_file`) can be opened.
        turn: Degrees by which a player is told to turn the pictures counterclockwise.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    shown = pictures(round(seconds * fps), size) if frames is None else frames
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        video = speech = None
        if picture:
            video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            video.height, video.width, video.pix_fmt = shown.shape[1], shown.shape[2], "yuv420p"
            video.options = {"crf": "8", "preset": "ultrafast"}
            if turn:
                video.set_display_rotation(turn)
        if sound:
            speech = container.add_stream("aac", rate=rate, layout="mono" if channels == 1 else "stereo")
        if video:
            for image in shown:
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            container.mux(video.encode())
        if speech:
            length = len(shown) / fps if sound_seconds is None else sound_seconds
            samples = tone(length, rate, channels, hertz, 0.0 if sound == "silent" else level)
            # An encoder takes pieces of its own length only; the last may be shorter.
            for start in range(0, len(samples), 1024):
                piece = np.ascontiguousarray(samples[start : start + 1024].T)
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=speech.layout.name)
                frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
                container.mux(speech.encode(frame))
            container.mux(speech.encode())
    return path


def cut_file(path: Path, share: float = 0.5) -> Path:
    """Keep only the first part of a file, as a broken download leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: math.ceil(share * len(content))])
    return path
