"""What a cluster says in its variables does not make several trials one training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_modules import FeatureStore

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node1",
}
TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "GROUP_RANK": "0", "MASTER_ADDR": "node1"}
TORCHRUN |= {"MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "7"}


@pytest.mark.parametrize("variables", [SLURM, TORCHRUN], ids=["slurm", "torchrun"])
def test_a_task_of_a_cluster_trains_and_predicts_by_itself(
    small_store: FeatureStore, tmp_path: Path, variables: dict[str, str]
) -> None:
    def mmbench(*arguments: str) -> None:
        command = [sys.executable, "-m", "mmbench", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    run = [
        "--method",
        "lf_dnn",
        "--store",
        str(small_store.path),
        "--seeds",
        "1111",
        "--max-epochs",
        "2",
        "--jobs",
        "1",
    ]
    mmbench("run", *run, "--leaderboard", "results", "--accelerator", "cpu")
    (path,) = (tmp_path / "results/records").rglob("*.json")
    assert json.loads(path.read_text())["status"] == "completed"
    (table,) = (tmp_path / "runs").glob("*/log/version_0/metrics.csv")
    with table.open() as file:  # by the first process of a training, and that is this one
        assert [row["epoch"] for row in csv.DictReader(file) if row["valid/mae"]] == ["0", "1"]
    (checkpoint,) = (tmp_path / "runs").glob("*/epoch=*.ckpt")
    predicted = ["--checkpoint", str(checkpoint), "--data", str(small_store.path), "--out", "predictions.csv"]
    mmbench("predict", *predicted, "--accelerator", "cpu")
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == len(small_store) + 1
