"""One trial over two processes, by the command, for one method of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.datasets.synthetic.clips import write_clips
from data_modules.datasets.synthetic.dialogues import write_dialogues
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main
from mmbench.runner.settings import benchmarks_folder, read_mapping

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "synthetic": {
        "late_fusion": {},  # one phase
        "mmim": {"text_pooling": "mean", "gather_negatives": True},  # an objective and a memory
        "mvcl": {"unimodal_epochs": 1, "cross_epochs": 1, "fused_epochs": 1},  # phases
        "mmmie": {"warmup": 0, "gather_negatives": True},  # two steps on a batch
        "cmc": {"pretrain_epochs": 1, "batch_size": 16, "gather_negatives": True},  # a curriculum
        "constant": {},  # labels that are counted
    },
    "synthetic_dialogues": {"emotion_shift": {"siamese_epochs": 1, "batch_size": 4}},
    "synthetic_clips": {"cfn_sr": {"batch_size": 4}},
}
"""By data set methods of every kind, and their settings."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small store of every form, and the settings."""
    write_synthetic(tmp_path / "synthetic.h5", samples=(96, 24, 24))
    write_dialogues(tmp_path / "synthetic_dialogues.h5", dialogues=(16, 4, 4))
    write_clips(tmp_path / "synthetic_clips.h5", clips=(16, 4, 4))
    settings = tmp_path / "benchmarks" / "methods"
    settings.mkdir(parents=True)
    shipped = read_mapping(benchmarks_folder() / "methods" / "cfn_sr.yaml")["suite:ci"]
    for dataset, methods in KINDS.items():
        for name, own in methods.items():
            own = {**shipped, **own} if name == "cfn_sr" else own
            (settings / f"{name}.yaml").write_text(json.dumps({dataset: own}))  # which is YAML too
    suites = tmp_path / "benchmarks" / "suites"
    suites.mkdir()
    (suites / "default.yaml").write_text("seeds: [1]\ntraining: {max_epochs: 5}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dataset", KINDS)
def test_two_processes_leave_records_and_their_rows_say_so(
    folder: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--leaderboard", "results", "--runs", "runs", "--store", f"{dataset}.h5", "--dataset", dataset]
    assert main(["run", "--method", *KINDS[dataset], *places, "--devices", "2", "--accelerator", "cpu"]) == 0
    said = capsys.readouterr().out
    for method in KINDS[dataset]:
        assert f"{method} [devices=2" in said
        (path,) = (folder / "results/records").rglob(f"{method}/*.json")
        record = json.loads(path.read_text())
        assert (record["status"], record["training"]["devices"]) == ("completed", 2)
        assert record["samples"]["test"] == len({*record_ids(path)})


def record_ids(path: Path) -> list[str]:
    """Return the samples that a record predicts, none twice."""
    from mmbench.runner.predictions import read_predictions
    from mmbench.runner.records import predictions_path

    ids = read_predictions(predictions_path(path))[0].ids
    assert len(set(ids)) == len(ids)
    return ids
