"""Variances of a row's mean, against hand calculation and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from mmbench.report.inference import InferenceError, RowScores, estimates, interaction
from mmbench.report.inference.variance import effective_groups, freedom


def scores(values: list[float], deviations: object = None, label: str = "a", **more: object) -> RowScores:
    """Return a row of some seeds; without deviations, of one group of items."""
    given = np.zeros((len(values), 1)) if deviations is None else np.asarray(deviations, dtype=float)
    return RowScores(label, np.asarray(values, dtype=float), given, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "divisor"), [(3, 0.693), (5, 0.839), (10, 0.927)])
def test_a_floor_from_all_rows(n: int, divisor: float) -> None:
    pattern = (np.arange(n) - (n - 1) / 2) / np.arange(n).std(ddof=1)  # variance 1
    spreads = [0.1, 1.0, 2.0, 3.0, 5.0]  # the median of the variances is 4
    found = estimates([scores(list(spread * pattern), label=str(spread)) for spread in spreads])
    floor = 4 / divisor
    expected = [floor, floor, floor, 9.0, 25.0]
    assert [row.seed_variance for row in found] == pytest.approx([e / n for e in expected], rel=1e-3)
    assert [row.seed_freedom for row in found] == [n + 2] * 5


def test_rows_of_unequal_numbers_of_seeds_share_a_floor() -> None:
    rows = [scores([0, 0, 2], label="three")] + [scores([0, 0, 0, 0], label=str(n)) for n in range(4)]
    # Four of the five variances are 0, and so is the median: nothing is raised.
    assert [row.seed_variance for row in estimates(rows)] == pytest.approx([4 / 3 / 3, 0, 0, 0, 0])
    rows[1:4] = [scores([0, 2, 4, 2], label=str(n)) for n in range(3)]  # variance 8/3
    floor = 8 / 3 / (stats.chi2.ppf(0.5, 3) / 3)
    assert [row.seed_variance for row in estimates(rows)] == pytest.approx([floor / 3] + [floor / 4] * 4)


def test_few_rows_have_their_own_variances() -> None:
    found = estimates([scores([0, 1, 2], label=str(n)) for n in range(4)])
    assert [(row.seed_variance, row.seed_freedom) for row in found] == [(pytest.approx(1 / 3), 2)] * 4


def test_deterministic_rows_keep_their_zero_and_single_seeds_know_none() -> None:
    rows = [scores([1, 1, 1], label="constant", deterministic=True), scores([1], label="one")]
    rows += [scores([0, 1, 2], label=str(n)) for n in range(5)]
    found = estimates(rows)
    assert (found[0].seed_variance, found[1].seed_variance) == (0.0, None)
    assert [row.seed_variance for row in found[2:]] == pytest.approx([1 / 0.6931 / 3] * 5, rel=1e-3)


def test_equal_groups_count_as_many() -> None:
    rng = np.random.default_rng(0)
    rows = [scores([0.0], rng.normal(size=(1, 30)), str(n)) for n in range(26)]
    assert effective_groups(rows) == pytest.approx(30, rel=0.05)
    assert estimates(rows)[0].item_freedom == pytest.approx(29, rel=0.05)


def test_unequal_groups_count_as_fewer() -> None:
    """The relative variance of a sum of squares is ``2 sum s^4 / (sum s^2)^2``: 2 over its degrees of freedom."""
    rng, spread = np.random.default_rng(0), np.r_[np.ones(25), np.full(5, 3)]
    expected = (spread**2).sum() ** 2 / (spread**4).sum()
    rows = [scores([0.0], spread * rng.normal(size=(1, 30)), str(n)) for n in range(26)]
    assert effective_groups(rows) == pytest.approx(expected, rel=0.15)
    assert expected < 12
    assert estimates(rows)[0].item_freedom == effective_groups(rows) - 1
    # A row that differs more than all others does not decide.
    rows[0] = scores([0.0], 1e6 * np.eye(30)[:1], "other")
    assert effective_groups(rows) == pytest.approx(expected, rel=0.3)


def test_where_nothing_is_known_every_group_counts() -> None:
    assert effective_groups([scores([0.0], np.ones((1, 30)))]) == 30
    assert effective_groups([scores([0.0], np.ones((1, 30)), str(n)) for n in range(3)]) == 30
    assert estimates([scores([0.0])])[0].item_freedom == math.inf


def test_interaction_by_hand() -> None:
    # Two seeds that deviate by +-1 and +-2 from their mean by group: (1 + 4) * 2 / (2 * 1).
    row = scores([0, 1], [[3, -3], [1, 1]])
    assert interaction(row) == pytest.approx(5)
    assert interaction(scores([0, 1], [[3, -3], [1, 1]], folds=5)) == 0
    assert interaction(scores([0], [[3, -3]])) == 0


def test_degrees_of_freedom_are_those_of_welch() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7)) * [[1], [4]]
    expected = stats.ttest_ind(a, b[:4], equal_var=False).df
    parts = [a.var(ddof=1) / 7, b[:4].var(ddof=1) / 4]
    assert freedom(sum(parts), parts, [6, 3]) == pytest.approx(expected)
    assert freedom(0.0, [0.0, 0.0], [3, 4]) == math.inf
    assert freedom(1e-200, [0.0, 1e-200], [3, 4]) == pytest.approx(4)
    assert freedom(1.0, [1.0, 0.0], [math.inf, 4]) == math.inf


def test_what_is_left_of_a_variance_is_less_certain() -> None:
    """A variance of mean 3 and 20 degrees of freedom, less 1: it has the relative variance of 20 * (2 / 3)^2."""
    drawn = 3 * np.random.default_rng(0).chisquare(20, size=100_000) / 20 - 1
    assert freedom(2.0, [3.0], [20]) == pytest.approx(2 * drawn.mean() ** 2 / drawn.var(), rel=0.02)


@pytest.mark.parametrize(
    ("values", "deviations", "more", "message"),
    [
        ([], np.zeros((0, 3)), {}, "at least one seed"),
        ([1.0, 2.0], np.zeros((3, 4)), {}, r"expected deviations \(2, G\)"),
        ([1.0, 2.0], np.zeros((2, 0)), {}, "at least one group"),
        ([1.0, math.nan], np.zeros((2, 4)), {}, "not finite"),
        ([1.0, 2.0], np.full((2, 4), math.inf), {}, "not finite"),
        ([1.0, 2.0], np.zeros((2, 4)), {"deterministic": True}, "deterministic"),
    ],
)
def test_wrong_scores_are_named(values: list[float], deviations: object, more: dict[str, bool], message: str) -> None:
    with pytest.raises(InferenceError, match=f"mult.*{message}"):
        scores(values, deviations, "mult", **more)
