"""Intervals and differences, against scipy's tests where they coincide and against a bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from mmbench.report.inference import (
    InferenceError,
    RowScores,
    against,
    difference,
    differences,
    estimates,
    interaction,
    row_interval,
    these_samples_interval,
)
from tests.report.inference.test_variance import scores


def of_groups(label: str, x: np.ndarray, deterministic: bool = False) -> RowScores:
    """Return the row of ``x (n, G)``, means of the groups' items, of as many items each."""
    values, groups = x.mean(1), x.shape[1]
    deviations = math.sqrt(groups / (groups - 1)) * (x - values[:, None]) / groups
    return RowScores(label, values, deviations, deterministic)


def test_on_these_samples_it_is_students() -> None:
    rng = np.random.default_rng(3)
    values = list(rng.normal(size=5))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert these_samples_interval(scores(values)) == pytest.approx((expected.low, expected.high))
    assert these_samples_interval(scores([0.1] * 3)) == (pytest.approx(0.1), pytest.approx(0.1))
    assert these_samples_interval(scores([2.0], deterministic=True)) == (2, 2)
    assert these_samples_interval(scores([2.0])) is None


def test_with_one_group_a_difference_is_welchs() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=6), 1 + 2 * rng.normal(size=4)
    found = difference(*estimates([scores(list(a)), scores(list(b), label="b")]))
    test = stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.freedom, found.p) == pytest.approx((test.df, test.pvalue))
    assert not found.groups


def test_without_seeds_it_is_the_paired_test_over_groups() -> None:
    rng = np.random.default_rng(3)
    b = rng.normal(size=(1, 20))
    a = 0.3 + b + np.tile([1.0, -1.0], 10)  # groups that count alike: 19 degrees of freedom
    rows = estimates([of_groups("a", a, deterministic=True), of_groups("b", b, deterministic=True)])
    found, row = difference(*rows), row_interval(rows[0])
    test, single = stats.ttest_rel(a[0], b[0]), stats.ttest_1samp(a[0], 0)
    assert found is not None
    assert row is not None
    assert (found.estimate, found.p, found.freedom) == pytest.approx((a.mean() - b.mean(), test.pvalue, 19))
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (row.low, row.high) == pytest.approx(tuple(single.confidence_interval(0.95)))
    assert row.groups


def test_errors_are_those_of_a_bootstrap_over_seeds_and_groups() -> None:
    """Where both are resampled, variation of a seed with a group is in three of the bootstrap's parts, here in one.

    Seeds are resampled with their deviations times sqrt(n / (n - 1)), groups likewise.
    """
    rng = np.random.default_rng(3)
    n, groups, times = 4, 25, 20_000
    common = rng.normal(size=groups)
    x = [
        common + rng.normal(size=groups) + 0.4 * rng.normal(size=(n, 1)) + 1.5 * rng.normal(size=(n, groups))
        for _ in range(2)
    ]
    rows = estimates([of_groups("a", x[0]), of_groups("b", x[1])])

    def resampled(which: np.ndarray, of_groups: np.ndarray) -> np.ndarray:
        seeds = rng.multinomial(n, [1 / n] * n, size=times) / n
        seeds = 1 / n + (seeds - 1 / n) * math.sqrt(n / (n - 1))
        return np.einsum("ts,tg,sg->t", seeds, of_groups, which, optimize=True)

    picked = rng.multinomial(groups, [1 / groups] * groups, size=times) / groups
    picked = 1 / groups + (picked - 1 / groups) * math.sqrt(groups / (groups - 1))
    first, second = (resampled(each, picked) for each in x)
    row, between = row_interval(rows[0]), difference(*rows)
    assert row is not None
    assert between is not None
    both = [interaction(each.scores) for each in rows]
    # A variance of 20,000 numbers has a standard error of 1 %.
    assert row.error**2 + 2 * both[0] == pytest.approx(first.var(), rel=0.04)
    assert between.error**2 + 2 * sum(both) == pytest.approx((first - second).var(), rel=0.04)
    assert min(both) > 0.1 * row.error**2, "the correction matters here"


def test_a_matrix_of_differences_is_made_of_pairs() -> None:
    rng = np.random.default_rng(3)
    rows = estimates([of_groups(str(n), rng.normal(size=(3 + n, 12))) for n in range(6)])
    found = differences(rows)
    pair = difference(rows[4], rows[1])
    assert pair is not None
    assert (found.estimate[4, 1], found.error[4, 1], found.freedom[4, 1]) == pytest.approx(
        (pair.estimate, pair.error, pair.freedom)
    )
    assert np.array_equal(found.estimate, -found.estimate.T)
    assert np.array_equal(found.error, found.error.T)


def test_against_a_reference_adjusts_for_the_rows() -> None:
    rng = np.random.default_rng(3)
    rows = estimates([of_groups(str(n), n / 10 + 0.2 * rng.normal(size=(3, 12))) for n in range(5)])
    rows += estimates([scores([1.0], np.zeros((1, 12)), "one")])
    found = against(rows[0], rows)
    assert found[0] is None, "the reference itself"
    assert found[5] is None, "no variance of seeds"
    known = [one for one in found if one is not None]
    assert [one.estimate for one, _ in known] == pytest.approx(
        [row.scores.mean - rows[0].scores.mean for row in rows[1:5]]
    )
    # Holm (1979), by hand: the smallest of four times 4, the next times 3, and none below an earlier one.
    expected: dict[float, float] = {}
    for place, p in enumerate(sorted(one.p for one, _ in known)):
        expected[p] = max([min(1, p * (4 - place)), *expected.values()])
    assert [adjusted for _, adjusted in known] == pytest.approx([expected[one.p] for one, _ in known])


def test_rows_that_do_not_vary_have_an_answer() -> None:
    same = [of_groups(name, np.full((3, 4), value)) for name, value in (("a", 0.1), ("b", 0.1), ("c", 0.3))]
    a, b, c = estimates(same)
    equal, unequal, row = difference(a, b), difference(a, c), row_interval(a)
    assert equal is not None
    assert unequal is not None
    assert row is not None
    assert (equal.estimate, equal.error, equal.p) == (0, 0, 1)
    assert (unequal.estimate, unequal.error, unequal.p) == (pytest.approx(-0.2), 0, 0)
    assert (row.low, row.high) == (pytest.approx(0.1), pytest.approx(0.1))


def test_rows_of_other_items_are_refused_by_name() -> None:
    rows = [scores([1.0, 2.0], label=name, items=name) for name in ("mult", "tfn", "mmim")]
    a, b, c = (estimates([row])[0] for row in rows)
    with pytest.raises(InferenceError, match=r"tfn.*mult"):
        difference(a, b)
    with pytest.raises(InferenceError, match="mmim"):
        differences([a, a, c])
    with pytest.raises(InferenceError, match=r"^tfn: .* than mult"):
        estimates([rows[1], rows[0], rows[0]])
    with pytest.raises(InferenceError, match=r"one\b.*at least two more"):
        differences(estimates([scores([1.0, 2.0]), scores([1.0], label="one")]))
    assert difference(*estimates([scores([1.0, 2.0]), scores([1.0], label="one")])) is None
    assert row_interval(estimates([scores([1.0])])[0]) is None
