"""Which of many rows are shown better than which, at one level for all pairs at once.

The largest of many differences is large by luck. Each ``|t|`` is therefore turned into the ``|z|`` of the same p on its
degrees of freedom and compared with the largest ``|z|`` of all pairs in draws from the joint distribution of rows that
do not differ, which knows that pairs share rows and that rows share items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mmbench.report.inference.intervals import Differences, differences
from mmbench.report.inference.scores import check_comparable
from mmbench.report.inference.variance import Estimate
from mmbench.report.statistics import LEVEL

DRAWS = 100_000
"""Draws of the largest difference; their own error moves a p-value of .05 by about .0007."""

POWER = 0.8
"""Probability with which the smallest detectable difference is shown."""

_SEED = 20240613
_BLOCK = 1000
"""Draws held at a time: 26 rows have 676 ordered pairs."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What all pairs of a table's rows show; K rows in the given order.

    Rows without a known seed variance take no part: they are better than none, in no set, and have no rank.

    Attributes:
        better: ``(K, K)`` whether the row is shown better than the column.
        p: ``(K, K)`` two-sided p-values of the differences, adjusted for all pairs; 1 where there is no comparison.
        ranks: Lowest and highest rank of each row; all of them hold at once with a probability of 95 %.
        best: ``(K,)`` whether a row is in the set of the best: those not shown worse than any other.
        detectable: The true difference that a pair of median standard error shows with a probability of
            :data:`POWER` even if no other pair differs; None with fewer than two rows.
        groups: Whether the comparison knows new groups of items; with a single group it knows new seeds alone.
    """

    better: npt.NDArray[np.bool_]
    p: Array
    ranks: list[tuple[int, int] | None]
    best: npt.NDArray[np.bool_]
    detectable: float | None
    groups: bool


def compare_all(rows: Sequence[Estimate], higher_is_better: bool, draws: int = DRAWS) -> Comparison:
    """Return what all pairs of rows show at a level of 5 % for all of them together.

    Step-down as in Romano and Wolf (Journal of the American Statistical Association 100 (2005) 94-108): a pair is held
    against the largest of those pairs only that are not more significant than it. Rank intervals follow from the pairs:
    ``[1 + rows shown better, K - rows shown worse]`` (Mogstad, Romano, Shaikh and Wilhelm, Review of Economic Studies
    91 (2024) 476-518). The set of the best holds the rows that no other row beats in a one-sided test of the largest of
    the ``K - 1`` differences to it.

    Args:
        rows: All rows of a table, at least one.
        higher_is_better: Direction of the metric.
        draws: Number of draws.

    Raises:
        InferenceError: When rows were tested on different items.
    """
    check_comparable([row.scores for row in rows])
    known = [number for number, row in enumerate(rows) if row.seed_variance is not None]
    count, taking_part = len(rows), [rows[number] for number in known]
    better, p = np.zeros((count, count), dtype=bool), np.ones((count, count))
    best, groups = np.zeros(count, dtype=bool), rows[0].scores.groups > 1
    ranks: list[tuple[int, int] | None] = [None] * count
    if not known:
        return Comparison(better, p, ranks, best, None, groups)
    found = differences(taking_part)
    z = _as_normal(found) if higher_is_better else -_as_normal(found)
    of_pairs, of_best, critical = _against_largest(z, _covariance(taking_part), draws)
    place = np.ix_(known, known)
    p[place] = of_pairs
    better[place] = (of_pairs <= 1 - LEVEL) & (z > 0)
    best[known] = of_best > 1 - LEVEL
    for number in known:
        ranks[number] = (1 + int(better[:, number].sum()), len(known) - int(better[number].sum()))
    return Comparison(better, p, ranks, best, _detectable(found, critical), groups)


def _as_normal(found: Differences) -> Array:
    """Return ``(K, K)`` the normal quantile of each t; 0 for no difference, infinite for a certain one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(found.estimate == 0, 0.0, np.abs(found.estimate) / found.error)
    return np.sign(found.estimate) * stats.norm.isf(stats.t.sf(t, found.freedom))


def _covariance(rows: Sequence[Estimate]) -> Array:
    """Return ``(K, K)`` the covariance of the rows' means: of a normal draw per group, and of one per row for seeds.

    Correlations over few groups are large by luck, and rows that seem to go together have a smaller largest difference.
    They are reduced by the share of their squares that luck explains (Schaefer and Strimmer, Statistical Applications
    in Genetics and Molecular Biology 4 (2005) article 32).
    """
    deviations = np.stack([row.deviations for row in rows])
    # What all rows have in common cancels in every difference; without it, small differences keep their digits.
    deviations = deviations - deviations.mean(0)
    items = deviations @ deviations.T
    size = np.sqrt(np.diag(items))
    apart = ~np.eye(len(rows), dtype=bool)
    scale = np.outer(size, size)
    correlation = np.divide(items, scale, out=np.zeros_like(items), where=apart & (scale > 0))
    luck = ((1 - correlation[apart] ** 2) ** 2).sum() / rows[0].item_freedom
    kept = 1 - min(luck / max(float((correlation**2).sum()), luck, 1e-300), 1)
    return np.where(apart, kept * items, items) + np.diag([row.seed_variance or 0.0 for row in rows])


def _against_largest(z: Array, covariance: Array, draws: int) -> tuple[Array, Array, float]:
    """Return step-down p-values of all pairs ``(K, K)``, of being the best ``(K,)``, and the first critical value.

    Args:
        z: ``(K, K)`` by how much the row is better than the column.
        covariance: ``(K, K)`` of the rows' means.
        draws: Number of draws.
    """
    count = len(z)
    first, second = np.triu_indices(count, 1)
    rising = np.abs(z[first, second]).argsort(kind="stable")
    first, second = first[rising], second[rising]
    size = np.abs(z[first, second])
    others = [(np.flatnonzero(first == row), np.flatnonzero(second == row)) for row in range(count)]
    beaten_by = np.where(np.eye(count, dtype=bool), -np.inf, z).max(0)
    contrasts = _contrasts(covariance, first, second)
    random = np.random.RandomState(_SEED)  # its stream is promised across versions of numpy
    exceeding, beaten, largest = np.zeros(len(size)), np.zeros(count), []
    for start in range(0, draws, _BLOCK) if count > 1 else ():
        drawn = contrasts @ random.standard_normal((min(_BLOCK, draws - start), count)).T
        for row, (is_first, is_second) in enumerate(others):
            most = np.maximum(-drawn[is_first].min(0, initial=0), drawn[is_second].max(0, initial=0))
            beaten[row] += np.count_nonzero(most >= beaten_by[row])
        running = np.maximum.accumulate(np.abs(drawn, out=drawn), axis=0, out=drawn)
        exceeding += (running >= size[:, None]).sum(1)
        largest.append(running[-1])
    p = np.ones((count, count))
    # From the most significant pair on, no p-value is below that of one before.
    p[first, second] = np.maximum.accumulate(((1 + exceeding) / (1 + draws))[::-1])[::-1]
    of_best = (1 + beaten) / (1 + draws) if count > 1 else np.ones(count)
    return np.minimum(p, p.T), of_best, float(np.quantile(np.concatenate(largest), LEVEL)) if largest else np.nan


def _contrasts(covariance: Array, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> Array:
    """Return ``(pairs, K)`` what makes K standard normal numbers the pairs' differences, each over its deviation."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    # The symmetric root is the only one that does not depend on the library that finds it.
    root = (vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T
    pairs = root[first] - root[second]
    spread = (pairs**2).sum(1)
    # A pair that does not vary, but for rounding, is never the largest.
    varies = spread > 1e-12 * spread.max(initial=0)
    return np.where(varies[:, None], pairs / np.sqrt(np.where(varies, spread, 1))[:, None], 0)


def _detectable(found: Differences, critical: float) -> float | None:
    """Return the difference that exceeds a critical value of normal size with a probability of :data:`POWER`."""
    upper = np.triu_indices(len(found.error), 1)
    if not len(upper[0]):
        return None
    error, freedom = found.error[upper], found.freedom[upper]
    needed = stats.t.isf(stats.norm.sf(critical), freedom) + stats.t.ppf(POWER, freedom)
    return float(np.median(needed * error))
