"""What a cluster says in its variables does not make several trials one training."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap
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
    plan = ["--method", "lf_dnn", "--seeds", "1111", "--max-epochs", "2", "--jobs", "1", "--leaderboard", "results"]
    code = f"""
        from pathlib import Path
        from mmbench.cli import main

        store, plan = {str(small_store.path)!r}, {plan}
        assert main(["run", *plan, "--store", store, "--accelerator", "cpu"]) == 0
        (checkpoint,) = Path("runs").glob("*/epoch=*.ckpt")
        written = ["--data", store, "--out", "predictions.csv", "--accelerator", "cpu"]
        assert main(["predict", "--checkpoint", str(checkpoint), *written]) == 0
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = (tmp_path / "results/records").rglob("*.json")
    assert json.loads(path.read_text())["status"] == "completed"
    (table,) = (tmp_path / "runs").glob("*/log/version_0/metrics.csv")
    with table.open() as file:  # by the first process of a training, and that is this one
        assert [row["epoch"] for row in csv.DictReader(file) if row["valid/mae"]] == ["0", "1"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == len(small_store) + 1
