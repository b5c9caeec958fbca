"""One trial over two processes, by the command, for one method of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_modules.datasets.synthetic.clips import write_clips
from data_modules.datasets.synthetic.dialogues import write_dialogues
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]

KINDS = {
    "one phase": ("synthetic", "late_fusion", {}),
    "an objective and a memory": ("synthetic", "mmim", {"gather_negatives": "true"}),
    "phases": ("synthetic", "mvcl", {"unimodal_epochs": "1", "cross_epochs": "1", "fused_epochs": "1"}),
    "two steps on a batch": ("synthetic", "mmmie", {"warmup": "0", "gather_negatives": "true"}),
    "a curriculum": ("synthetic", "cmc", {"pretrain_epochs": "1", "batch_size": "16", "gather_negatives": "true"}),
    "labels that are counted": ("synthetic", "constant", {}),
    "dialogues": ("synthetic_dialogues", "emotion_shift", {"siamese_epochs": "1", "batch_size": "4"}),
    "clips": ("synthetic_clips", "cfn_sr", {"batch_size": "4"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small store of every form."""
    made = tmp_path_factory.mktemp("devices")
    write_synthetic(made / "synthetic.h5", samples=(96, 24, 24))
    write_dialogues(made / "synthetic_dialogues.h5", dialogues=(16, 4, 4))
    write_clips(made / "synthetic_clips.h5", clips=(16, 4, 4))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_leave_a_record_and_its_row_says_so(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, method, settings = KINDS[kind]
    own = [part for name, value in settings.items() for part in (f"--method.{name}", value)]
    places = ["--leaderboard", "results", "--runs", "runs", "--store", f"{dataset}.h5", "--dataset", dataset]
    suite = ["--suite", "ci-clips"] if kind == "clips" else []
    plan = ["--method", method, "--seeds", "1", "--max-epochs", "5", "--devices", "2", "--accelerator", "cpu"]
    monkeypatch.chdir(folder)
    assert main(["run", *plan, *places, *suite, *own]) == 0
    assert "devices=2" in capsys.readouterr().out
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
