"""Leases among processes that are killed, stopped and forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmbench.runner import lease as lease_module
from mmbench.runner import owners
from mmbench.runner.lease import Lease, wait
from tests.runner import lease_worker
from tests.runner.lease_worker import left

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "trial.lease"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers, which end with the test."""
    started = []

    def go(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, lease_worker.__file__, *map(str, arguments)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield go
    for process in started:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], word: str = "held") -> bool:
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline() == "True\n"


@pytest.mark.skipif(not owners.machine(), reason="needs /proc")
def test_a_killed_owner_on_this_machine_is_succeeded_at_once(path: Path, start: Start) -> None:
    process = start("hold", path)
    assert ask(process)
    assert Lease.take(path) is None
    process.kill()
    with wait(path, poll=0.01) as lease:  # also while it is a zombie
        assert lease.held()


def test_an_owner_that_was_stopped_finds_its_lease_lost(
    path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "EXPIRY", 0.4)
    process = start("hold", path)
    assert ask(process)
    os.kill(process.pid, signal.SIGSTOP)
    with wait(path, poll=0.05) as lease:
        os.kill(process.pid, signal.SIGCONT)
        assert not ask(process)
        assert lease.held()
        assert not ask(process, "release")
        assert lease.held()
    assert left(path) == []


def test_an_owner_that_was_stopped_and_not_succeeded_goes_on(path: Path, start: Start) -> None:
    process = start("hold", path)
    assert ask(process)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGCONT)
    assert ask(process)


def test_a_forked_child_does_not_own_the_lease(path: Path) -> None:
    other = path.with_name("other.lease")
    with Lease.take(path) as lease:
        if (child := os.fork()) == 0:
            status = 1
            try:
                assert not lease.held()
                lease.release()
                assert Lease.take(path) is None
                with Lease.take(other) as own:
                    assert own.held()
                    assert lease_module._HEART.leases == {own}
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lease.held()
    assert left(path) == []


def test_a_lease_does_not_keep_its_process(path: Path, start: Start) -> None:
    process = start("hold", path)
    assert ask(process)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(owners.files_of(path)) == 1, "it was not released"


def test_many_processes_that_are_killed_at_random_do_all_and_never_two_at_once(tmp_path: Path, start: Start) -> None:
    """Half of them cannot see each other's processes, so they wait for the expiry."""
    tasks, folder = 16, tmp_path / "leases"
    crew: list[subprocess.Popen[str]] = []
    seed, deadline = 0, time.monotonic() + 120
    while sum((tmp_path / f"done{task}").exists() for task in range(tasks)) < tasks:
        assert time.monotonic() < deadline
        crew = [process for process in crew if process.poll() is None]
        while len(crew) < 6:
            seed += 1
            crew.append(start("work", folder, seed, "blind" if seed % 2 else "sees", tasks))
        time.sleep(0.02)
    for process in crew:
        assert process.wait(60) in (0, -signal.SIGKILL)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sum(what == "die" for what, _, _ in lines) >= 2, "nobody was killed"
    for task in map(str, range(tasks)):
        events = [(what, who) for what, of, who in lines if of == task]
        ended = [who for what, who in events if what == "end"]
        assert ended
        for who in ended:  # it held the lease from its start until it was sure
            between = events[events.index(("start", who)) + 1 : events.index(("sure", who))]
            assert [event for event in between if event[0] == "start"] == []
    for lease in range(tasks):  # those that were killed leave at most a lease that is dead
        with wait(folder / f"{lease}.lease", poll=0.05):
            pass
    assert os.listdir(folder) == []
