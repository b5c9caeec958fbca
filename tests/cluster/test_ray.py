"""Workers as tasks of a real Ray on this machine."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from tests.cluster.conftest import Commands, finished, until

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="not installed: ray"),
]
EAGER = {"RAY_worker_niceness": "0"}
"""Ray's tasks would leave the cores to the tests that run beside these."""


def test_a_worker_that_is_killed_leaves_what_one_process_leaves(commands: Commands) -> None:
    command = commands.start("ray", "--executor", "ray", "--jobs", "2", variables=EAGER)
    until(lambda: len(commands.workers("ray")) == 2, "two workers train", 240)
    os.kill(next(iter(commands.workers("ray").values())), signal.SIGKILL)
    out = finished(command)
    assert "2 tasks on Ray on this machine" in out
    assert commands.records("ray") == commands.records("serial")
    assert commands.repeated("ray") <= 1, "whoever goes on repeats at most the epoch that was running"


def test_an_interrupt_ends_the_tasks_and_the_same_command_goes_on(commands: Commands) -> None:
    command = commands.start("stopped", "--executor", "ray", "--jobs", "2", variables=EAGER)
    until(lambda: len(commands.workers("stopped")) == 2, "two workers train", 240)
    running = commands.workers("stopped").values()
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=120)
    assert command.returncode == 130
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in running), "the workers have ended")
    assert not commands.workers("stopped"), "a lease was not given back"
    finished(commands.start("stopped", "--jobs", "1"))
    assert commands.records("stopped") == commands.records("serial")


def test_an_address_without_a_cluster_is_said(commands: Commands) -> None:
    command = commands.start("nowhere", "--executor", "ray", "--address", "127.0.0.1:1")
    out, _ = command.communicate(timeout=120)
    assert command.returncode == 2, out
    assert "There is no Ray cluster at 127.0.0.1:1" in out
