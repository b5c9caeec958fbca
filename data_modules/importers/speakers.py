"""Folds by speaker: nobody is in two parts of one fold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError
from data_modules.store import SPLITS, UNUSED


@dataclass(frozen=True)
class Fold:
    """One partition of the speakers; speakers in no part are unused."""

    train: tuple[int, ...]
    valid: tuple[int, ...]
    test: tuple[int, ...]


def cyclic_folds(actors: Sequence[int], blocks: Sequence[Sequence[int]]) -> tuple[Fold, ...]:
    """Return one fold per block: the block tests, the next one (cyclic) validates, all other actors train."""
    folds = []
    for place, test in enumerate(blocks):
        valid = blocks[(place + 1) % len(blocks)]
        train = tuple(actor for actor in actors if actor not in test and actor not in valid)
        folds.append(Fold(train, tuple(valid), tuple(test)))
    return tuple(folds)


def consecutive_blocks(actors: Sequence[int], folds: int) -> tuple[tuple[int, ...], ...]:
    """Cut sorted actors into blocks of ``len(actors) // folds``; what does not fill a block is in none."""
    ordered, size = sorted(actors), len(actors) // folds
    return tuple(tuple(ordered[place * size : (place + 1) * size]) for place in range(folds))


def speaker_table(fold: Fold, speakers: Collection[int]) -> npt.NDArray[np.int8]:
    """Return the split of each sample, in the codes of a store, from the speaker of each sample.

    Raises:
        DataError: When a speaker is in two parts of the fold.
    """
    codes: dict[int, int] = {}
    for code, name in enumerate(SPLITS):
        for speaker in getattr(fold, name):
            if codes.setdefault(speaker, code) != code:
                raise DataError(f"Speaker {speaker} is in the parts {SPLITS[codes[speaker]]} and {name} of one fold.")
    return np.asarray([codes.get(speaker, UNUSED) for speaker in speakers], np.int8)
