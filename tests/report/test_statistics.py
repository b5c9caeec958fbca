"""Statistics against formulas, printed tables and scipy's own tests."""

import math

import numpy as np
import pytest
from scipy import stats

from mmbench.report.statistics import holm, paired_p, summarize


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


@pytest.mark.parametrize("n", [3, 5, 15])
def test_paired_test_is_scipys(n: int) -> None:
    ours, theirs = np.random.default_rng(n).normal(size=(2, n))
    assert paired_p(list(ours), list(theirs)) == pytest.approx(float(stats.ttest_rel(ours, theirs).pvalue))


def test_paired_test_at_its_ends() -> None:
    assert paired_p([1.0, 2.0], [0.0, 0.0]) is None
    assert paired_p([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1
    assert paired_p([1.5, 2.5, 3.5], [1.0, 2.0, 3.0]) == 0


def test_holm() -> None:
    # 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
