"""Files that are whole or not there: full disks, odd places, and what killed processes leave."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from data_modules import files
from data_modules.files import PART, WriteError, atomic_path

fcntl = pytest.importorskip("fcntl")
OTHER = f".a.txt.elsewhere.{'0' * 16}.part"


def write(path: Path, text: str = "all") -> None:
    with atomic_path(path) as part:
        part.write_text(text)


def write_first(path: Path) -> None:
    """Write as a process that has not written there before."""
    files._swept.clear()
    write(path)


def write_half(path: Path, error: Exception) -> None:
    with atomic_path(path) as part:
        part.write_text("half")
        assert path.read_text() == "first"
        raise error


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write(path, "first")
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError())
    assert [(one.name, one.read_text()) for one in path.parent.iterdir()] == [("a.txt", "first")]


def test_what_a_file_may_is_what_the_user_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_places_that_cannot_be_written_are_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, message in (
        (tmp_path / "file" / "a.txt", r"file/a\.txt cannot be written: .*Remove what lies there and is no folder"),
        (tmp_path / ("n" * 300), "cannot be written: File name too long. Choose a shorter name"),
        (Path("/proc/x/a.txt"), r"/proc/x/a\.txt cannot be written"),
    ):
        with pytest.raises(WriteError, match=message):
            write(path)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    write(tmp_path / ("n" * 255))  # the longest name that there is has a part too


def test_a_full_disk_says_so_of_the_file_and_not_of_its_part(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "first")
    with pytest.raises(WriteError, match=r"^/.*/a\.txt cannot be written: No space left.*Free some") as caught:
        write_half(tmp_path / "a.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.errno == errno.ENOSPC  # by which a run tells what hits every trial
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.txt", "first")]


def test_an_error_of_another_file_is_not_called_one_of_this(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_path(tmp_path / "a.txt"):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The part of a process that was killed while it wrote."""
    ready, begun = os.pipe()
    if (child := os.fork()) == 0:
        with atomic_path(tmp_path / "a.txt"):
            os.write(begun, b".")
            signal.pause()
        os._exit(1)
    os.read(ready, 1)
    (part,) = tmp_path.iterdir()
    write_first(tmp_path / "b.txt")
    assert part.exists(), "what a living process writes stays"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(begun)
    return part


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, killed: Path) -> None:
    assert PART.fullmatch(killed.name)
    assert killed.exists()
    write_first(tmp_path / "a.txt")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_a_folder_is_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be one of many thousands of clips."""
    looked: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: looked.append(str(folder)) or scandir(folder))
    for name in ("a.txt", "b.txt", "deeper/a.txt", "c.txt", "deeper/b.txt"):
        write(tmp_path / name)
    assert looked == [str(tmp_path), str(tmp_path / "deeper")]


def test_parts_of_this_process_and_of_other_machines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / OTHER).touch()
    (tmp_path / ".mine.part").touch()
    with atomic_path(tmp_path / "a.txt") as part:
        write_first(tmp_path / "b.txt")
        assert part.exists()
        part.write_text("all")
    assert (tmp_path / "a.txt").read_text() == "all"
    assert {OTHER, ".mine.part"} < {one.name for one in tmp_path.iterdir()}
    # After a week without a change it is left, whoever made it; this is by the clock that dates files.
    os.utime(tmp_path / OTHER, times=(0, (tmp_path / "b.txt").stat().st_mtime - files.WEEK - 1))
    write_first(tmp_path / "b.txt")
    assert {one.name for one in tmp_path.iterdir()} == {".mine.part", "a.txt", "b.txt"}


def test_a_file_system_without_locks_keeps_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / f".a.txt.{files._HOST}.{'0' * 16}.part"
    left.touch()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", none)
        write_first(tmp_path / "a.txt")
    with monkeypatch.context() as patch:
        patch.setattr(files, "fcntl", None)
        write_first(tmp_path / "a.txt")
    assert left.exists()
    write_first(tmp_path / "a.txt")
    assert not left.exists()
