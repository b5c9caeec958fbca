"""Where workers start: what is refused before anything is written, and what is said of what is used."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from mmbench.cli import main
from mmbench.methods import ConfigError
from mmbench.runner.executors.local import LocalExecutor, automatic_jobs
from mmbench.runner.executors.ray import RayExecutor
from mmbench.runner.executors.slurm import SlurmExecutor, SlurmSettings, SlurmWorkers


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"There is no SLURM here .* from which jobs are submitted"):
        SlurmExecutor(2, SlurmSettings())


@pytest.mark.parametrize(("library", "extra"), [("submitit", "slurm"), ("ray", "ray")])
def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, library: str, extra: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setitem(sys.modules, library, None)
    make = {"submitit": lambda: SlurmExecutor(2, SlurmSettings()), "ray": lambda: RayExecutor(1)}[library]
    with pytest.raises(ConfigError, match=rf"needs the library {library}: pip install 'mmbench\[{extra}\]'"):
        make()


@pytest.mark.parametrize("name", ["ntasks-per-node", "ntasks_per_node", "time"])
def test_options_of_sbatch_on_which_workers_rest_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Of SLURM's options {name} cannot be among `more`"):
        SlurmSettings(more={name: 2, "nice": 9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm.partition", "main"], "--slurm.KEY and --profile are for --executor slurm"),
        (["--address", "auto"], "--address is for --executor ray"),
        (["--per-gpu", "0"], "--per-gpu is 0: give how many workers share a GPU"),
        (["--executor", "slurm", "--per-gpu", "2"], "with SLURM ask for a share by --slurm.gres"),
        (["--executor", "slurm"], "--executor slurm needs --jobs"),
        (["--nodes", "2"], "--nodes 2 needs --executor slurm"),
        (["--jobs", "-1"], "--jobs is -1 and --per-gpu 1"),
        (["--jobs", "4", "--per-gpu", "2"], "give one of them"),
        (["--executor", "slurm", "--jobs", "2", "--slurm.partitoin", "main"], "Did you mean 'partition'"),
        (["--executor", "slurm", "--jobs", "2", "--slurm.minutes", "2"], "give at least 1 core, and 4 minutes"),
        (["--executor", "slurm", "--jobs", "2", "--profile", "none.yaml"], "none.yaml"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    small_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options, message
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    plan = ["run", "--method", "lf_dnn", "--store", str(small_store.path), "--leaderboard", "results"]
    assert main([*plan, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_profile_is_read_and_options_come_before_it(
    small_store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[SlurmSettings] = []

    def noted(self: SlurmExecutor, jobs: int, settings: SlurmSettings, nodes: int) -> None:
        found.append(settings)
        raise ConfigError("enough")

    monkeypatch.setattr(SlurmExecutor, "__init__", noted)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "gpu.yaml").write_text(
        "partition: gpu\ngres: gpu:1\ncpus: 8\nsetup: [module load cuda]\nmore: {nice: 9}\n"
    )
    plan = ["run", "--method", "lf_dnn", "--store", str(small_store.path), "--leaderboard", "results"]
    assert main([*plan, "--executor", "slurm", "--jobs", "2", "--profile", "gpu.yaml", "--slurm.cpus", "4"]) == 2
    wanted = SlurmSettings(partition="gpu", gres="gpu:1", cpus=4, setup=("module load cuda",), more={"nice": 9})
    assert found == [wanted]


def test_the_gpus_of_a_machine_are_shared_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert automatic_jobs(100, per_gpu=3) == 6
    executor = LocalExecutor(6)
    assert executor.devices == ["3", "5"]
    assert executor.text == "6 processes on 2 of 2 GPUs"
    assert LocalExecutor(2, cpu=True).devices == []
    assert LocalExecutor(2, cpu=True, threads=3).text == "2 processes of 3 threads"


def test_devices_that_are_not_there_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert LocalExecutor(2, threads=1).text == "2 processes of 1 thread"


@pytest.mark.parametrize(("answer", "stays"), [("y", True), ("", True), ("no", False), (None, True)])
def test_an_interrupt_asks_whether_tasks_go_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str | None,
    stays: bool,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    workers = SlurmWorkers(["7_0", "7_1"], Path("logs"))
    assert workers.go_on_alone() is stays
    assert ("scancel 7" in capsys.readouterr().out) is stays
