"""The file of a store that is being written: in nobody's place, and there only when it is whole.

HDF5 cannot bear a write that fails: the process dies when the file is closed. So it writes through an object that
never fails. What finds no room is held in memory until the next sample; then the writing ends, and says how much room
it took.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import TypeVar

import h5py

from data_modules.files import atomic_path, explained, write_error
from data_modules.schema import DataError
from data_modules.store.hdf5 import Contents, open_hdf5
from data_modules.store.header import FORMAT

Item = TypeVar("Item")


def check_output(out: Path) -> None:
    """Refuse to put a store where something else is.

    Raises:
        DataError: When the path is a folder, or a file that is no store.
        WriteError: When it cannot be a path.
    """
    with explained(out):
        folder = out.is_dir()
    if folder:
        raise DataError(f"{out} is a folder. Give the path of the store to write.")
    if os.path.lexists(out) and not _is_store(out):
        raise DataError(f"{out} exists and is no store. Remove it or give another path.")


def _is_store(path: Path) -> bool:
    with suppress(OSError, ValueError):  # a DataError is of the second kind
        if path.is_file() and h5py.is_hdf5(path):
            with open_hdf5(path) as file:
                return Contents(path, file).attribute("format") == FORMAT
    return False


class NewStore:
    """A store that is being written.

    Attributes:
        file: The file to write to.
    """

    def __init__(self, file: h5py.File, disk: _Disk) -> None:
        self.file, self._disk = file, disk

    def while_there_is_room(self, items: Iterable[Item]) -> Iterator[Item]:
        """Return the items one by one, as long as what was written of those before found room."""
        for item in items:
            self._disk.check()
            yield item
        self._disk.check()


@contextmanager
def new_store(path: Path) -> Iterator[NewStore]:
    """Give a store to write, which takes the place of another when the block ends well.

    Raises:
        DataError: When something else is at the path.
        WriteError: When it cannot be written, with the room that it needs.
    """
    check_output(path)
    with atomic_path(path) as part:
        disk = _Disk(part)
        try:
            with disk, _interrupts_wait(disk), h5py.File(disk, "w") as file:
                yield NewStore(file, disk)
            disk.check()
        except OSError as error:
            if error is not disk.error:
                raise
            os.truncate(part, 0)  # what it took is free again
            free = shutil.disk_usage(path.parent).free
            room = f"It takes more than {disk.needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free there."
            raise write_error(path, error, room) from error


class _Disk(io.FileIO):
    """A file that never fails in the hands of HDF5.

    Attributes:
        error: Why the file cannot be written, or an interrupt that came while HDF5 was writing; None while all is well.
        needed: Bytes of the file, those included that found no room.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+")
        self.error: BaseException | None = None
        self.needed = 0
        self._held: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise what went wrong until now."""
        if self.error is not None:
            raise self.error

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # HDF5 gives nothing else
        position, ahead = self.tell(), memoryview(data)
        self.needed = max(self.needed, position + len(ahead))
        try:
            while len(ahead) and not self._held:
                ahead = ahead[super().write(ahead) :]
        except OSError as error:
            self.error = self.error or error
        if len(ahead):
            self._held.append((position + len(data) - len(ahead), bytes(ahead)))
        return len(data)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        position, size, buffer = self.tell(), len(buffer), memoryview(buffer)
        try:
            found = super().readinto(buffer) or 0
        except OSError as error:
            self.error, found = self.error or error, 0
        buffer[found:] = bytes(size - found)
        for start, held in self._held:
            first, last = max(position, start), min(position + size, start + len(held))
            if first < last:
                buffer[first - position : last - position] = held[first - start : last - start]
        return size

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        return super().seek(max(self.needed, super().seek(0, os.SEEK_END)) if whence == os.SEEK_END else position)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


_CALLED_BY_HDF5: set[CodeType] = {getattr(_Disk, name).__code__ for name in ("write", "readinto", "seek", "truncate")}


@contextmanager
def _interrupts_wait(disk: _Disk) -> Iterator[None]:
    """Hold back an interrupt that comes while HDF5 writes until it has written: it cannot bear that either."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def later(number: int, frame: FrameType | None) -> None:
        inside = frame
        while inside is not None:
            if inside.f_code in _CALLED_BY_HDF5:
                disk.error = disk.error or KeyboardInterrupt()
                return
            inside = inside.f_back
        before(number, frame)

    signal.signal(signal.SIGINT, later)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
