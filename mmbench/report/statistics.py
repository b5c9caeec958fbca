"""The statistics of the tables, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Coverage of the intervals; ``1 - LEVEL`` is the level of the tests."""

FEWEST_PAIRS = 3
"""Pairs below which a paired test says nothing worth printing."""


@dataclass(frozen=True)
class Summary:
    """Location and spread of a few repeated measurements; the spread of a single one is unknown.

    Attributes:
        n: Number of measurements.
        mean: Their mean.
        std: Standard deviation with ``ddof=0``, as MMSA prints it.
        std1: Standard deviation with ``ddof=1``, the unbiased one that the interval rests on.
        low: Lower end of the interval of the mean.
        high: Upper end.
    """

    n: int
    mean: float
    std: float | None = None
    std1: float | None = None
    low: float | None = None
    high: float | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, deviations and Student's t-interval of the mean with ``n - 1`` degrees of freedom.

    Args:
        values: At least one number.
    """
    array, n = np.asarray(values, dtype=float), len(values)
    mean = float(array.mean())
    if n == 1:
        return Summary(n, mean)
    std1 = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std1 / math.sqrt(n)
    return Summary(n, mean, float(array.std()), std1, mean - half, mean + half)


def paired_p(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the paired t-test, None for fewer than :data:`FEWEST_PAIRS` pairs.

    Unlike scipy's, it has an answer for differences without spread: 1 if they are all zero, 0 otherwise.
    """
    if len(ours) < FEWEST_PAIRS:
        return None
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    if error == 0:
        return float(difference[0] == 0)
    return float(2 * stats.t.sf(abs(float(difference.mean()) / error), len(difference) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down procedure (1979), in the given order."""
    if not p_values:
        return []
    p = np.asarray(p_values, dtype=float)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]
