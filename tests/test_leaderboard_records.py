"""The committed records and tables: whole, in their place, and the ones that the predictions give."""

import gzip
import json
import math
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

import mmbench.runner.plan
from data_modules import FeatureStore
from mmbench.metrics import MultilabelMetric, build_metric
from mmbench.report import build
from mmbench.runner.launch import Options
from mmbench.runner.plan import Trial, make_plan
from mmbench.runner.records import RecordDict, Records
from mmbench.runner.settings import Suite, Training
from mmbench.runner.trial import run_trial

LEADERBOARD = Path(__file__).parents[1] / "leaderboard"


def paths(root: Path) -> list[Path]:
    return sorted(root.glob("**/*.json"))


def recomputed_id(record: RecordDict) -> str:
    """Return the identity that the content of a record gives, under the version of its time."""
    given = {item.name: record[item.name] for item in fields(Trial) if item.name in record}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmbench.runner.plan, "__version__", record["version"])
        return Trial(**given).id


def recomputed_test(record: RecordDict, path: Path) -> dict[str, float]:
    """Return the test metrics of the stored predictions."""
    with gzip.open(path.with_suffix("").with_suffix(".csv.gz"), "rt", encoding="utf-8") as file:
        heads, *lines = file.read().splitlines()
    kinds = [head.rstrip("0123456789") for head in heads.split(",")]
    values = torch.tensor([[float(text) for text in _numbers(line)] for line in lines])
    columns = {kind: [n for n, name in enumerate(kinds[1:]) if name == kind] for kind in ("target", "prediction")}
    target, prediction = values[:, columns["target"]], values[:, columns["prediction"]]
    if record["task"]["kind"] != "regression":
        target = target.long()
    metric = build_metric(record["task"]["family"], tuple(record["task"]["names"]))
    if isinstance(metric, MultilabelMetric):
        metric.thresholds = torch.tensor(record["task"]["thresholds"])
    metric.update(prediction, target, torch.arange(len(lines)))
    return metric.compute()


def _numbers(line: str) -> list[str]:
    """Return the columns after the identifier, which is a JSON string and may hold commas."""
    end = json.JSONDecoder().raw_decode(line)[1]
    return line[end + 1 :].split(",")


def differences(record: RecordDict, path: Path) -> list[str]:
    """Return the stored test values that the stored predictions do not give."""
    found = recomputed_test(record, path)
    stored = {name: math.nan if value is None else value for name, value in record["test"].items()}
    if stored.keys() != found.keys():
        return [f"{path}: has {sorted(stored)}, not {sorted(found)}"]
    return [
        f"{path}: {name} is {stored[name]}, its predictions give {value}"
        for name, value in found.items()
        if stored[name] != pytest.approx(value, abs=1e-5, nan_ok=True)
    ]


def test_every_record_is_whole_and_in_its_place() -> None:
    assert Records(LEADERBOARD / "records").load()[1] == []


def test_no_trial_is_recorded_twice() -> None:
    counts = Counter(path.stem for path in paths(LEADERBOARD / "records"))
    assert [key for key, count in counts.items() if count > 1] == []


def test_every_identity_is_that_of_the_content() -> None:
    found = Records(LEADERBOARD / "records").load()[0]
    assert [record["id"] for record in found if recomputed_id(record) != record["id"]] == []


def test_every_file_of_predictions_has_a_record() -> None:
    packed = (LEADERBOARD / "records").glob("**/*.csv.gz")
    assert [path for path in packed if not path.with_suffix("").with_suffix(".json").is_file()] == []


def test_every_test_value_is_that_of_the_predictions() -> None:
    wrong = []
    for path in paths(LEADERBOARD / "records"):
        record = json.loads(path.read_text())
        if record["status"] == "completed":
            wrong += differences(record, path)
    assert wrong == []


def test_tables_are_those_of_the_records(tmp_path: Path) -> None:
    committed = {path.name: path.read_bytes() for path in LEADERBOARD.glob("*") if path.suffix in (".md", ".csv")}
    if not paths(LEADERBOARD / "records") and not committed:
        return  # nothing was ever run
    made = {path.name: path.read_bytes() for path in build(LEADERBOARD / "records", tmp_path).files}
    assert committed == made, "run `mmbench report`"


@pytest.fixture
def made(small_store: FeatureStore, tmp_path: Path) -> tuple[RecordDict, Path]:
    """A record as the runner leaves it."""
    suite = Suite("default", seeds=(1111,), training=Training(max_epochs=1, patience=1))
    options: dict[str, Any] = {"dataset": "synthetic", "path": small_store.path, "benchmarks": tmp_path / "none"}
    (trial,) = make_plan(suite, methods_wanted=["constant"], **options)[0]
    kept = Options(leaderboard=tmp_path).records
    run_trial(trial, kept, tmp_path / "runs", accelerator="cpu")
    return json.loads(kept.path(trial).read_text()), kept.path(trial)


def test_these_checks_pass_what_the_runner_leaves_and_see_a_change(made: tuple[RecordDict, Path]) -> None:
    record, path = made
    assert record["status"] == "completed"
    assert recomputed_id(record) == record["id"]
    assert differences(record, path) == []
    assert recomputed_id({**record, "version": "0.0.1"}) != record["id"]
    assert recomputed_id({**record, "config": {**record["config"], "lr": 7.0}}) != record["id"]
    name = record["selection"]["metric"]
    assert len(differences({**record, "test": {**record["test"], name: record["test"][name] + 1e-4}}, path)) == 1
