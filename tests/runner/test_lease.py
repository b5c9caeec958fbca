"""Leases: never two owners, whatever is killed, stopped, copied or late; nothing is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmbench.runner import lease as lease_module
from mmbench.runner import owners
from mmbench.runner.lease import Lease, LeaseError, LeaseLost, owner, wait

WORKER = Path(__file__).with_name("lease_worker.py")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "trial.lease"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start workers, which end with the test."""
    started = []

    def go(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(WORKER), *map(str, arguments)]
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


def foreign(path: Path, token: str = "0" * 16, beat: int = 0, process: str = "7.1.abcdef.elsewhere") -> Path:
    """Leave the lease of an owner on another machine."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"{token}.{beat}.{process}"
    file.touch()
    return file


def left(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def test_a_lease_excludes_others_until_it_is_released(path: Path) -> None:
    first = Lease.take(path)
    assert first
    assert first.held()
    assert Lease.take(path) is None
    assert re.fullmatch(rf"process {os.getpid()} on [\w-]+", owner(path))
    first.release()
    assert not first.held()
    assert left(path) == []
    assert owner(path) == ""
    with Lease.take(path) as second:
        first.release()
        assert second.held()
        assert not first.held()
    assert left(path) == []


def test_an_error_in_the_block_releases(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease.take(path):
        _ = 1 / 0
    assert left(path) == []


def test_two_leases_of_one_folder_are_two(path: Path) -> None:
    with Lease.take(path) as one:
        threads = threading.active_count()
        with Lease.take(path.with_name("other.lease")) as other:
            assert one.held()
            assert other.held()
            assert threading.active_count() == threads, "one thread beats for both"


def test_an_empty_folder_is_a_free_lease(path: Path) -> None:
    path.mkdir(parents=True)
    with Lease.take(path) as lease:
        assert lease.held()
    assert left(path) == []


def test_a_living_owner_elsewhere_is_respected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "EXPIRY", 0.2)
    file = foreign(path)
    for beat in range(1, 8):
        assert Lease.take(path) is None
        time.sleep(0.1)
        file = file.rename(foreign(path, beat=beat))
    time.sleep(0.25)
    assert Lease.take(path) is None, "the last beat has not been seen for long enough"
    time.sleep(0.25)
    with Lease.take(path) as lease:
        assert lease.held()


@pytest.mark.parametrize("when", [0, 2**33])
def test_the_times_of_files_and_the_clock_decide_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    os.utime(foreign(path), (when, when))
    os.utime(path, (when, when))
    monkeypatch.setattr(time, "time", lambda: 2.0**34)
    assert Lease.take(path) is None
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 59)
    assert Lease.take(path) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert Lease.take(path)


@pytest.mark.skipif(not owners.machine(), reason="needs /proc")
def test_a_killed_owner_on_this_machine_is_succeeded_at_once(path: Path, start: Start) -> None:
    process = start("hold", path)
    assert ask(process)
    assert Lease.take(path) is None
    process.kill()
    with wait(path, poll=0.01) as lease:  # also while it is a zombie
        assert lease.held()


@pytest.mark.skipif(not owners.machine(), reason="needs /proc")
def test_only_a_process_that_is_surely_gone_is_gone() -> None:
    def name(machine: str = owners.machine(), pid: int = os.getpid(), start: int | str = "") -> str:
        return f"{'0' * 16}.3.{pid}.{start or owners._start(pid)}.{machine}.host"

    assert not owners.gone(name())
    assert owners.gone(name(start=1)), "another process got its number"
    assert owners.gone(name(pid=2**22 + 1, start=1))
    assert not owners.gone(name(pid=2**22 + 1, start=1, machine="abcdef")), "the numbers of another machine"
    assert not owners.gone(name(pid=2**22 + 1, start=1, machine="")), "nor of one unknown"
    assert not owners.gone("rubbish")


def test_without_proc_nothing_is_said_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: object, **options: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "readlink", missing)
    assert owners.machine.__wrapped__() == ""
    assert owners.NAME.fullmatch(f"{'0' * 16}.0.{owners.this_process()}")["machine"] == ""
    monkeypatch.setattr(owners, "machine", lambda: "")
    assert not owners.gone(f"{'0' * 16}.3.{2**22 + 1}...host")


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


def test_who_takes_over_too_late_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every point where a takeover can be stopped for long: the owner has beaten, left, or has a successor."""
    owned = Lease.take(path)
    late = Lease(path)
    seen = owners.files_of(path)
    assert owned.held()
    assert not late._succeed(seen)
    seen = owners.files_of(path)
    owned.release()
    assert not late._succeed(seen)
    with Lease.take(path) as successor:
        assert not late._succeed(seen)
        assert not late._enter()
        assert successor.held()
    assert left(path) == []


def test_a_wrong_judgement_never_makes_two_owners(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease.take(path)
    monkeypatch.setattr(lease_module, "dead", lambda path, files: True)
    second = Lease.take(path)
    assert second.held()
    assert not first.held()
    with pytest.raises(LeaseLost, match="taken over"):
        first.check()
    second.check()
    first.release()
    assert second.held()


def test_copies_of_a_lease_are_taken_over_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is copied again and again while trials run collects several files."""
    for beat in (3, 5, 9):
        foreign(path, beat=beat)
    now = time.monotonic()
    assert Lease.take(path) is None
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    lease = Lease.take(path)
    assert len(owners.files_of(path)) == 1
    lease.release()
    assert left(path) == []


def test_what_was_left_just_before_taking_is_swept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(path.with_name(f"{path.name}.{'0' * 16}"))
    keep = path.with_name(f"{path.name}.json")
    keep.touch()
    with Lease.take(path):
        assert len(left(path)) == 3
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    with Lease.take(path):
        assert left(path) == [path.name, keep.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_a_failing_sign_of_life_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    monkeypatch.setattr(lease_module, "_HEART", lease_module._Heart())
    with Lease.take(path) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            assert lease.held()
            time.sleep(0.1)
        seen = owners.files_of(path)
        deadline = time.monotonic() + 10
        while owners.files_of(path) in (seen, ()):
            assert time.monotonic() < deadline, "the thread beats on"
            time.sleep(0.01)
        assert lease.held()
    assert left(path) == []


def test_an_answer_of_the_server_that_is_lost_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call was done, is repeated, and fails: what it names is gone, or there already."""
    rename = os.rename

    def twice(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)

    monkeypatch.setattr(os, "rename", twice)
    with Lease.take(path) as lease:
        assert lease.held()
        assert lease.held()
    foreign(path)
    assert Lease(path)._succeed(owners.files_of(path))


def test_a_lease_whose_folder_was_removed_is_lost(path: Path) -> None:
    lease = Lease.take(path)
    shutil.rmtree(path.parent)
    assert not lease.held()
    lease.release()


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


def test_waiting_ends_with_the_lease_or_with_what_was_waited_for(path: Path) -> None:
    with Lease.take(path) as lease:
        looks = iter([False, False, True])
        assert wait(path, until=lambda: next(looks), poll=0.01) is None
        timer = threading.Timer(0.1, lease.release)
        timer.start()
        with wait(path, poll=0.01) as mine:
            assert mine.held()
        timer.join()


@pytest.mark.parametrize(
    ("call", "number", "says"),
    [
        ("mkdir", errno.ENOSPC, "No space left on device. Free some space"),
        ("rename", errno.EDQUOT, "Free some space"),
        ("mkdir", errno.EROFS, "Read-only file system. Choose a folder that you may write to"),
        ("mkdir", errno.EACCES, "Choose a folder that you may write to"),
        ("listdir", errno.EIO, "Check the file system"),
    ],
)
def test_what_cannot_be_locked_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, says: str
) -> None:
    path.parent.mkdir()
    (path.parent / "record.json").touch()

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(LeaseError, match=rf"trial\.lease cannot be locked: .*{says}"):
            Lease.take(path)
    assert left(path) == ["record.json"]


def test_what_is_no_lease_is_named_and_kept(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(LeaseError, match=r"'notes\.txt' lies there"):
        Lease.take(path)
    with pytest.raises(LeaseError, match=r"notes\.txt.* cannot be locked: Not a directory\. Remove what lies there"):
        Lease.take(path / "notes.txt")
    assert (path / "notes.txt").read_text() == "mine"


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
