"""Whether an owner is dead: by what was seen of it for long enough, or by its process; no clock decides."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmbench.runner import owners
from mmbench.runner.lease import Lease
from tests.runner.lease_worker import foreign, left


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "trial.lease"


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
