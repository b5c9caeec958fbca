"""What inference knows of a row: a value per seed, and what each group of test items adds to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class InferenceError(ValueError):
    """Rows cannot be judged or compared; the message says which, why and what to do."""


@dataclass(frozen=True, eq=False)
class RowScores:
    """The values of one metric of one row, by seed, and their influences, by seed and group of test items.

    Attributes:
        label: Name of the row.
        values: ``(n,)`` value of each seed over all its test items, in units of the metric.
        deviations: ``(n, G)`` influence of each group on the value of a seed, in units of the metric and scaled such
            that ``sum_g (mean_s deviations[s, g])**2`` estimates the variance of the row's mean over groups. Groups
            are in the same order for all rows.
        deterministic: Whether another seed would give the same predictions, so that seeds have no variance.
        folds: Number of folds that tested the items.
        items: What was tested, as a digest; rows are compared only where it is the same.
    """

    label: str
    values: Array
    deviations: Array
    deterministic: bool = False
    folds: int = 1
    items: str = ""

    def __post_init__(self) -> None:
        """Check the shapes and the numbers.

        Raises:
            InferenceError: When they do not fit; the message names the row.
        """
        if self.values.ndim != 1 or not len(self.values):
            raise InferenceError(f"{self.label}: expected values (n,) of at least one seed, got {self.values.shape}")
        if self.deviations.ndim != 2 or len(self.deviations) != self.n or not self.groups:
            raise InferenceError(
                f"{self.label}: expected deviations ({self.n}, G) of at least one group, got {self.deviations.shape}"
            )
        if not (np.isfinite(self.values).all() and np.isfinite(self.deviations).all()):
            raise InferenceError(
                f"{self.label}: a value or a deviation is not finite; show the row without an interval and leave it "
                "out of comparisons"
            )
        if self.deterministic and np.ptp(self.values):
            raise InferenceError(f"{self.label} is said to be deterministic, but its seeds have different values")

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def groups(self) -> int:
        """Number of groups G."""
        return self.deviations.shape[1]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(self.values.mean())


def check_comparable(rows: Sequence[RowScores]) -> None:
    """Require that rows were tested on the same items, in the same groups and folds.

    Raises:
        InferenceError: When some were not; the message names those that differ from most rows.
    """
    tested = [(row.items, row.groups, row.folds) for row in rows]
    usual = Counter(tested).most_common(1)[0][0] if rows else None
    if others := [row.label for row, what in zip(rows, tested, strict=True) if what != usual]:
        same = next(row.label for row, what in zip(rows, tested, strict=True) if what == usual)
        raise InferenceError(
            f"{', '.join(others)}: other test items, groups or folds than {same}; a difference of rows is one on the "
            "same items. Leave them out of the comparison, or run them again on the same data and split."
        )
