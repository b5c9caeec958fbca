"""Split protocols by speaker: who trains, who validates, who tests.

RAVDESS has 24 actors, and all published protocols worth comparing hold out actors. Where a protocol names test actors
only (its authors chose the epoch on the actors that they report), validation is the test actors of the next fold,
cyclic, and leaves the training part.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError
from data_modules.store import SPLITS, UNUSED

RAVDESS_ACTORS = tuple(range(1, 25))
# Luna-Jimenez et al. 2022, the five subject-wise folds of their repository.
LUNA5 = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
# Chumachenko et al. 2022, the actors behind their published models.
CHUMACHENKO_TEST, CHUMACHENKO_VALID = (5, 10, 16, 19), (11, 13, 18, 22)


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


# By protocol, in the order in which they are offered:
# - luna5: five folds of 5, 5, 5, 5 and 4 actors;
# - msaf6: six blocks of four consecutive actors (MSAF);
# - cfnsr5: five such blocks; actors 21 to 24 always train (CFN-SR);
# - chumachenko: one fold, with the authors' own validation actors.
RAVDESS_PROTOCOLS: dict[str, tuple[Fold, ...]] = {
    "luna5": cyclic_folds(RAVDESS_ACTORS, LUNA5),
    "msaf6": cyclic_folds(RAVDESS_ACTORS, consecutive_blocks(RAVDESS_ACTORS, 6)),
    "cfnsr5": cyclic_folds(RAVDESS_ACTORS, consecutive_blocks(RAVDESS_ACTORS, 5)),
    "chumachenko": (
        Fold(
            tuple(actor for actor in RAVDESS_ACTORS if actor not in (*CHUMACHENKO_TEST, *CHUMACHENKO_VALID)),
            CHUMACHENKO_VALID,
            CHUMACHENKO_TEST,
        ),
    ),
}


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
