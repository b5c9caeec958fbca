"""The regression check: what counts as moved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mmbench.methods import ConfigError
from mmbench.runner.check import compare, load_baseline, numbers, save_baseline
from mmbench.runner.record import Record


def record(seed: int, mae: float, nce: float = 0.5, status: str = "completed", **changes: object) -> Record:
    """Return of a record what the check reads."""
    curve = [{"epoch": 0, "train/nce": 9.0}, {"epoch": 1, "train/nce": nce, "valid/mae": 1.0}]
    facts = {"label": "mmim", "seed": seed, "status": status, "test": {"mae": mae, "corr": None}, "curve": curve}
    return cast(Record, SimpleNamespace(**{**facts, **changes}))


BASE = numbers([record(1, 1.0), record(2, 1.1), record(3, 1.2)])


def test_numbers_are_mean_and_spread_over_seeds() -> None:
    assert BASE["mmim"]["test/mae"] == pytest.approx({"mean": 1.1, "std": 0.1})
    assert BASE["mmim"]["train/nce"] == {"mean": 0.5, "std": 0.0}
    assert "test/corr" not in BASE["mmim"]


def test_a_number_within_three_deviations_has_not_moved_and_one_beyond_has() -> None:
    assert compare(numbers([record(1, 1.39)]), BASE) == []
    (moved,) = compare(numbers([record(1, 1.41)]), BASE)
    assert (moved.row, moved.name, moved.baseline, moved.found) == ("mmim", "test/mae", pytest.approx(1.1), 1.41)
    assert moved.tolerance == pytest.approx(0.3)


def test_a_loss_term_that_is_gone_zero_or_not_a_number_is_seen() -> None:
    without = [record(1, 1.1, curve=[{"epoch": 1}])]
    assert [item.name for item in compare(numbers(without), BASE)] == ["train/nce"]
    assert [item.name for item in compare(numbers([record(1, 1.1, nce=0.0)]), BASE)] == ["train/nce"]
    assert [item.name for item in compare(numbers([record(1, 1.1, nce=float("nan"))]), BASE)] == ["train/nce"]


def test_a_failed_trial_a_new_row_and_a_missing_row_are_seen() -> None:
    failed = numbers([record(1, 1.1, status="failed", test={}, curve=[])])
    assert {item.name for item in compare(failed, BASE)} == {
        "status/completed",
        "status/failed",
        "test/mae",
        "train/nce",
    }
    assert {item.found for item in compare({}, BASE)} == {None}
    assert {item.baseline for item in compare(BASE, {})} == {None}


def test_a_baseline_survives_the_disk_and_a_missing_one_says_how_to_make_it(tmp_path: Path) -> None:
    save_baseline(tmp_path / "ci.json", BASE)
    assert compare(load_baseline(tmp_path / "ci.json"), BASE) == []
    with pytest.raises(ConfigError, match="mmbench check --accept"):
        load_baseline(tmp_path / "none.json")


def test_accepting_some_methods_keeps_the_others_and_failed_trials_are_not_accepted(tmp_path: Path) -> None:
    path = tmp_path / "ci.json"
    save_baseline(path, {"mmim": BASE["mmim"], "unimodal (text)": BASE["mmim"], "unimodal (old)": BASE["mmim"]})
    save_baseline(path, {"unimodal (text)": {}}, ["unimodal"])
    assert load_baseline(path) == {"mmim": BASE["mmim"], "unimodal (text)": {}}
    with pytest.raises(ConfigError, match="did not complete: mmim"):
        save_baseline(path, numbers([record(1, 1.1, status="diverged", test={}, curve=[])]))
    assert load_baseline(path) == {"mmim": BASE["mmim"], "unimodal (text)": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not valid JSON"),
        ("[]", "'rows': Input should be a valid dictionary"),
        ("{}", "'rows': Input should be a valid dictionary"),
        ('{"rows": {"mmim": 3}}', "'rows.mmim': Input should be a valid dictionary"),
        ('{"rows": {"mmim": {"test/mae": {"mean": "1", "std": 0.0}}}}', "'rows.mmim.test/mae.mean': Input should be"),
        ('{"rows": {"mmim": {"test/mae": {"mean": 1.0}}}}', "'rows.mmim.test/mae.std': Field required"),
        ('{"rows": {"mmim": {"test/mae": {"mean": NaN, "std": 0.0}}}}', "its 'mean' is nan, which is no finite number"),
        ('{"rows": {"mmim": {"test/mae": {"mean": 1e400, "std": 0.0}}}}', "its 'mean' is inf"),
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
    assert "mmbench check --accept" in str(caught.value)


def test_committed_baselines_are_some() -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "baselines").glob("*.json"):
        assert load_baseline(path) == json.loads(path.read_text())["rows"]
