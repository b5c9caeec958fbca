"""The split protocols of RAVDESS, by actor: who trains, who validates, who tests.

RAVDESS has 24 actors, and all published protocols worth comparing hold out actors. Where a protocol names test actors
only (its authors chose the epoch on the actors that they report), validation is the test actors of the next fold,
cyclic, and leaves the training part.
"""

from __future__ import annotations

from data_modules.importers.speakers import Fold, consecutive_blocks, cyclic_folds

RAVDESS_ACTORS = tuple(range(1, 25))
# Luna-Jimenez et al. 2022, the five subject-wise folds of their repository.
LUNA5 = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
# Chumachenko et al. 2022, the actors behind their published models.
CHUMACHENKO_TEST, CHUMACHENKO_VALID = (5, 10, 16, 19), (11, 13, 18, 22)

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
