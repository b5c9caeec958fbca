"""Generated dialogues: what one utterance says of its emotion is doubtful, and its neighbours help.

The emotion of a dialogue stays from one utterance to the next, or shifts (one time in four, to any of the four). Each
modality names the emotion of an utterance rightly, or, in :data:`DOUBT` of the cases, any of the four at random. So one
modality alone is right in 0.6 to 0.7 of the cases, all three together more often, and a method that looks at the
neighbours of an utterance gains again.

The bytes are the same on every machine, as those of :mod:`data_modules.datasets.synthetic.generator`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from data_modules.datasets.synthetic.generator import SEED, check_amounts, directions, grid, made_by, near_normal
from data_modules.schema import MODALITIES, TargetSpec
from data_modules.store import SPLITS, FeatureStore, Sample, StoreInfo, write_store

EMOTIONS = ("happy", "sad", "neutral", "angry")
DIMS = {"text": 16, "audio": 8, "vision": 12}
DOUBT = {"text": 0.4, "audio": 0.5, "vision": 0.5}
SHIFT = 0.25
UTTERANCES = (4, 12)
DIALOGUES = (80, 20, 40)


def write_dialogues(
    path: str | os.PathLike[str], *, dialogues: tuple[int, int, int] = DIALOGUES, seed: int = SEED
) -> FeatureStore:
    """Write generated dialogues of two speakers, one vector per utterance and modality.

    Args:
        path: The store to make or replace.
        dialogues: Dialogues for training, validation and test, at least one each.
        seed: Decides every value, 0 or greater.

    Raises:
        DataError: For a negative seed, or a split without dialogues.
    """
    check_amounts(seed, dialogues, "dialogues")
    info = StoreInfo(
        dataset="synthetic_dialogues",
        feature_set="multiclass",
        target=TargetSpec("multiclass", EMOTIONS),
        sources=dict.fromkeys(MODALITIES, f"generated, seed {seed}"),
        aligned=True,
        notes=made_by(__name__, seed),
    )
    return write_store(path, info, _draw(dialogues, np.random.PCG64(seed)))


def chance(probability: float, count: int, bits: np.random.PCG64) -> np.ndarray:
    """Return ``(count,)`` bool, true with a probability that is a multiple of 1/1000."""
    return bits.random_raw(count) % 1000 < round(1000 * probability)


def _draw(dialogues: tuple[int, int, int], bits: np.random.PCG64) -> Iterator[Sample]:
    for split, count in zip(SPLITS, dialogues, strict=True):
        for number in range(count):
            shortest, longest = UTTERANCES
            length = shortest + int(bits.random_raw()) % (longest - shortest + 1)
            shifts, fresh = chance(SHIFT, length, bits), bits.random_raw(length) % len(EMOTIONS)
            shifts[0] = True
            emotion = fresh[np.maximum.accumulate(np.where(shifts, np.arange(length), 0))]
            inputs = {name: _vectors(name, emotion, bits) for name in MODALITIES}
            name = f"{split}{number:02d}"
            for turn in range(length):
                vectors = {modality: values[turn : turn + 1] for modality, values in inputs.items()}
                yield Sample(f"{name}[{turn}]", vectors, int(emotion[turn]), split, name, "FM"[turn % 2])


def _vectors(name: str, emotion: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    """Return ``(utterances, D)`` what one modality says of each emotion."""
    said = np.where(chance(DOUBT[name], len(emotion), bits), bits.random_raw(len(emotion)) % len(EMOTIONS), emotion)
    parts = near_normal(len(emotion), DIMS[name], bits)
    parts[:, : len(EMOTIONS)] = parts[:, : len(EMOTIONS)] / 4 + 2 * (said[:, None] == np.arange(len(EMOTIONS)))
    return (grid(parts) @ directions(DIMS[name])).astype(np.float32)
