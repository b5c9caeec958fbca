"""Trainings over several machines and processes, as tasks of a real SLURM: whatever ends them, they go on."""

from __future__ import annotations

import subprocess
from contextlib import suppress

from tests.cluster.conftest import Commands, finished, until
from tests.cluster.small_slurm import NEEDED, ask, tasks
from tests.runner.conftest import write_broken

pytestmark = NEEDED


def test_a_trial_over_two_machines_goes_on_to_the_same_record_when_told_to_end_and_when_a_node_dies(
    commands: Commands, node: dict[str, str]
) -> None:
    def starts() -> int:
        """How often an epoch was trained after a start."""
        tables = (commands.folder / "machines-runs").glob("*/log/version_*/metrics.csv")
        return sum("\n" in table.read_text().rstrip() for table in tables)

    finished(commands.start("one-machine", "--seeds", "1", "--devices", "2", "--jobs", "1"))
    options = ("--seeds", "1", "--nodes", "2", "--executor", "slurm", "--jobs", "1", "--slurm.minutes", "30")
    command = commands.start("machines", *options, variables=node)
    until(lambda: starts() == 1, "an epoch was trained", 240)
    (task,) = tasks(node)
    ask(node, "scancel", "--signal=USR2", task)  # as SLURM does before the time limit
    until(lambda: starts() == 2, "it trains again", 240)
    ask(node, "scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=dead")
    until(lambda: "RUNNING" not in tasks(node).values(), "the task has left the node")
    with suppress(subprocess.CalledProcessError):  # it may be back by itself
        ask(node, "scontrol", "update", "NodeName=node2", "State=RESUME")
    out = finished(command)
    assert "1 SLURM tasks of 2 machines with 1 core, 30 minutes at a time" in out
    assert commands.records("machines") == commands.records("one-machine")
    assert starts() == 3
    until(lambda: not tasks(node), "the task has left")


def test_a_task_whose_training_waits_for_good_is_queued_again_for_the_rest(
    commands: Commands, node: dict[str, str]
) -> None:
    first = "'SLURM_RESTART_COUNT' not in os.environ"
    raises = f"if {first}: raise ValueError('too much')"
    plugin = write_broken(commands.folder, "Waiting", raises, "distributed.NOTICED = 0.5", waits=first)
    options = ("--method", "waiting", "--seeds", "1", "2", "--max-epochs", "1", "--devices", "2")
    variables = {**node, "MMBENCH_PLUGINS": str(plugin)}
    command = commands.start("waits", *options, "--executor", "slurm", "--jobs", "1", variables=variables)
    out, _ = command.communicate(timeout=300)
    assert command.returncode == 1, out
    found = {seed: (record["status"], record["error"]) for seed, record in commands.records("waits").items()}
    assert found[2] == ("completed", None), out
    assert found[1][0] == "failed", out
    assert "ValueError: too much" in found[1][1]["message"]
