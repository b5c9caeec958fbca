"""Simultaneous comparison, against the exact distributions that it has in special cases."""

import numpy as np
import pytest
from scipy import optimize, stats

from mmbench.report.inference import Estimate, InferenceError, compare_all, difference, estimates
from tests.report.inference.test_intervals import of_groups
from tests.report.inference.test_variance import scores

PATTERN = np.array([-1.2, -0.4, 0.1, 0.5, 1.0])


def shifted(means: list[float]) -> list[Estimate]:
    """Return rows of one group with the same spread of seeds; what differs are their means."""
    return estimates([scores(list(mean + PATTERN), label=str(n)) for n, mean in enumerate(means)])


def normal(a: Estimate, b: Estimate) -> float:
    """Return the absolute normal quantile of a difference."""
    found = difference(a, b)
    assert found is not None
    return float(stats.norm.isf(found.p / 2))


@pytest.mark.parametrize("count", [2, 3, 10, 26])
def test_the_largest_difference_has_tukeys_distribution(count: int) -> None:
    """Rows with equal errors that share nothing: the largest difference of K normal numbers."""
    rows = shifted([0.0] * (count - 1) + [1.8])
    found = compare_all(rows, higher_is_better=True)
    expected = stats.studentized_range.sf(normal(rows[0], rows[-1]) * np.sqrt(2), count, np.inf)
    assert found.p[0, -1] == pytest.approx(expected, abs=0.005)
    assert found.p[0, -1] == found.p[-1, 0]


@pytest.mark.parametrize(("level", "kept"), [(0.044, False), (0.056, True)])
def test_the_best_are_those_of_dunnetts_distribution(level: float, kept: bool) -> None:
    """One-sided: the largest of K - 1 normal numbers with a correlation of a half."""
    largest = stats.multivariate_normal(np.zeros(4), np.full((4, 4), 0.5) + 0.5 * np.eye(4))

    def excess(mean: float) -> float:
        rows = shifted([0.0, 0.0, 0.0, 0.0, mean])
        return float(1 - largest.cdf(np.full(4, normal(rows[0], rows[-1])))) - level

    mean = optimize.brentq(excess, 0.5, 3, xtol=1e-3)
    assert list(compare_all(shifted([0.0, 0.0, 0.0, 0.0, mean]), True).best) == [kept] * 4 + [True]


def test_a_pair_is_held_against_the_pairs_that_are_left() -> None:
    """Two rows near to each other and one far away: once that is shown, one pair is left, with its own p-value."""
    rows = shifted([0.0, 1.6, 50.0])
    found, alone = compare_all(rows, higher_is_better=True), difference(rows[0], rows[1])
    assert alone is not None
    assert alone.p < 0.05
    assert found.p[0, 1] == pytest.approx(alone.p, abs=0.003)
    assert found.p[0, 1] < stats.studentized_range.sf(normal(rows[0], rows[1]) * np.sqrt(2), 3, np.inf) - 0.01
    assert found.ranks == [(3, 3), (2, 2), (1, 1)]
    assert list(found.best) == [False, False, True]


def test_items_that_rows_share_cancel() -> None:
    rng = np.random.default_rng(5)
    common = 10 * rng.normal(size=30)
    near = [of_groups(str(n), n + common + 0.1 * rng.normal(size=(3, 30))) for n in range(3)]
    apart = [of_groups(str(n), n + 10 * rng.normal(size=30) + 0.1 * rng.normal(size=(3, 30))) for n in range(3)]
    assert compare_all(estimates(near), False).ranks == [(1, 1), (2, 2), (3, 3)]
    assert compare_all(estimates(apart), False).ranks == [(1, 3)] * 3


def test_directions() -> None:
    rows = shifted([0.0, 50.0])
    higher, lower = compare_all(rows, True), compare_all(rows, False)
    assert (higher.ranks, lower.ranks) == ([(2, 2), (1, 1)], [(1, 1), (2, 2)])
    assert (list(higher.best), list(lower.best)) == ([False, True], [True, False])
    assert np.array_equal(higher.better, lower.better.T)
    assert not higher.groups


def test_the_detectable_difference_is_detected_with_its_power() -> None:
    """Rows of known errors: normal values, ten of them, one of which is better by the detectable difference."""
    rng = np.random.default_rng(1)
    rows = [of_groups(str(n), rng.normal(size=(1, 400)), deterministic=True) for n in range(10)]
    found = compare_all(estimates(rows), True)
    assert found.detectable is not None
    # Every two differ by sqrt(2 / 400); Tukey's critical value, and the normal quantile of 80 %.
    critical = stats.studentized_range.ppf(0.95, 10, np.inf) / np.sqrt(2)
    assert found.detectable == pytest.approx((critical + stats.norm.ppf(0.8)) * np.sqrt(2 / 400), rel=0.03)


def test_the_same_rows_give_the_same_bytes() -> None:
    rows = shifted([0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    first, second = compare_all(rows, True), compare_all(rows, True)
    assert (first.p.tobytes(), first.detectable) == (second.p.tobytes(), second.detectable)


def test_rows_of_one_seed_take_no_part() -> None:
    rows = shifted([0.0, 50.0])
    rows.insert(1, *estimates([scores([99.0], label="one")]))
    found = compare_all(rows, True)
    assert found.ranks == [(2, 2), None, (1, 1)]
    assert list(found.best) == [False, False, True]
    assert not found.better[1].any()
    assert not found.better[:, 1].any()
    nobody = compare_all(estimates([scores([1.0]), scores([2.0], label="b")]), True)
    assert (nobody.ranks, nobody.detectable, nobody.best.any()) == ([None, None], None, np.False_)


def test_one_row_is_first() -> None:
    found = compare_all(shifted([0.3]), True)
    assert (found.ranks, list(found.best), found.detectable) == ([(1, 1)], [True], None)


def test_rows_that_do_not_vary() -> None:
    still = [scores([value] * 3, label=str(n), deterministic=True) for n, value in enumerate((0.1, 0.1, 0.3))]
    found = compare_all(estimates(still), True)
    assert found.ranks == [(2, 3), (2, 3), (1, 1)]
    assert np.isfinite(found.p).all()
    equal = compare_all(estimates([scores([0.5] * 3, label=str(n)) for n in range(6)]), True)
    assert equal.ranks == [(1, 6)] * 6
    assert equal.best.all()
    assert equal.detectable == 0


def test_a_deterministic_row_among_others() -> None:
    rows = [scores(list(mean + PATTERN), label=str(mean)) for mean in (0.0, 0.1, 0.2, 0.3, 0.4)]
    found = compare_all(estimates([*rows, scores([-50.0], label="constant", deterministic=True)]), True)
    assert found.ranks == [(1, 5)] * 5 + [(6, 6)]


def test_rows_of_other_items_are_refused_by_name() -> None:
    rows = [scores([1.0, 2.0], label="mult"), scores([1.0, 2.0], label="tfn", items="other")]
    with pytest.raises(InferenceError, match="tfn"):
        compare_all([estimates([row])[0] for row in rows], True)


@pytest.mark.parametrize("seed", range(4))
def test_correlations_by_luck_do_not_lower_the_bar(seed: int) -> None:
    """Independent rows on few groups of unequal size: the largest difference has Tukey's distribution all the same."""
    rng, size = np.random.default_rng(seed), np.r_[np.ones(12), np.full(8, 3)]
    rows = estimates([of_groups(str(n), size * rng.normal(size=(1, 20)), deterministic=True) for n in range(20)])
    found = compare_all(rows, True, draws=20_000)
    first, second = np.unravel_index(found.p.argmin(), found.p.shape)
    expected = stats.studentized_range.sf(normal(rows[first], rows[second]) * np.sqrt(2), 20, np.inf)
    assert 0.9 * expected < found.p.min() <= 1.01 * expected
