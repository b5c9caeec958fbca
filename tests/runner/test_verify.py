"""Checking records: everything that can be wrong with a file or between two of them is noticed and named."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_modules import FeatureStore
from data_modules.datasets.synthetic.generator import write_synthetic
from data_modules.schema import TargetSpec
from mmbench.cli import main
from mmbench.metrics.calibration import reliability
from mmbench.runner.calibration import calibration
from mmbench.runner.facts import Calibration, Failure
from mmbench.runner.plan import DECIDES, make_plan, trial_id
from mmbench.runner.predictions import as_stored, read_predictions
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import predictions_path, read_record
from mmbench.runner.settings import Suite
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial
from mmbench.runner.verify import recompute, verify, verify_file
from mmbench.runner.work import Options
from tests.runner.conftest import Planner


@pytest.fixture(scope="module")
def original(small_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Two records as the runner leaves them."""
    folder = tmp_path_factory.mktemp("records")
    suite = Suite("default", seeds=(1, 2), training=Training(max_epochs=2, patience=2))
    trials, _ = make_plan(
        suite, dataset="synthetic", path=small_store.path, methods_wanted=["lf_dnn"], benchmarks=folder / "none"
    )
    options = Options(folder / "leaderboard", folder / "runs", accelerator="cpu")
    for trial in trials:
        run_trial(trial, options.records, options.runs, accelerator="cpu")
    return options


@pytest.fixture
def copy(original: Options, tmp_path: Path) -> Options:
    shutil.copytree(original.leaderboard, tmp_path / "leaderboard")
    return Options(tmp_path / "leaderboard")


def edited(path: Path, change: Callable[[dict], None]) -> None:
    """Change the content of a record, as somebody with an editor would."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def forged(path: Path, options: Options, **changes: object) -> None:
    """Change a record and make its own digest fit."""
    options.records.write(dataclasses.replace(read_record(path), **changes))


def repacked(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    packed = predictions_path(path)
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines(keepends=True)
    packed.write_bytes(gzip.compress("".join(change(lines)).encode()))


def better(record: Record) -> dict[str, float | None]:
    return {**record.test, "mae": (record.test["mae"] or 0.0) - 0.1}


def test_what_the_runner_leaves_holds(copy: Options) -> None:
    found, problems = verify(copy.records)
    assert (len(found), problems) == (2, [])


def _swap(first: Path, second: Path) -> None:
    one, two = predictions_path(first), predictions_path(second)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def _select_worse(path: Path, options: Options) -> None:
    """Turn the curve around, and say that the first epoch was selected, which is the worse one then."""
    record = read_record(path)
    assert record.selection is not None
    low, high = sorted(row["valid/mae"] for row in record.curve)
    curve = [{**row, "valid/mae": value} for row, value in zip(record.curve, (high, low), strict=True)]
    forged(path, options, curve=curve, selection=dataclasses.replace(record.selection, epoch=0, value=high))


DAMAGE: dict[str, tuple[Callable[[Path, Path, Options], None], str]] = {
    "an edited metric": (
        lambda path, other, options: edited(path, lambda content: content["test"].update(mae=0.001)),
        "it was changed after it was written",
    ),
    "an edited metric and digest": (
        lambda path, other, options: forged(path, options, test=better(read_record(path))),
        "its predictions give",
    ),
    "a metric less": (
        lambda path, other, options: forged(path, options, test={"mae": read_record(path).test["mae"]}),
        "its predictions give",
    ),
    "an edited cost": (
        lambda path, other, options: edited(path, lambda content: content["cost"].update(parameters=7)),
        "it was changed after it was written",
    ),
    "another configuration": (
        lambda path, other, options: forged(path, options, config={**read_record(path).config, "lr": 7.0}),
        "its id is not that of its content",
    ),
    "an epoch that is not in the curve": (
        lambda path, other, options: forged(
            path, options, selection=dataclasses.replace(read_record(path).selection, epoch=77)
        ),
        "its curve does not have the epoch",
    ),
    "another direction": (
        lambda path, other, options: forged(
            path, options, selection=dataclasses.replace(read_record(path).selection, mode="max")
        ),
        "are not selected by the max of mae",
    ),
    "another selecting metric": (
        lambda path, other, options: forged(
            path, options, selection=dataclasses.replace(read_record(path).selection, metric="acc7", mode="max")
        ),
        "are not selected by the max of acc7",
    ),
    "no width of intervals": (
        lambda path, other, options: forged(path, options, calibration=Calibration(half_widths=(-1.0,))),
        "its intervals have the half widths",
    ),
    "too many widths of intervals": (
        lambda path, other, options: forged(path, options, calibration=Calibration(half_widths=(1.0, 1.0))),
        "its intervals have the half widths",
    ),
    "a temperature of numbers": (
        lambda path, other, options: forged(path, options, calibration=Calibration(temperature=1.5)),
        "its calibration is not one of regression targets",
    ),
    "a worse epoch": (
        lambda path, other, options: _select_worse(path, options),
        "a later epoch of its curve is better",
    ),
    "an epoch twice": (
        lambda path, other, options: forged(
            path, options, curve=[*read_record(path).curve, read_record(path).curve[0]]
        ),
        "its curve does not have the 2 epochs",
    ),
    "another label": (lambda path, other, options: forged(path, options, label="better"), "its label 'better'"),
    "another fold": (lambda path, other, options: forged(path, options, folds=0), "it is of fold 0 of 0"),
    "a date that is none": (
        lambda path, other, options: forged(
            path, options, environment=dataclasses.replace(read_record(path).environment, date="zzzz")
        ),
        "its date 'zzzz' is none",
    ),
    "a failure with results": (
        lambda path, other, options: forged(path, options, status="failed", error=Failure("E", "it broke")),
        "it is failed and has results",
    ),
    "a success with an error": (
        lambda path, other, options: forged(path, options, error=Failure("E", "it broke")),
        "it is completed and has an error",
    ),
    "a dropped prediction": (
        lambda path, other, options: repacked(path, lambda lines: lines[:-1]),
        "its predictions are not those that it was written with",
    ),
    "a prediction less, and the digest fits": (
        lambda path, other, options: (
            repacked(path, lambda lines: lines[:-1]),
            forged(path, options, predictions=read_predictions(predictions_path(path))[1]),
        ),
        "23 predictions for 24 test samples",
    ),
    "a prediction twice, and the digest fits": (
        lambda path, other, options: (
            repacked(path, lambda lines: [*lines[:-1], lines[-2]]),
            forged(path, options, predictions=read_predictions(predictions_path(path))[1]),
        ),
        "was predicted twice",
    ),
    "a truncated file of predictions": (
        lambda path, other, options: predictions_path(path).write_bytes(predictions_path(path).read_bytes()[:-20]),
        "its predictions cannot be read",
    ),
    "swapped files of predictions": (
        lambda path, other, options: _swap(path, other),
        "its predictions are not those that it was written with",
    ),
    "a swapped record": (
        lambda path, other, options: path.write_bytes(other.read_bytes()),
        "its place does not fit its content",
    ),
    "a truncated record": (lambda path, other, options: path.write_text(path.read_text()[:300]), "EOF"),
    "predictions that are no table": (
        lambda path, other, options: predictions_path(path).write_bytes(gzip.compress(b"id,x\n1,2\n")),
        "its predictions begin with the columns id, x",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_noticed_and_named_and_the_others_hold(copy: Options, what: str) -> None:
    damage, message = DAMAGE[what]
    path, other = copy.records.paths()
    damage(path, other, copy)
    found, problems = verify(copy.records)
    assert [line for line in problems if str(path) in line and message in line], problems
    assert len(found) == (0 if what == "swapped files of predictions" else 1)
    with pytest.raises(RecordError):
        verify_file(path)


def test_targets_that_are_not_those_of_the_other_records_are_noticed(copy: Options) -> None:
    """Where metrics and digests fit, the records of the same data speak against it."""
    path, other = copy.records.paths()
    third = dataclasses.replace(read_record(other), seed=3)
    third = dataclasses.replace(third, id=trial_id({name: getattr(third, name) for name in DECIDES}))
    copy.records.write(third, read_predictions(predictions_path(other))[0])
    assert verify(copy.records)[1] == []
    predictions, _ = read_predictions(predictions_path(path))
    moved = dataclasses.replace(predictions, target=predictions.target[::-1].copy())
    record = read_record(path)
    test = {name: None if math.isnan(value) else value for name, value in recompute(record, moved).items()}
    copy.records.write(dataclasses.replace(record, test=test), moved)
    verify_file(path)
    found, (line,) = verify(copy.records)
    assert len(found) == 2
    assert line.startswith(f"{path}: its test samples or their targets are not those of the other records")


def test_a_record_in_a_copy_of_its_folder_is_out_of_place(copy: Options) -> None:
    shutil.copytree(copy.records.root / "synthetic", copy.records.root / "records" / "synthetic")
    found, problems = verify(copy.records)
    assert len(found) == 2
    assert len([line for line in problems if "its place would be" in line]) == 2


def test_predictions_without_a_record_are_named(copy: Options) -> None:
    path, _ = copy.records.paths()
    path.unlink()
    found, (line,) = verify(copy.records)
    assert len(found) == 1
    assert "predictions without a record" in line


def test_a_check_that_breaks_names_the_file_and_goes_on(copy: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(record: Record, predictions: object) -> dict[str, float]:
        return {} if record.seed == 2 else {"mae": 1 / 0}

    monkeypatch.setattr("mmbench.runner.verify.recompute", broken)
    found, problems = verify(copy.records)
    assert found == []
    assert any("it cannot be checked (ZeroDivisionError" in line for line in problems)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary", "regression"])
def test_the_metrics_of_every_kind_of_target_come_from_the_predictions(tmp_path: Path, kind: str) -> None:
    store = write_synthetic(tmp_path / "store.h5", kind=kind, samples=(48, 24, 24))
    suite = Suite("default", seeds=(1,), training=Training(max_epochs=2, patience=2))
    (trial,), _ = make_plan(
        suite, dataset="synthetic", path=store.path, methods_wanted=["lf_dnn"], benchmarks=tmp_path / "none"
    )
    options = Options(tmp_path / "leaderboard", tmp_path / "runs")
    record = run_trial(trial, options.records, options.runs, accelerator="cpu")
    path = options.records.path(trial)
    assert verify_file(path) == record
    assert recompute(record, read_predictions(predictions_path(path))[0]).keys() == record.test.keys()


def test_the_command_says_what_holds(copy: Options, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, _ = copy.records.paths()
    assert main(["verify", str(copy.leaderboard)]) == 0
    assert "2 records hold, 0 do not" in capsys.readouterr().out
    assert main(["verify", str(path)]) == 0
    edited(path, lambda content: content["test"].update(mae=0.001))
    assert main(["verify", str(path)]) == 1
    assert main(["verify", str(copy.leaderboard)]) == 1
    out = capsys.readouterr().out
    assert "1 records hold, 1 do not" in out
    assert path.name in out
    assert main(["verify", str(tmp_path / "none")]) == 2


def test_an_edited_reliability_diagram_is_noticed(options: Options, plan: Planner, tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "classes.h5", kind="multiclass", samples=(64, 24, 24))
    (trial,) = plan("lf_dnn", epochs=1, path=store.path)
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    path = options.records.path(trial)
    noted = verify_file(path).calibration
    assert noted is not None
    assert sum(count for count, _, _ in noted.reliability) == 24
    count, confidence, accuracy = noted.reliability[-1]
    for wrong in ((*noted.reliability[:-1], (count, confidence, accuracy + 0.01)), noted.reliability[1:]):
        forged(path, options, calibration=dataclasses.replace(noted, reliability=wrong))
        with pytest.raises(RecordError, match="its reliability diagram"):
            verify_file(path)
    forged(path, options, calibration=dataclasses.replace(noted, temperature=0.0))
    with pytest.raises(RecordError, match=r"its temperature is 0\.0"):
        verify_file(path)


def test_a_diagram_holds_where_confidences_stand_at_the_edge_of_a_bin() -> None:
    """In double precision; the table of predictions has fewer digits than were computed with."""
    logits = torch.tensor([[math.log(place / (15 - place)), 0.0] for place in range(8, 15)], dtype=torch.float64)
    pair = logits, torch.zeros(7)
    noted = calibration(TargetSpec("multiclass", ("calm", "angry")), pair, pair)
    stored = torch.from_numpy(as_stored(logits.numpy())).float()
    assert [count for count, _, _ in noted.reliability] == [one.count for one in reliability(stored, pair[1])]
    assert len(f"{logits[0, 0]:.17g}") > len(f"{stored[0, 0]:.9g}")
