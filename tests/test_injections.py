"""The known bugs can still be put in; ``python -m tests.injections`` says who notices them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmbench.methods import methods
from mmbench.runner.settings import find_suite
from tests.injections.bug import ROOT, Bug
from tests.injections.bugs import BUGS


def test_there_are_as_many_as_the_check_is_measured_by() -> None:
    assert len(BUGS) >= 40
    assert len({bug.name for bug in BUGS}) == len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_still_has_its_place(bug: Bug) -> None:
    assert bug.flaw() == ""
    assert bug.rows or bug.tests
    for suite, method in bug.rows:
        wanted = find_suite(ROOT / "benchmarks", suite).methods
        assert method in (wanted or methods())


@pytest.mark.parametrize("old", ["return min(self.most, 40)", "def "])
def test_a_bug_without_its_place_says_so(old: str) -> None:
    assert "not once" in Bug("x", "mmbench/runner/estimate.py", old, "").flaw()
    assert "not once" in Bug("x", "mmbench/runner/nowhere.py", old, "").flaw()


def test_a_bug_changes_what_is_imported_and_nothing_else() -> None:
    bug = Bug("x", "mmbench/runner/check.py", "SPREADS = 3.0", "SPREADS = 4.0")
    said = "from mmbench.runner import check, estimate; print(check.SPREADS, check.FLOOR)"
    process = subprocess.run(
        [sys.executable, "-c", said], env=bug.environment(), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["4.0", "0.001"]
    gone = Bug("x", "mmbench/runner/check.py", "SPREADS = 5.0", "")
    process = subprocess.run([sys.executable, "-c", said], env=gone.environment(), cwd=ROOT, capture_output=True)
    assert process.returncode
    assert b"0 times, not once" in process.stderr
