"""The regression check: what counts as moved."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mmbench.methods import ConfigError
from mmbench.runner.check import (
    FLOOR,
    SMALLEST,
    Baseline,
    Numbers,
    compare,
    load_baseline,
    numbers,
    save_baseline,
)
from mmbench.runner.facts import Environment
from mmbench.runner.record import Record

HERE = Environment("3.11", "2.13.0", "2.6", "1.8", "2.4", "a processor", threads=1, simd="AVX2")
ELSEWHERE = dataclasses.replace(HERE, simd="AVX512")


def record(seed: int, mae: float, nce: float = 0.5, status: str = "completed", **changes: object) -> Record:
    """Return of a record what the check reads."""
    curve = [{"epoch": 0, "train/nce": 9.0}, {"epoch": 1, "train/nce": nce, "valid/mae": 1.0}]
    facts = {"label": "mmim", "seed": seed, "fold": 0, "status": status, "test": {"mae": mae, "corr": None}}
    return cast(Record, SimpleNamespace(**{**facts, "curve": curve, **changes}))


BASE = numbers([record(1, 1.0), record(2, 1.1), record(3, 1.2)])


def apart(found: Numbers, baseline: Numbers, *, exact: bool = True) -> list[tuple[str, str]]:
    return [(item.name, item.run) for item in compare(found, baseline, exact=exact)]


def test_numbers_are_those_of_every_run() -> None:
    assert BASE["mmim"]["test/mae"] == {"seed 1, fold 0": 1.0, "seed 2, fold 0": 1.1, "seed 3, fold 0": 1.2}
    assert set(BASE["mmim"]) == {"test/mae", "train/nce, first", "train/nce, last", "status/completed"}
    assert set(BASE["mmim"]["train/nce, first"].values()) == {9.0}
    assert set(BASE["mmim"]["train/nce, last"].values()) == {0.5}
    assert numbers([record(1, 1.0, fold=2)])["mmim"]["test/mae"] == {"seed 1, fold 2": 1.0}


def test_a_term_of_an_early_stage_counts_where_it_is_said() -> None:
    curve = [{"epoch": 0, "train/a": 3.0}, {"epoch": 1, "train/a": 2.0}, {"epoch": 2, "train/b": 1.0}]
    found = numbers([record(1, 1.0, curve=curve)])["mmim"]
    assert {name: next(iter(runs.values())) for name, runs in found.items() if name.startswith("train/")} == {
        "train/a, first": 3.0,
        "train/a, last": 2.0,
        "train/b, first": 1.0,
        "train/b, last": 1.0,
    }


def test_every_run_is_compared_where_digits_are_alike() -> None:
    near = numbers([record(1, 1.0009), record(2, 1.1), record(3, 1.2)])
    assert apart(near, BASE) == []
    # The mean stays where it was.
    swapped = numbers([record(1, 1.1), record(2, 1.0), record(3, 1.2)])
    assert apart(swapped, BASE) == [("test/mae", "seed 1, fold 0"), ("test/mae", "seed 2, fold 0")]
    assert apart(swapped, BASE, exact=False) == []
    (moved,) = compare(numbers([record(1, 1.0), record(2, 1.1), record(3, 1.2013)]), BASE, exact=True)
    assert (moved.row, moved.baseline, moved.found) == ("mmim", 1.2, 1.2013)
    assert moved.tolerance == pytest.approx(0.0012)


def test_elsewhere_a_mean_within_three_deviations_has_not_moved_and_one_beyond_has() -> None:
    assert apart(numbers([record(1, 1.39)]), BASE, exact=False) == []
    (moved,) = compare(numbers([record(1, 1.41)]), BASE, exact=False)
    assert (moved.row, moved.name, moved.run) == ("mmim", "test/mae", "")
    assert (moved.baseline, moved.found) == (pytest.approx(1.1), 1.41)
    assert moved.tolerance == pytest.approx(0.3)


def test_elsewhere_a_twentieth_is_allowed_where_seeds_happen_to_be_alike() -> None:
    """The deviation of two or three seeds may be next to nothing by chance."""
    alike = numbers([record(1, 1.0), record(2, 1.0001), record(3, 0.9999)])
    assert apart(numbers([record(1, 1.049)]), alike, exact=False) == []
    (moved,) = compare(numbers([record(1, 0.949)]), alike, exact=False)
    assert moved.tolerance == pytest.approx(0.05)


def test_digits_are_alike_where_processor_libraries_and_threads_are() -> None:
    baseline = Baseline(BASE, HERE.rounding)
    assert baseline.exact(HERE)
    assert baseline.exact(dataclasses.replace(HERE, date="2026", processor="another of the same instructions"))
    for change in ({"simd": "AVX512"}, {"torch": "2.14.0"}, {"numpy": "2.5"}, {"threads": 2}, {"gpu": "H200"}):
        assert not baseline.exact(dataclasses.replace(HERE, **change))
    unknown = dataclasses.replace(HERE, simd="")
    assert not Baseline(BASE, unknown.rounding).exact(unknown)
    assert baseline.apart(ELSEWHERE) == "the baseline was made with processor AVX2, here AVX512"


def test_a_loss_term_that_is_gone_zero_or_not_a_number_is_seen() -> None:
    for exact in (True, False):
        without = [record(seed, mae, curve=[{"epoch": 1}]) for seed, mae in ((1, 1.0), (2, 1.1), (3, 1.2))]
        assert {name for name, _ in apart(numbers(without), BASE, exact=exact)} == {
            "train/nce, first",
            "train/nce, last",
        }
        for value in (0.0, float("nan")):
            other = [record(seed, mae, nce=value) for seed, mae in ((1, 1.0), (2, 1.1), (3, 1.2))]
            assert {name for name, _ in apart(numbers(other), BASE, exact=exact)} == {"train/nce, last"}


@pytest.mark.parametrize("exact", [True, False])
def test_a_failed_trial_a_new_row_and_a_missing_row_are_seen(exact: bool) -> None:
    failed = numbers([record(1, 1.1, status="failed", test={}, curve=[])])
    assert {item.name for item in compare(failed, BASE, exact=exact)} == {
        "status/completed",
        "status/failed",
        "test/mae",
        "train/nce, first",
        "train/nce, last",
    }
    assert {item.found for item in compare({}, BASE, exact=exact)} == {None}
    assert {item.baseline for item in compare(BASE, {}, exact=exact)} == {None}


def test_a_missing_seed_is_seen() -> None:
    assert {run for _, run in apart(numbers([record(1, 1.0), record(2, 1.1)]), BASE)} == {"seed 3, fold 0"}


def test_a_baseline_survives_the_disk_and_a_missing_one_says_how_to_make_it(tmp_path: Path) -> None:
    save_baseline(tmp_path / "ci.json", BASE, HERE)
    loaded = load_baseline(tmp_path / "ci.json")
    assert loaded.rows == BASE
    assert loaded.exact(HERE)
    with pytest.raises(ConfigError, match="mmbench check --suite none --accept"):
        load_baseline(tmp_path / "none.json")


def test_accepting_some_methods_keeps_the_others_and_failed_trials_are_not_accepted(tmp_path: Path) -> None:
    path = tmp_path / "ci.json"
    save_baseline(path, {"mmim": BASE["mmim"], "unimodal (text)": BASE["mmim"], "unimodal (old)": BASE["mmim"]}, HERE)
    save_baseline(path, {"unimodal (text)": {}}, HERE, ["unimodal"])
    kept = {"mmim": BASE["mmim"], "unimodal (text)": {}}
    assert load_baseline(path).rows == kept
    with pytest.raises(ConfigError, match="did not complete: mmim"):
        save_baseline(path, numbers([record(1, 1.1, status="diverged", test={}, curve=[])]), HERE)
    with pytest.raises(ConfigError, match="not finite: mmim"):
        save_baseline(path, numbers([record(1, float("nan"))]), HERE)
    with pytest.raises(ConfigError, match=r"made with processor AVX2, here AVX512\. Accept all its rows at once"):
        save_baseline(path, {"unimodal (text)": {}}, ELSEWHERE, ["unimodal"])
    assert load_baseline(path).rows == kept
    save_baseline(path, {"unimodal (text)": {}}, ELSEWHERE)
    assert load_baseline(path).exact(ELSEWHERE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not valid JSON"),
        ("[]", "'the whole': Input should be a valid dictionary"),
        ("{}", "'rounding': Field required"),
        ('{"rounding": [], "rows": {"mmim": 3}}', "'rows.mmim': Input should be a valid dictionary"),
        ('{"rounding": [], "rows": {"mmim": {"test/mae": {"seed 1": "1"}}}}', "'rows.mmim.test/mae.seed 1': Input sho"),
        (
            '{"rounding": [], "rows": {"mmim": {"test/mae": {"mean": NaN}}}}',
            "its 'mean' is nan, which is no finite num",
        ),
        ('{"rounding": [], "rows": {"mmim": {"test/mae": {"mean": 1e400}}}}', "its 'mean' is inf"),
        ('{"rounding": {}, "rows": {}}', "'rounding': Input should be a valid"),
        ('{"rows": {}, "rows": {}}', "it has the name 'rows' twice"),
        ('{"rows": ' + "[" * 100_000, "it is nested too deeply"),
        ('{"rows": ' + "9" * 5000 + "}", "it is not valid JSON"),
        ('{"rows": {"m\xfcll": {}}}', "it is not valid JSON"),
    ],
)
def test_what_is_no_baseline_is_refused_with_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ci.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_baseline(tmp_path / "ci.json")
    assert str(caught.value).startswith(f"{tmp_path / 'ci.json'} is no baseline: ")
    assert "mmbench check --suite ci --accept" in str(caught.value)


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


UNTAUGHT = {
    "ci-mosi": {"constant", "linear (audio)"},
    "ci-classes": {"constant", "linear (vision)"},
    "ci-labels": {"constant", "linear (vision)"},
}
"""Rows that cannot beat the constant: what they read tells a linear model next to nothing."""
SUITES = sorted(path.stem for path in (BENCHMARKS / "suites").glob("ci*.yaml"))


def learned(names: Mapping[str, Mapping[str, float]], constant: Mapping[str, Mapping[str, float]]) -> bool:
    """Return whether the mean over seeds is better than the constant's by more than the check allows."""
    metric = next(name for name in ("test/mae", "test/wa", "test/acc") if name in constant)
    sign = -1 if metric == "test/mae" else 1
    ours, theirs = (statistics.fmean(row[metric].values()) for row in (names, constant))
    return sign * (ours - theirs) > max(FLOOR * abs(theirs), SMALLEST)


@pytest.mark.parametrize("suite", SUITES)
def test_every_committed_row_completed_and_learned(suite: str) -> None:
    """A check of rows that learn nothing would notice little."""
    baseline = load_baseline(BENCHMARKS / "baselines" / f"{suite}.json")
    assert len(baseline.rounding) == len(HERE.rounding)
    constant = baseline.rows["constant"]
    for row, names in baseline.rows.items():
        assert names["status/completed"].keys() == constant["status/completed"].keys(), row
        assert row in UNTAUGHT.get(suite, {"constant"}) or learned(names, constant), row


def test_what_the_makefile_checks_is_every_suite_of_the_check() -> None:
    said = re.search(r"^CHECKS := (.+)$", (BENCHMARKS.parent / "Makefile").read_text(), re.M)
    assert said is not None
    assert sorted(said[1].split()) == SUITES
