"""How far the mean of a row would move with other seeds and with other groups of test items.

Three parts. The *seeds'* variance has a floor from all rows of a table, because a variance of three values has two
degrees of freedom and some of many rows always looks exact by luck. The *items'* variance is one over groups; groups of
unequal size count as fewer. Variation of a seed with a group is in both; the *interaction* counts it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mmbench.report.inference.scores import RowScores, check_comparable

FEWEST_TO_POOL = 5
"""Rows of random seeds from which on their variances give each other a floor."""

_ROUNDS = 3
"""Rounds of the fit of rows and groups: more change it by some percent, and let a row of a single group decide."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A row with what the other rows of its table tell of its variances.

    Attributes:
        scores: Values and deviations of the row.
        seed_variance: Variance of the mean over seeds; None where it is not known (one seed that is not deterministic).
        seed_freedom: Its degrees of freedom; infinite for a variance that is known to be 0.
        item_freedom: Degrees of freedom of a variance over groups; infinite where a single group leaves none.
    """

    scores: RowScores
    seed_variance: float | None
    seed_freedom: float
    item_freedom: float

    @property
    def deviations(self) -> npt.NDArray[np.float64]:
        """``(G,)`` the influence of each group on the row's mean."""
        return np.asarray(self.scores.deviations.mean(0))


def estimates(rows: Sequence[RowScores]) -> list[Estimate]:
    """Return the rows of a table with their variances over seeds and their degrees of freedom, in the given order.

    The variance of a mean over seeds is ``max(s^2, m) / n`` with ``n + 2`` degrees of freedom, where ``s^2``
    (``ddof=1``) is the row's own variance and ``m`` the median over rows of ``s^2`` over the median of
    ``chi^2_{n-1} / (n - 1)``, which is below 1. Deterministic rows have 0 and do not count in ``m``. With fewer than
    :data:`FEWEST_TO_POOL` rows that count, each has its own variance with ``n - 1`` degrees of freedom.

    Args:
        rows: All rows of the table, of any number of seeds each.

    Raises:
        InferenceError: When rows were tested on different items.
    """
    check_comparable(rows)
    own = [float(row.values.var(ddof=1)) if row.n > 1 and np.ptp(row.values) else 0.0 for row in rows]
    counted = [
        variance / (stats.chi2.median(row.n - 1) / (row.n - 1))
        for row, variance in zip(rows, own, strict=True)
        if row.n > 1 and not row.deterministic
    ]
    pooled = len(counted) >= FEWEST_TO_POOL
    floor = float(np.median(counted)) if pooled else 0.0
    of_items = effective_groups(rows) - 1 or np.inf
    found = []
    for row, variance in zip(rows, own, strict=True):
        if row.deterministic:
            found.append(Estimate(row, 0.0, np.inf, of_items))
        elif row.n == 1:
            found.append(Estimate(row, None, np.inf, of_items))
        else:
            of_seeds = row.n + 2 if pooled else row.n - 1
            found.append(Estimate(row, max(variance, floor) / row.n, of_seeds, of_items))
    return found


def effective_groups(rows: Sequence[RowScores]) -> float:
    """Return as how many equal groups the groups of some rows count in a variance over groups, from 2 to their number.

    ``(sum_g v_g)^2 / sum_g v_g^2``, v_g the variance of group g: large groups, and those on which methods differ most,
    decide. The squared deviation of row r in group g from the median row is taken to be ``u_r v_g`` times that of a
    normal number, and both are fitted in turn: a row that differs much from the others decides no more than they. The
    squares of v_g are reduced by what they owe to the number of rows. Where nothing is known, every group counts.
    """
    groups = rows[0].groups if rows else 1
    if groups < 2:
        return groups
    deviations = np.stack([row.deviations.mean(0) for row in rows])
    squares = (deviations - np.median(deviations, axis=0)) ** 2
    squares = squares[squares.sum(1) > 0]
    contrasts = len(squares) - 1
    if contrasts < 1:
        return groups
    squares = squares[:, squares.sum(0) > 0]
    of_group = np.ones(squares.shape[1])
    for _ in range(_ROUNDS):
        of_row = (squares / of_group).mean(1, keepdims=True)
        of_group = (squares / of_row).mean(0)
    return float(np.clip((1 + 2 / contrasts) * of_group.sum() ** 2 / (of_group**2).sum(), 2, groups))


def interaction(row: RowScores) -> float:
    """Return the part of a row's variance that is in its seeds' and in its items' variance.

    ``sum_s sum_g (d_sg - mean_s d_sg)^2 / (n (n - 1))`` of the deviations d. It is 0 with folds, where the double count
    is kept: the luck of a method with the groups that trained a fold is shared by all its seeds, and no deviation
    shows it.
    """
    if row.folds > 1 or row.n == 1:
        return 0.0
    centred = row.deviations - row.deviations.mean(0)
    return float((centred**2).sum()) / (row.n * (row.n - 1))


def freedom(
    total: npt.ArrayLike, parts: Sequence[npt.ArrayLike], of_parts: Sequence[npt.ArrayLike]
) -> npt.NDArray[np.float64]:
    """Return the degrees of freedom of a variance that is made of independent ones, infinite where these are 0.

    ``total^2 / sum(v^2 / f)``; F. E. Satterthwaite, Biometrics Bulletin 2 (1946) 110-114. Where something is subtracted
    from a part, the total is smaller than the sum of parts, and what is left is less certain.

    Args:
        total: The variance.
        parts: Variances v, each an array of the same shape.
        of_parts: Degrees of freedom f of each.
    """
    whole = np.asarray(total, dtype=float)
    # Shares and not squares of variances: those of tiny values would vanish.
    shares = [np.asarray(v, dtype=float) / np.where(whole > 0, whole, 1.0) for v in parts]
    share = np.sum([one**2 / np.asarray(f, dtype=float) for one, f in zip(shares, of_parts, strict=True)], axis=0)
    known = (whole > 0) & (share > 0)
    return np.where(known, 1 / np.where(known, share, 1.0), np.inf)
