"""The table of scale: its sums, its file, its section, and that it measures what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from benchmarks.scale import __main__ as scale
from mmbench.report.markdown import NONE
from mmbench.report.scale import FOLDER, Scale, Shared, Spread, section

ROWS = (
    Spread("mult", 1, 200.0, 1.0, 500_000_000, "mae", 0.21, 0.1, 0.3),
    Spread("mult", 2, 300.0, 0.75, None, "mae", 0.31, 0.1, 0.3),
)
PLANS = (Shared(1, 0, 900.0, 1.0), Shared(2, 0, 1700.0, 17 / 9))


def test_the_section_of_the_start_page(tmp_path: Path) -> None:
    assert section(tmp_path) == []
    found = Scale("A machine, 2 cores", "Some data.", ROWS, PLANS)
    found.write(tmp_path / FOLDER / "this.json")
    assert Scale.read(tmp_path / FOLDER / "this.json") == found
    lines = section(tmp_path)
    assert "## Scale" in lines
    assert f"| `mult` | 1 | 200 | 1.00 | 500 | mae 0.2100 | {NONE} | {NONE} |" in lines
    assert f"| `mult` | 2 | 300 | 0.75 | {NONE} | mae 0.3100 | 0.1000 to 0.3000 | no |" in lines
    assert f"| 2 | {NONE} | 1,700 | 1.89 |" in lines


def test_the_interval_is_that_of_the_mean_of_other_seeds() -> None:
    """By Student's t: for two and two values the half width is t(1) s, as 1/2 + 1/2 is 1."""
    low, high = scale.interval([1.0, 3.0], 2)
    half = stats.t.ppf(0.975, 1) * 2**0.5
    assert (low, high) == pytest.approx((2 - half, 2 + half))
    assert scale.interval([1.0], 1) == (float("-inf"), float("inf"))


@pytest.mark.slow  # a dozen commands
def test_it_measures_trials_over_two_processes_and_plans_of_two_workers(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    assert scale.main(["--quick", "--methods", "lf_dnn", "--devices", "1", "2", "--out", str(tmp_path)]) == 0
    (path,) = (tmp_path / FOLDER).iterdir()
    found = Scale.read(path)
    assert [(row.method, row.devices) for row in found.spread] == [("lf_dnn", 1), ("lf_dnn", 2)]
    one, two = found.spread
    assert two.efficiency == pytest.approx(two.samples_per_second / one.samples_per_second / 2)
    assert found.shared[0].gain == 1
    assert "## Scale" in (tmp_path / "README.md").read_text()
