"""HDF5 files of strangers: opened so that no other file is read through them, and read so that nothing is believed."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data_modules.budget import Allowance, budget, no_memory
from data_modules.names import printable
from data_modules.schema import DataError
from data_modules.store.hdf5_heap import AGAIN, check_heaps, texts_size

MOST = 1 << 18
"""Objects in one file; more is a file made to keep a reader busy."""
DENSEST = 2000
"""Bytes that a byte of a file may stand for; the compressions of HDF5 reach about a thousand."""
TEXT_BYTES = 128
"""What a text takes in memory beside its characters."""
LONGEST_TEXT = 1 << 32
NOTES = 4096
"""What the library keeps of a block while it reads."""

Array = npt.NDArray[Any]


@contextmanager
def open_hdf5(path: Path, remedy: str = AGAIN) -> Iterator[h5py.File]:
    """Open a file for reading, unless it would make other files be read.

    Args:
        path: The file.
        remedy: What to do with a damaged one, a sentence.

    Raises:
        DataError: When it has external links, external storage or virtual data sets, more objects than any data, or
            declares more values than a file of its size can hold, or is damaged in a way that shows.
        OSError: When it cannot be opened.
    """
    with h5py.File(path, "r") as file:
        with reading(path, remedy=remedy):
            check_heaps(path, file, remedy)
            _refuse_others(path, file, remedy)
        yield file


@contextmanager
def reading(path: Path, address: str = "", remedy: str = AGAIN) -> Iterator[None]:
    """Say of whatever goes wrong in a block that only reads from a file that the file is damaged."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise no_memory(f"{path}{_of(address)}") from error
    except Exception as error:  # HDF5 says damage in OSError, KeyError, RuntimeError, ValueError, TypeError and others
        raise DataError(f"{path}{_of(address)} is damaged ({error}). {remedy}") from error


def _of(address: str) -> str:
    return f": {address!r}" if address else ""


def _refuse_others(path: Path, file: h5py.File, remedy: str) -> None:
    """Refuse a file whose content lies in others, or that declares more than it can hold."""
    most = DENSEST * max(path.stat().st_size, 1 << 16)
    ahead: list[h5py.Group] = [file]
    seen: set[tuple[int, int]] = set()
    declared = 0
    while ahead:
        group = ahead.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):  # leads to what is met on its own way
                continue
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"{path}: {where!r} is a link to another file, which is not followed. {_INSTEAD}")
            item = group[name]
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise DataError(f"{path}: the values of {where!r} lie in another file, which is not read. {_INSTEAD}")
            info = h5py.h5o.get_info(item.id)
            key = (info.fileno, info.addr)
            if key in seen:  # a group may hold itself
                continue
            seen.add(key)
            if isinstance(item, h5py.Group):
                ahead.append(item)
            elif isinstance(item, h5py.Dataset):
                declared += item.id.get_type().get_size() * math.prod(item.shape or ())
            if len(seen) > MOST:
                raise DataError(f"{path} has more than {MOST} groups and arrays. It is damaged or hostile.")
            if declared > most:
                raise DataError(
                    f"{path}: {where!r} is declared to have the shape {item.shape}, more than a file of this size "
                    f"can hold. {remedy}"
                )


_INSTEAD = "Get the file from its authors, or write all values into one file."


class Contents:
    """What is read of an open file: each thing is what it must be, and all of it together fits the memory allowed.

    Args:
        path: The file, for messages.
        file: The file, open.
        remedy: What to do with a file that is not as it must be, a sentence.
    """

    def __init__(self, path: Path, file: h5py.File, remedy: str = AGAIN) -> None:
        self.path, self.file, self.remedy = path, file, remedy
        self._allowance = Allowance(path)

    def wrong(self, address: str, what: str) -> DataError:
        """Return the error for a thing that is not as it must be."""
        return DataError(f"{self.path}: {address!r} {what}. {self.remedy}")

    def attribute(self, name: str) -> Any:
        """Return an attribute of the file as a string or a number, None where there is none.

        Raises:
            DataError: When it is anything else.
        """
        with self._reading(name):
            if name not in self.file.attrs:
                return None
            id = self.file.attrs.get_id(name)
            self._allowance.take(name, math.prod(id.shape or ()) * id.dtype.itemsize)
            value = self.file.attrs[name]
        value = value.item() if isinstance(value, np.generic) else value
        if not isinstance(value, str | int | float):
            raise self.wrong(name, f"is a {type(value).__name__}; a text or a number was expected")
        if isinstance(value, str) and printable(value) != value:
            raise self.wrong(name, "is no Unicode text")
        return value

    def members(self, address: str) -> list[str]:
        """Return the names in a group, in their order.

        Raises:
            DataError: When there is no such group.
        """
        with self._reading(address):
            group = self.file.get(address)
            if isinstance(group, h5py.Group):
                return list(group)
        raise self.wrong(address, "is no group" if self.has(address) else "is missing")

    def has(self, address: str) -> bool:
        """Return whether there is a thing, or at least a link that should lead to one."""
        with self._reading(address):
            return self.file.get(address, getlink=True) is not None

    def find(self, address: str) -> h5py.Dataset:
        """Return an array, not read.

        Raises:
            DataError: When there is none.
        """
        if not self.has(address):
            raise self.wrong(address, "is missing")
        with self._reading(address):
            item = self.file.get(address)
        if not isinstance(item, h5py.Dataset):
            kind = "a link that leads nowhere" if item is None else f"a {type(item).__name__.lower()}"
            raise self.wrong(address, f"is {kind}; an array was expected")
        with self._reading(address):
            _, shape = item.dtype, item.shape  # of a type that numpy knows
        if shape is None:
            raise self.wrong(address, "is empty; an array was expected")
        return item

    def array(self, address: str, kinds: str = "fiub", copies: int = 1) -> Array:
        """Return an array of numbers.

        Args:
            address: Where it is.
            kinds: The kinds of numpy types that it may have.
            copies: How many times over its memory will be taken.

        Raises:
            DataError: When it is missing, of another type, damaged, or too large.
        """
        data = self.find(address)
        if data.dtype.kind not in kinds or h5py.check_dtype(vlen=data.dtype) or data.dtype.subdtype:
            raise self.wrong(address, f"holds values of type {data.dtype}; numbers were expected")
        self._allowance.take(address, copies * math.prod(data.shape) * data.dtype.itemsize, _chunk(data))
        with self._reading(address):
            return np.asarray(data[()])

    def load(self, address: str, copies: int = 1) -> Array:
        """Return an array of numbers or texts.

        Raises:
            DataError: As :meth:`array` and :meth:`texts` do.
        """
        if h5py.check_string_dtype(self.find(address).dtype):
            return np.asarray(self.texts(address), dtype=object)
        return self.array(address, copies=copies)

    def names(self) -> list[str]:
        """Return the names at the top of the file."""
        return self.members("/")

    def texts(self, address: str) -> list[str]:
        """Return an array of texts.

        Raises:
            DataError: When it is missing, of another type or shape, damaged, or too large.
        """
        data = self.find(address)
        kind = h5py.check_string_dtype(data.dtype)
        if kind is None or len(data.shape) != 1:
            raise self.wrong(address, f"holds {data.dtype} of shape {data.shape}; texts were expected, one per sample")
        self._allowance.take(address, len(data) * (2 * data.dtype.itemsize + TEXT_BYTES), _chunk(data))
        rows = max(1, len(data))
        if kind.length is None:
            with self._reading(address):
                size = texts_size(self.path, data)
            if size is None:  # known only when they are read
                rows = max(1, budget() // (8 * min(LONGEST_TEXT, self.path.stat().st_size)))
            else:
                self._allowance.take(address, 5 * size)
        found: list[str] = []
        for start in range(0, len(data), rows):
            with self._reading(address):
                part = data.asstr()[start : start + rows].tolist()
            if rows < len(data):
                self._allowance.take(address, sum(map(sys.getsizeof, part)))
            found += part
        return found

    def _reading(self, address: str) -> AbstractContextManager[None]:
        return reading(self.path, address, self.remedy)


def _chunk(data: h5py.Dataset) -> int:
    """Return what reading an array takes beside the array.

    To unpack a block the library doubles its space as it goes, and of every block it takes notes.
    """
    if not data.chunks:
        return 0
    blocks = math.prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks, strict=True))
    return 6 * math.prod(data.chunks) * data.dtype.itemsize + NOTES * blocks
