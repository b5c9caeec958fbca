"""The statistics of the tables, on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95
"""Coverage of the intervals; ``1 - LEVEL`` is the level of the tests."""

FEWEST_FOR_ANOTHER = 3
"""Measurements below which nobody can say where a further one would lie."""


@dataclass(frozen=True)
class Summary:
    """Location and spread of a few repeated measurements; the spread of a single one is unknown.

    Attributes:
        n: Number of measurements; 0 for the mean of what is only a part of one.
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
    (array,), exponent = _scaled(values)
    n, mean = len(values), float(array.mean())
    if n == 1:
        return Summary(n, float(values[0]))
    std1 = float(array.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std1 / math.sqrt(n)
    with np.errstate(over="ignore"):
        found = np.ldexp([mean, float(array.std()), std1, mean - half, mean + half], exponent)
    return Summary(n, *map(float, found))


def average(values: Sequence[float]) -> float:
    """Return the mean of at least one number."""
    return summarize(values).mean


def another(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """Return the interval in which one further value lies with a probability of ``level``, for normal values.

    ``mean ± t * s * sqrt(1 + 1/n)``: it allows for the spread of the new value and for that of the mean. None for fewer
    than :data:`FEWEST_FOR_ANOTHER` values.
    """
    if len(values) < FEWEST_FOR_ANOTHER:
        return None
    (array,), exponent = _scaled(values)
    n, mean = len(values), float(array.mean())
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * float(array.std(ddof=1)) * math.sqrt(1 + 1 / n)
    with np.errstate(over="ignore"):
        low, high = np.ldexp([mean - half, mean + half], exponent)
    return float(low), float(high)


def welch(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> tuple[float, float] | None:
    """Return the interval of the difference of two means by Welch's t, None unless both have two values or more.

    Unlike scipy's, it has an answer for values without spread: the difference itself.
    """
    if not ours or not theirs or min(len(ours), len(theirs)) < 2:
        return None
    (a, b), exponent = _scaled(ours, theirs)
    parts = [float(group.var(ddof=1)) / len(group) for group in (a, b)]
    half, error = 0.0, sum(parts)
    if error:
        freedom = error**2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, (a, b), strict=True))
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(error)
    difference = float(a.mean() - b.mean())
    with np.errstate(over="ignore"):
        low, high = np.ldexp([difference - half, difference + half], exponent)
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down procedure (1979), in the given order."""
    if not p_values:
        return []
    p = np.asarray(p_values, dtype=float)
    order = p.argsort(kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]


def _scaled(*groups: Sequence[float]) -> tuple[list[npt.NDArray[Any]], int]:
    """Return the values over a power of two, which is exact, and its exponent: no sum of huge numbers overflows."""
    arrays = [np.asarray(group, dtype=float) for group in groups]
    exponent = int(np.frexp(max(np.abs(array).max() for array in arrays))[1])
    return [np.ldexp(array, -exponent) for array in arrays], exponent
