"""Statistics against formulas, printed tables and scipy's own tests."""

import math

import numpy as np
import pytest
from scipy import stats

from mmbench.report.statistics import another, average, holm, summarize, welch


def test_summary_by_hand() -> None:
    # Deviations from the mean 0.73: -0.03, -0.01, 0.04; squares sum to 0.0026. Printed table: t(0.975, 2) = 4.3027.
    found = summarize([0.70, 0.72, 0.77])
    assert (found.n, found.mean) == (3, pytest.approx(0.73))
    assert found.std == pytest.approx(math.sqrt(0.0026 / 3))
    assert found.std1 == pytest.approx(math.sqrt(0.0026 / 2))
    half = 4.3027 * math.sqrt(0.0026 / 2 / 3)
    assert (found.low, found.high) == (pytest.approx(0.73 - half, abs=1e-5), pytest.approx(0.73 + half, abs=1e-5))


def test_one_value_has_no_spread() -> None:
    found = summarize([0.5])
    assert (found.n, found.mean, found.std, found.std1, found.low, found.high) == (1, 0.5, None, None, None, None)


def test_holm() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0])
def test_size_changes_no_statistic(scale: float) -> None:
    ours, theirs = [0.3, 0.5, 0.9, 0.7], [0.4, 0.8, 0.9, 0.9]
    big, bigger = ([value * 1e8 * scale for value in values] for values in (ours, theirs))
    found, plain = summarize(big), summarize(ours)
    for name in ("mean", "std", "std1", "low", "high"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name) * 1e8 * scale)
    assert welch(big, bigger) == pytest.approx([end * 1e8 * scale for end in welch(ours, theirs) or ()])


def test_the_largest_numbers_have_a_mean() -> None:
    assert summarize([1.7e308] * 3).mean == pytest.approx(1.7e308)
    assert summarize([1.7e308, -1.7e308]).mean == 0
    assert average([5e-324]) == 5e-324


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 5), (10, 4)])
def test_welch_is_scipys(n: int, m: int) -> None:
    generator = np.random.default_rng(n)
    ours, theirs = generator.normal(size=n), generator.normal(1, 3, size=m)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert welch(list(ours), list(theirs)) == pytest.approx((expected.low, expected.high))


def test_welch_at_its_ends() -> None:
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 2.0], None) is None
    assert welch([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5)


def test_another_value_by_hand() -> None:
    # As above; printed table: t(0.995, 2) = 9.9248.
    half = 9.9248 * math.sqrt(0.0026 / 2) * math.sqrt(4 / 3)
    assert another([0.70, 0.72, 0.77], 0.99) == pytest.approx((0.73 - half, 0.73 + half), abs=1e-5)
    assert another([0.70, 0.72], 0.99) is None
