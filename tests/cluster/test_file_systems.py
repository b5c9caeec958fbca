"""Several workers on a file system that is full, and on one that takes its time: nothing lost, nothing twice."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import SEEDS, Commands, finished

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]

SLOW = """
import os, random, time

def slowly(call):
    def called(*arguments, **options):
        time.sleep(random.random() * {seconds})
        answer = call(*arguments, **options)
        time.sleep(random.random() * {seconds})
        return answer
    return called

for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
    setattr(os, name, slowly(getattr(os, name)))
"""


@pytest.fixture
def small_disk(commands: Commands) -> Iterator[Path]:
    """Return the folder of checkpoints of ``full``, on a file system of its own that holds next to nothing."""
    folder = commands.folder / "full-runs"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_all_workers_and_the_same_command_goes_on(commands: Commands, small_disk: Path) -> None:
    command = commands.start("full", "--jobs", "2")
    out, _ = command.communicate(timeout=200)
    assert command.returncode == 1, out
    assert "No space left on device" in out
    assert "The same command continues once it is mended" in out
    assert not commands.records("full"), "a full disk is no result"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finished(commands.start("full", "--jobs", "2"))
    assert commands.records("full") == commands.records("serial")


def test_where_every_step_takes_long_no_trial_is_run_twice(commands: Commands, tmp_path: Path) -> None:
    """Two commands of two workers each, whose moves of files take up to half a second more."""
    (tmp_path / "sitecustomize.py").write_text(SLOW.format(seconds=0.25))
    variables = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    running = [commands.start("slow", "--jobs", "2", variables=variables) for _ in range(2)]
    for command in running:
        finished(command)
    assert commands.records("slow") == commands.records("serial")
    assert len(commands.records("slow")) == len(SEEDS)
    assert commands.repeated("slow") == 0
