"""A small plan, run by one process to compare with, and what trials leave."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main
from tests.cluster.small_slurm import slurm

EPOCHS, SEEDS = 12, ("1", "2", "3", "4")
DATED = ("environment", "cost", "digest")
"""What of a record says when and where, and the digest of it all."""


class Commands:
    """``mmbench`` in a folder with a small store.

    Args:
        folder: Where it runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, *more: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a run that keeps everything in folders of a name."""
        plan = ["--method", "lf_dnn", "--store", "small.h5", "--max-epochs", str(EPOCHS), "--seeds", *SEEDS]
        places = ["--leaderboard", f"{name}-results", "--runs", f"{name}-runs", "--accelerator", "cpu"]
        return subprocess.Popen(
            [sys.executable, "-m", "mmbench", "run", *plan, *places, *more],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def status(self, name: str) -> str:
        """Return what ``mmbench status`` says."""
        with redirect_stdout(io.StringIO()) as out:  # in this process: at once, while what it tells of goes on
            assert main(["status", "--runs", str(self.folder / f"{name}-runs")]) == 0
        return out.getvalue()

    def records(self, name: str) -> dict[int, dict[str, Any]]:
        """Return by seed what a run has recorded, without when and where."""
        found = [json.loads(path.read_text()) for path in (self.folder / f"{name}-results/records").rglob("*.json")]
        assert len({record["seed"] for record in found}) == len(found), "a trial has two records"
        return {record["seed"]: {key: value for key, value in record.items() if key not in DATED} for record in found}

    def epochs(self, name: str) -> dict[str, list[int]]:
        """Return by trial the epochs that were trained, in order, by whoever it was."""
        found: dict[str, list[int]] = {}
        for path in sorted((self.folder / f"{name}-runs").glob("*/log/version_*/metrics.csv")):
            with path.open() as file:
                rows = [int(row["epoch"]) for row in csv.DictReader(file) if row.get("valid/mae")]
            found.setdefault(path.parts[-4], []).extend(rows)
        return {trial: sorted(epochs) for trial, epochs in found.items()}

    def repeated(self, name: str) -> int:
        """Return how many epochs were trained more than in one process, if none is missing."""
        found, expected = self.epochs(name), self.epochs("serial")
        assert {trial: set(epochs) for trial, epochs in found.items()} == {
            trial: set(epochs) for trial, epochs in expected.items()
        }
        return sum(map(len, found.values())) - sum(map(len, expected.values()))

    def workers(self, name: str) -> dict[str, int]:
        """Return by name of a worker that trains its process."""
        found = {}
        for lease in (self.folder / f"{name}-runs").glob("*.lease/*"):
            pid = int(lease.name.split(".")[2])
            found[lease.parent.stem] = pid
        return found


def finished(process: subprocess.Popen[str], seconds: float = 300) -> str:
    """Return what a command printed, once it ended well."""
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, _ = process.communicate()
        pytest.fail(f"it did not end:\n{out}")
    assert process.returncode == 0, out
    return out


def until(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain until {what}")
        time.sleep(0.2)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Commands:
    """Return commands of which ``serial`` has run, one trial after the other in one process.

    Of several processes that test the first one makes it, and all share the folder.
    """
    base = tmp_path_factory.getbasetemp()
    made = Commands((base if worker_id == "master" else base.parent) / "cluster")
    with FileLock(made.folder.with_suffix(".lock")):
        if not made.folder.is_dir():
            made.folder.mkdir()
            write_synthetic(made.folder / "small.h5", samples=(1200, 60, 60))
            finished(made.start("serial", "--jobs", "1"))
    assert len(made.records("serial")) == len(SEEDS)
    return made


@pytest.fixture(scope="module")
def node() -> Iterator[dict[str, str]]:
    """Return the environment variables of a SLURM, one for each file of tests, so that these can run side by side."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    try:
        with slurm(folder) as variables:
            yield variables
    finally:
        shutil.rmtree(folder, ignore_errors=True)
