"""Generated clips: frames, sound and words of which no single one tells the emotion.

A bright square moves up the left or the right half of the picture, and a tone is low or high; the two together make the
four emotions. So sight alone and sound alone are right in half of the cases, and a method that fuses them can always
be. Text says with a few vectors whether sight and sound are of one kind, rightly in seven of ten cases.

The bytes are the same on every machine, as those of :mod:`data_modules.datasets.synthetic.generator`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from data_modules.datasets.synthetic.dialogues import chance
from data_modules.datasets.synthetic.generator import SEED, check_amounts, directions, grid, made_by, near_normal
from data_modules.schema import TargetSpec
from data_modules.store import SPLITS, FeatureStore, Sample, StoreInfo, write_store

EMOTIONS = ("sad", "calm", "angry", "happy")
CLIPS = (96, 32, 64)
FRAME_RATE, SOUND_RATE = 8, 16_000
FRAMES = (6, 10)
SIZE = 48
SQUARE = 12
PITCHES = (400, 1600)
"""In Hz; both divide the rate of the sound, so that a period is a whole number of samples."""
DOUBT = 0.6
"""In so many cases text is drawn at random, so that it is right in 0.7 of all."""
WORDS, DIM = (3, 8), 8


def write_clips(path: str | os.PathLike[str], *, clips: tuple[int, int, int] = CLIPS, seed: int = SEED) -> FeatureStore:
    """Write generated clips of raw frames and sound, with text as vectors.

    Args:
        path: The store to make or replace.
        clips: Clips for training, validation and test, at least one each.
        seed: Decides every value, 0 or greater.

    Raises:
        DataError: For a negative seed, or a split without clips.
    """
    check_amounts(seed, clips, "clips")
    info = StoreInfo(
        dataset="synthetic_clips",
        feature_set="raw",
        target=TargetSpec("multiclass", EMOTIONS),
        sources=dict.fromkeys(("text", "audio", "vision"), f"generated, seed {seed}"),
        kinds={"audio": "waveform", "vision": "frames"},
        rates={"audio": SOUND_RATE, "vision": FRAME_RATE},
        notes=made_by(__name__, seed),
    )
    return write_store(path, info, _draw(clips, np.random.PCG64(seed)))


def _draw(clips: tuple[int, int, int], bits: np.random.PCG64) -> Iterator[Sample]:
    for split, count in zip(SPLITS, clips, strict=True):
        for number in range(count):
            right, high, random = (int(value) % 2 for value in bits.random_raw(3))
            frames = FRAMES[0] + int(bits.random_raw()) % (FRAMES[1] - FRAMES[0] + 1)
            alike = random if chance(DOUBT, 1, bits)[0] else int(right == high)
            inputs = {
                "text": _words(alike, bits),
                "audio": _sound(PITCHES[high], frames * SOUND_RATE // FRAME_RATE, bits),
                "vision": _frames(right, frames, bits),
            }
            yield Sample(f"{split}{number:03d}", inputs, 2 * high + right, split, f"{split}{number:03d}")


def _words(alike: int, bits: np.random.PCG64) -> np.ndarray:
    """Return ``(T, DIM)`` vectors that say one bit along the first direction."""
    parts = near_normal(WORDS[0] + int(bits.random_raw()) % (WORDS[1] - WORDS[0] + 1), DIM, bits)
    parts[:, 0] = parts[:, 0] / 4 + 2 * alike - 1
    return (grid(parts) @ directions(DIM)).astype(np.float32)


def _sound(pitch: int, samples: int, bits: np.random.PCG64) -> np.ndarray:
    """Return ``(samples,)`` int16: a triangle wave of one pitch in noise, louder or softer from clip to clip."""
    period = SOUND_RATE // pitch
    phase = (np.arange(samples) + int(bits.random_raw()) % period) % period
    wave = np.abs(4 * phase - 2 * period) - period  # from -period to period
    loudness = 2000 + int(bits.random_raw()) % 4000
    noise = (bits.random_raw(samples) % 1001).astype(np.int64) - 500
    return (wave * loudness // period + noise).astype(np.int16)


def _frames(right: int, frames: int, bits: np.random.PCG64) -> np.ndarray:
    """Return ``(frames, 3, SIZE, SIZE)`` uint8: dark noise, and a square of any colour that rises on one side."""
    images = (bits.random_raw(frames * 3 * SIZE * SIZE) % 60).astype(np.uint8).reshape(frames, 3, SIZE, SIZE)
    column = right * SIZE // 2 + int(bits.random_raw()) % (SIZE // 2 - SQUARE)
    start = int(bits.random_raw()) % (SIZE - SQUARE)
    colour = (140 + bits.random_raw(3) % 110).astype(np.uint8)
    for number in range(frames):
        row = (start - 3 * number) % (SIZE - SQUARE)
        images[number, :, row : row + SQUARE, column : column + SQUARE] = colour[:, None, None]
    return images
