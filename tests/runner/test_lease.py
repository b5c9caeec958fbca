"""Leases: never two owners, whatever fails or is late; nothing is left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest

from mmbench.runner import lease as lease_module
from mmbench.runner import owners
from mmbench.runner.lease import Lease, LeaseError, owner, wait
from tests.runner.lease_worker import foreign, left


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records" / "trial.lease"


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
    first.release()
    assert second.held()


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


def test_who_is_taken_for_dead_before_it_begins_tries_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def too_late(source: Path, target: Path) -> None:
        shutil.rmtree(source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", too_late)
        assert Lease.take(path) is None
    with Lease.take(path) as lease:
        assert lease.held()


def test_a_lease_whose_folder_was_removed_is_lost(path: Path) -> None:
    lease = Lease.take(path)
    shutil.rmtree(path.parent)
    assert not lease.held()
    lease.release()


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
