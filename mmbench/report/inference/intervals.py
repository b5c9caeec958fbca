"""Intervals of a row and of the difference of two, for these test samples and for new seeds and new groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mmbench.report.inference.scores import InferenceError, RowScores, check_comparable
from mmbench.report.inference.variance import Estimate, freedom, interaction
from mmbench.report.statistics import LEVEL, holm


@dataclass(frozen=True)
class Inference:
    """An estimate with its standard error, all in units of the metric but the last three.

    Attributes:
        estimate: Mean of a row, or difference of two.
        error: Standard error.
        low: Lower end of the interval.
        high: Upper end.
        freedom: Degrees of freedom; infinite where nothing varies.
        p: Two-sided p-value of a true value of 0.
        groups: Whether the error knows new groups of items; with a single group it knows new seeds alone.
    """

    estimate: float
    error: float
    low: float
    high: float
    freedom: float
    p: float
    groups: bool


@dataclass(frozen=True, eq=False)
class Differences:
    """The differences of every two of K rows, row minus column.

    Attributes:
        estimate: ``(K, K)`` differences of the means over seeds.
        error: ``(K, K)`` standard errors; 0 on the diagonal.
        freedom: ``(K, K)`` degrees of freedom.
    """

    estimate: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    freedom: npt.NDArray[np.float64]


def these_samples_interval(row: RowScores) -> tuple[float, float] | None:
    """Return the interval of a row's mean on these test samples, over new seeds: Student's t with ``n - 1``.

    It is the mean itself for a deterministic row, and None for one seed of a row that is not.
    """
    if row.deterministic:
        return row.mean, row.mean
    if row.n == 1:
        return None
    error = float(row.values.std(ddof=1)) / math.sqrt(row.n) if np.ptp(row.values) else 0.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, row.n - 1)) * error
    return row.mean - half, row.mean + half


def row_interval(row: Estimate) -> Inference | None:
    """Return the interval of a row's mean over new seeds and new groups; None where its seed variance is not known.

    The variance is ``V_seed + max(V_item - I, 0)``, I the :func:`interaction`.
    """
    if row.seed_variance is None:
        return None
    items = float((row.deviations**2).sum())
    total = row.seed_variance + max(items - interaction(row.scores), 0.0)
    found = freedom(total, [row.seed_variance, items], [row.seed_freedom, row.item_freedom])
    return _inference(row.scores.mean, total, float(found), row.scores.groups)


def differences(rows: Sequence[Estimate]) -> Differences:
    """Return the differences of every two rows; all must have a seed variance.

    Seeds of two rows share nothing and their variances are added; items are the same, and their variance is that of the
    rows' differences by group, less what is counted with the seeds: ``V_a + V_b + max(V_item - I_a - I_b, 0)``.

    Raises:
        InferenceError: When rows were tested on different items, or when one has no seed variance.
    """
    check_comparable([row.scores for row in rows])
    if unknown := [row.scores.label for row in rows if row.seed_variance is None]:
        raise InferenceError(f"{', '.join(unknown)}: one seed has no variance; run at least two more")
    means = np.array([row.scores.mean for row in rows])
    seeds = np.array([row.seed_variance for row in rows], dtype=float)
    both = np.array([interaction(row.scores) for row in rows])
    deviations = np.stack([row.deviations for row in rows])
    items = np.stack([((deviations - one) ** 2).sum(1) for one in deviations])
    first, second = np.broadcast_arrays(seeds[:, None], seeds)
    total = first + second + np.maximum(items - (both[:, None] + both), 0)
    np.fill_diagonal(total, 0)
    of_seeds = np.array([row.seed_freedom for row in rows])
    of_parts = [*np.broadcast_arrays(of_seeds[:, None], of_seeds), np.full_like(items, rows[0].item_freedom)]
    found = freedom(total, [first, second, items], of_parts)
    return Differences(means[:, None] - means, np.sqrt(total), found)


def difference(a: Estimate, b: Estimate) -> Inference | None:
    """Return the difference ``a - b`` over new seeds and new groups; None where a seed variance is not known.

    Raises:
        InferenceError: When the rows were tested on different items.
    """
    check_comparable([a.scores, b.scores])
    if a.seed_variance is None or b.seed_variance is None:
        return None
    found = differences([a, b])
    estimate, error, of = (float(values[0, 1]) for values in (found.estimate, found.error, found.freedom))
    return _inference(estimate, error**2, of, a.scores.groups)


def against(reference: Estimate, rows: Sequence[Estimate]) -> list[tuple[Inference, float] | None]:
    """Return each row's difference to a reference, row minus reference, with its p-value by Holm's procedure.

    The reference must have been chosen before looking at the values. Rows whose difference is not known have None and
    are no hypothesis; neither is the reference itself.

    Args:
        reference: The row that the others are compared with.
        rows: The others, in any order.

    Raises:
        InferenceError: When rows were tested on different items.
    """
    found = [difference(row, reference) if row is not reference else None for row in rows]
    adjusted = iter(holm([one.p for one in found if one is not None]))
    return [(one, next(adjusted)) if one is not None else None for one in found]


def _inference(estimate: float, variance: float, of: float, groups: int) -> Inference:
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, of)) * error
    p = float(2 * stats.t.sf(abs(estimate) / error, of)) if error else float(estimate == 0)
    return Inference(estimate, error, estimate - half, estimate + half, of, p, groups > 1)
