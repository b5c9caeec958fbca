"""Stores on disks that fill up, over files of the user, and while somebody interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.files import WriteError
from data_modules.schema import DataError, TargetSpec
from data_modules.store import FeatureStore, Sample, StoreInfo, check_output, new_store, write_store

resource = pytest.importorskip("resource")
INFO = StoreInfo("mine", "set", TargetSpec("regression", ("score",)))
ROWS, COLUMNS = 1000, 500
"""Of one sample: two megabytes, two chunks of a store."""


def records(count: int, seen: list[int] | None = None) -> Iterator[Sample]:
    for number in range(count):
        if seen is not None:
            seen.append(number)
        values = np.full((ROWS, COLUMNS), number, np.float32)
        yield Sample(f"s{number}", {"text": values}, 0.5, ("train", "valid", "test")[number % 3])


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may be larger: the kernel answers as a full disk does, and needs no rights for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 50_000, 4_500_000])
def test_a_disk_that_fills_up_ends_with_a_message_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    """Without care for HDF5 the process dies here."""
    seen: list[int] = []
    message = r"s\.h5 cannot be written: File too large\. It takes more than [\d.]+ MB, and [\d.]+ MB are free there"
    with pytest.raises(WriteError, match=message), room(size):
        write_store(tmp_path / "s.h5", INFO, records(60, seen))
    assert list(tmp_path.iterdir()) == []
    assert len(seen) < 20, "what finds no room must not gather in memory"
    assert len(write_store(tmp_path / "s.h5", INFO, records(3))) == 3


def test_the_store_that_was_there_stays(tmp_path: Path) -> None:
    before = write_store(tmp_path / "s.h5", INFO, records(3)).content
    with pytest.raises(WriteError), room(1_000_000):
        write_store(tmp_path / "s.h5", INFO, records(4))
    store = FeatureStore(tmp_path / "s.h5")
    assert (store.content, len(store)) == (before, 3)
    store.verify()


def test_what_found_no_room_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.touch()
    with new_store._Disk(path) as disk:
        with room(6):
            disk.write(memoryview(b"abcdefgh"))
            disk.seek(7)
            disk.write(memoryview(b"HIJ"))
        found = bytearray(12)
        disk.seek(0)
        disk.readinto(memoryview(found))
        assert bytes(found) == b"abcdefgHIJ\0\0"
        assert (disk.seek(0, os.SEEK_END), disk.needed) == (10, 10)
        with pytest.raises(OSError, match="File too large"):
            disk.check()
    assert path.read_bytes() == b"abcdef"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, which those of a process that was started in the background are not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_hdf5_writes_waits_until_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, sent = new_store._Disk.write, []

    def interrupted(self: new_store._Disk, data: memoryview) -> int:
        if not sent:
            sent.append("sent")
            os.kill(os.getpid(), signal.SIGINT)
            sent.append("and went on")
        return write(self, data)

    monkeypatch.setattr(new_store._Disk, "write", interrupted)
    monkeypatch.setattr(new_store, "_CALLED_BY_HDF5", {interrupted.__code__})
    handler, seen = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s.h5", INFO, records(60, seen))
    assert len(sent) == 2
    assert len(seen) < 20
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_at_any_other_time_is_one_at_once(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Sample]:
        yield from records(1)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "s.h5", INFO, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_only_a_store_gives_way_to_a_store(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with h5py.File(out, "w") as file:  # such as features of one's own, or a .csd
        file["mine"] = [1, 2]
    content = out.read_bytes()
    for _ in range(2):
        with pytest.raises(DataError, match=r"exists and is no store\. Remove it or give another path"):
            write_store(out, INFO, records(1))
        assert out.read_bytes() == content
        content = b"\x89HDF\r\n\x1a\n, cut off"
        out.write_bytes(content)
    with pytest.raises(WriteError, match=r"too long\. Choose a shorter name"):
        check_output(tmp_path / ("n" * 300))
    with pytest.raises(DataError, match="is a folder"):
        check_output(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match="exists and is no store"):
        check_output(tmp_path / "link")
    with pytest.raises(DataError, match="exists and is no store"):
        check_output(Path(os.devnull))


def test_a_store_with_damaged_texts_is_no_store(tmp_path: Path) -> None:
    """To tell what it is takes one of them, which may be without end."""
    out = write_store(tmp_path / "s.h5", INFO, records(3)).path
    content = out.read_bytes()
    heap = content.index(b"GCOL")
    out.write_bytes(content[: heap + 16] + bytes(16) + content[heap + 32 :])
    with pytest.raises(DataError, match="exists and is no store"):
        check_output(out)
