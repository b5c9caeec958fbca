"""A simulated table: rows whose values are known in truth, with the variances that the committed records have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from mmbench.report.inference import Estimate, RowScores, compare_all, differences, estimates, row_interval
from mmbench.report.statistics import LEVEL

Array = npt.NDArray[np.float64]
Shape = Literal["gaussian", "lognormal", "collapsing"]

COLLAPSING = 0.1
"""Share of seeds that collapse."""
_COLLAPSE = 5.0
"""By how many standard deviations of a seed a collapsed one is worse."""


@dataclass(frozen=True)
class World:
    """Standard deviations of what a row's value on G groups consists of, as parts of a mean over all groups.

    Attributes:
        groups: Number of groups G.
        seed: Of a seed's own part.
        cross: Of the part of a seed with a group.
        items: Of a row's part with a group, which no seed changes: 0 for identical methods.
        common: Of the groups' part that all rows share.
        unequal: Standard deviation of the logarithm of the rows' ``seed``.
        shape: Distribution of seeds and groups; collapsing seeds beside normal groups.
        equal_sizes: Whether groups have as many items each, or as many as videos have.
    """

    groups: int
    seed: float
    cross: float
    items: float
    common: float
    unequal: float = 0.0
    shape: Shape = "gaussian"
    equal_sizes: bool = False

    def draw(self, rng: np.random.Generator, effects: Sequence[float], seeds: int) -> list[RowScores]:
        """Return a row per true value, in order."""
        rows, groups = len(effects), self.groups
        sizes = np.ones(groups) if self.equal_sizes else rng.gamma(4, size=groups)
        share = sizes / sizes.sum()
        per_group = 1 / math.sqrt((share**2).sum())  # a deviation of a mean over groups as one of a group
        spread = self.seed * np.exp(self.unequal * rng.standard_normal((rows, 1)) - self.unequal**2 / 2)
        own = spread * self._noise(rng, (rows, seeds), of_seeds=True)
        cross = self.cross * per_group * rng.standard_normal((rows, seeds, groups))
        items = self.items * per_group * self._noise(rng, (rows, 1, groups))
        common = self.common * per_group * self._noise(rng, (groups,))
        x = np.asarray(effects)[:, None, None] + own[:, :, None] + cross + items + common
        values = x @ share
        without = (values[:, :, None] - share * x) / (1 - share)
        deviations = math.sqrt((groups - 1) / groups) * (without.mean(-1, keepdims=True) - without)
        return [RowScores(f"row {n}", values[n], deviations[n]) for n in range(rows)]

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...], of_seeds: bool = False) -> Array:
        """Return numbers of mean 0 and, but for what collapses, variance 1."""
        normal = rng.standard_normal(shape)
        if self.shape == "lognormal":
            return np.asarray((np.exp(normal) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e))
        if self.shape == "collapsing" and of_seeds:
            return np.asarray(normal + _COLLAPSE * ((rng.random(shape) < COLLAPSING) - COLLAPSING))
        return normal


# What MAE has in the committed records of 26 rows and five seeds, by the same estimates as the table's.
MOSI = World(groups=31, seed=0.024, cross=0.013, items=0.012, common=0.035)
SEEDS_DOMINATE = World(groups=100, seed=0.024, cross=0.005, items=0.004, common=0.005)
FEW_GROUPS = World(groups=24, seed=0.010, cross=0.010, items=0.012, common=0.030)
MOSI_EFFECTS = (
    *(0.915, 0.926, 0.928, 0.928, 0.930, 0.930, 0.935, 0.942, 0.947, 0.947, 0.950, 0.954, 0.961, 0.962, 0.970, 0.971),
    *(0.980, 0.985, 0.991, 1.001, 1.012, 1.019, 1.046, 1.351, 1.362, 1.462),
)
"""Mean absolute errors of the rows on MOSI."""


def coverage(world: World, seeds: int, times: int, rows: int = 26) -> tuple[float, float]:
    """Return how often the intervals of a row and of a difference hold the true value."""
    rng = np.random.default_rng(7)
    held, of_pairs = [], []
    upper = np.triu_indices(rows, 1)
    for _ in range(times):
        drawn = estimates(world.draw(rng, [0.0] * rows, seeds))
        for row in drawn[:5]:
            found = row_interval(row)
            assert found is not None
            held.append(found.low <= 0 <= found.high)
        between = differences(drawn)
        t = np.abs(between.estimate[upper]) / between.error[upper]
        of_pairs.append(float((t <= stats.t.ppf((1 + LEVEL) / 2, between.freedom[upper])).mean()))
    return float(np.mean(held)), float(np.mean(of_pairs))


def any_pair(world: World, rows: int, seeds: int, times: int, draws: int = 2000) -> float:
    """Return how often any two of rows with the same true value are told apart."""
    rng = np.random.default_rng(11)
    found = 0
    for _ in range(times):
        drawn: list[Estimate] = estimates(world.draw(rng, [0.0] * rows, seeds))
        found += bool(compare_all(drawn, True, draws).better.any())
    return found / times


def best_is_held(world: World, seeds: int, times: int, draws: int = 2000) -> tuple[float, float]:
    """Return how often the set of the best holds the true best of rows like those of MOSI, and its mean size."""
    rng = np.random.default_rng(13)
    held, size = 0, 0
    for _ in range(times):
        found = compare_all(estimates(world.draw(rng, MOSI_EFFECTS, seeds)), False, draws)
        held += bool(found.best[0])
        size += int(found.best.sum())
    return held / times, size / times
