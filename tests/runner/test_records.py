"""Records on disk: atomic, checked, and skipped with a name when broken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench.runner.launch import Options
from mmbench.runner.records import Records, problem, write_predictions
from mmbench.runner.trial import run_trial
from tests.runner.conftest import Planner


@pytest.fixture
def written(plan: Planner, options: Options) -> Path:
    (trial,) = plan("constant", epochs=1)
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    return options.records.path(trial)


def test_values_that_are_no_numbers_become_null(written: Path) -> None:
    """A constant has no correlation; JSON has no NaN."""
    assert json.loads(written.read_text())["test"]["corr"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"status": "great"}, "status 'great'"),
        ({"method": "tfn"}, "its place does not fit its content"),
        ({"seed": "1111"}, "'seed' is missing or not of type int"),
        ({"test": {}}, "without a test value of the selecting metric"),
    ],
)
def test_a_wrong_record_is_named_and_skipped(written: Path, options: Options, change: dict, message: str) -> None:
    written.write_text(json.dumps({**json.loads(written.read_text()), **change}))
    records, problems = options.records.load()
    assert records == []
    assert len(problems) == 1
    assert str(written) in problems[0]
    assert message in problems[0]


def test_a_truncated_record_is_named_and_skipped_and_its_trial_can_run_again(
    written: Path, options: Options, plan: Planner
) -> None:
    written.write_text(written.read_text()[:100])
    records, (line,) = options.records.load()
    assert records == []
    assert "cannot be read" in line
    assert options.records.find(plan("constant", epochs=1)[0]) is None


def test_a_record_without_its_predictions_is_a_problem(written: Path) -> None:
    record = json.loads(written.read_text())
    assert problem(record, written) is None
    written.with_suffix(".csv.gz").unlink()
    assert problem(record, written) == "its predictions are missing"


def test_nothing_half_written_is_left_when_writing_fails(
    written: Path, options: Options, plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in written.parent.iterdir()}
    content = written.read_text()
    monkeypatch.setattr(Path, "write_text", lambda self, text: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Records(options.leaderboard / "records").write(plan("constant", epochs=1)[0], {"x": math.inf})
    assert {path.name for path in written.parent.iterdir()} == before
    assert written.read_text() == content


def test_predictions_of_the_same_content_have_the_same_bytes(tmp_path: Path) -> None:
    ids = np.array(['a,"b', "c"], dtype=object)
    for name in ("one.csv.gz", "two.csv.gz"):
        write_predictions(tmp_path / name, ids, torch.tensor([1, 0]), torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
