"""Workers as tasks of a real SLURM of two nodes: ended in every way, they leave what one process leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cluster.conftest import SEEDS, Commands, finished, until
from tests.cluster.small_slurm import NEEDED, ask, tasks

pytestmark = NEEDED


def test_workers_that_are_killed_at_their_limit_or_told_to_end_leave_what_one_process_leaves(
    commands: Commands, node: dict[str, str]
) -> None:
    command = commands.start("ended", "--executor", "slurm", "--jobs", "3", "--slurm.minutes", "30", variables=node)
    until(lambda: len(commands.workers("ended")) == 3, "three workers train")
    running = sorted(tasks(node))
    assert len(running) == 3
    killed, told = running[1:]
    found: list[int] = []

    def seen() -> bool:  # between two trials it has no lease
        found[:] = [pid for pid in commands.workers("ended").values() if task_of(pid) == killed]
        return bool(found)

    until(seen, "the one to be killed trains")
    os.kill(found[0], signal.SIGKILL)
    ask(node, "scancel", "--signal=TERM", told)
    ask(node, "scancel", "--signal=USR2", running[0])  # as SLURM does before the time limit
    out = finished(command)
    assert "3 SLURM tasks of 1 core, 30 minutes at a time" in out
    assert commands.records("ended") == commands.records("serial")
    assert commands.repeated("ended") <= 3, "whoever goes on repeats at most the epoch that was running"
    until(lambda: not tasks(node), "all tasks have left")
    assert not [*(commands.folder / "ended-runs/plans").iterdir()]


def task_of(pid: int) -> str:
    """Return the SLURM task that a process is of."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text()
    except OSError:  # it has ended
        return ""
    variables = dict(item.split("=", 1) for item in text.split("\0") if "=" in item)
    return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"


def test_tasks_go_on_without_the_command_and_the_same_command_goes_on_with_them(
    commands: Commands, node: dict[str, str]
) -> None:
    options = ("--executor", "slurm", "--jobs", "2", "--slurm.minutes", "30")
    command = commands.start("left", *options, variables=node)
    until(lambda: len(commands.workers("left")) == 2, "two workers train")
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "go on: `mmbench status` shows them" in out
    said = commands.status("left")
    assert f"slurm, {len(SEEDS)} trials: " in said
    assert "2 running" in said
    local = commands.start("left", "--jobs", "1", variables=node)  # another executor, the same plan
    finished(local)
    assert commands.records("left") == commands.records("serial")
    assert commands.repeated("left") == 0
    until(lambda: not tasks(node), "all tasks have left")
    assert f"{len(SEEDS)} done, 0 failed" in commands.status("left")
    assert "No plan" in commands.status("left")


def test_workers_that_are_preempted_go_on_where_they_are_queued_again(commands: Commands, node: dict[str, str]) -> None:
    command = commands.start("preempted", "--executor", "slurm", "--jobs", "2", variables=node)
    until(lambda: len(commands.workers("preempted")) == 2, "two workers train")
    first = commands.workers("preempted")
    urgent = ["sbatch", "--partition", "urgent", "--nodes", "2", "--exclusive", "--output", "/dev/null"]
    ask(node, *urgent, "--wrap", "sleep 2")
    until(
        lambda: not {*first.values()} & {*commands.workers("preempted").values()}, "both have given their trials back"
    )
    finished(command)
    assert commands.records("preempted") == commands.records("serial")
    assert commands.repeated("preempted") <= 2, "whoever goes on repeats at most the epoch that was running"


def test_what_slurm_does_not_take_is_said(commands: Commands, node: dict[str, str]) -> None:
    command = commands.start(
        "refused", "--executor", "slurm", "--jobs", "2", "--slurm.partition", "none", variables=node
    )
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 2
    assert "SLURM did not take the job" in out
    assert "invalid partition" in out
    assert not [*(commands.folder / "refused-runs/plans").iterdir()]
