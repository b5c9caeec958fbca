"""What the statistics promise, held against tables whose truth is known.

Short tests use few tables and wide tolerances; the slow ones hold the bounds of every cell. A rate that is found in T
tables has a standard error of ``sqrt(rate * (1 - rate) / T)``; bounds are allowed two of them.

What the slow tests find, in percent, as the range over cells:

| rows told apart that are equal | n = 3 | n = 5 |
|---|---|---|
| 2 rows | 1.2-6.3 | 2.5-6.2 |
| 10 rows | 0.0-4.3 | 0.3-4.5 |
| 26 rows | 0.0-5.5 | 0.0-3.0 |

| coverage (n = 3, 5, 10; 24, 31, 100 groups) | row | difference |
|---|---|---|
| normal, or a tenth of the seeds collapses | 94.4-97.5 | 95.6-97.0 |
| lognormal seeds and groups | 88.3-96.3 | 95.7-97.3 |

The set of the best holds it in 99.3-100, with 12 to 17 rows of 26.
"""

import math
from dataclasses import replace

import pytest

from tests.report.inference.world import (
    FEW_GROUPS,
    MOSI,
    SEEDS_DOMINATE,
    Shape,
    any_pair,
    best_is_held,
    coverage,
)

WORLDS = {"mosi": MOSI, "seeds": SEEDS_DOMINATE, "few": FEW_GROUPS}


def at_most(level: float, times: int) -> float:
    """Return a level with two standard errors of a rate in some tables."""
    return level + 2 * math.sqrt(level * (1 - level) / times)


def test_intervals_hold_the_truth() -> None:
    # Rows of a table share their groups: it is the tables that count.
    row, pair = coverage(replace(MOSI, unequal=0.6), 5, 60)
    assert row >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 60)
    assert 0.93 <= pair <= 0.985


@pytest.mark.parametrize(("rows", "times"), [(2, 200), (26, 60)])
def test_equal_rows_are_not_told_apart(rows: int, times: int) -> None:
    assert any_pair(replace(FEW_GROUPS, unequal=0.6), rows, 5, times, draws=500) <= at_most(0.05, times)


def test_the_best_is_in_its_set() -> None:
    held, size = best_is_held(MOSI, 5, 20, draws=500)
    assert held >= 0.95
    assert 5 < size < 23, "the weak rows are not in it, and it is not the first alone"


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("shape", ["gaussian", "lognormal", "collapsing"])
@pytest.mark.parametrize("world", ["mosi", "seeds"])
def test_coverage(world: str, shape: Shape, n: int) -> None:
    for groups in (24, 31, 100):
        row, pair = coverage(replace(WORLDS[world], groups=groups, shape=shape, unequal=0.6), n, 300)
        # Means of few groups of strongly skewed values are skewed themselves; in differences that cancels.
        assert row >= (0.87 if shape == "lognormal" else 0.93), (groups, row)
        assert pair >= 0.93, (groups, pair)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2, 10, 26])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [3, 5])
def test_no_two_equal_rows_are_told_apart(n: int, world: str, rows: int) -> None:
    times = {2: 1000, 10: 600, 26: 400}[rows]
    for items in (0.0, WORLDS[world].items):  # identical methods, and others of the same expectation
        for unequal in (0.0, 0.6):
            found = any_pair(replace(WORLDS[world], items=items, unequal=unequal), rows, n, times, draws=1000)
            assert found <= at_most(0.05 if n >= 5 else 0.08, times), (items, unequal, found)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n", [3, 5])
def test_the_set_holds_the_best(n: int, world: str) -> None:
    held, _ = best_is_held(replace(WORLDS[world], unequal=0.6), n, 300, draws=1000)
    assert held >= 0.95
