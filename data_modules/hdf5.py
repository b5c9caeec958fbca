"""HDF5 files of strangers: opened so that no other file is read through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from data_modules.schema import DataError

MOST = 1 << 20
"""Objects in one file; more is a file made to keep a reader busy."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading, unless it would make other files be read.

    Raises:
        DataError: When it has external links, external storage or virtual data sets, or more objects than any data.
        OSError: When it cannot be opened.
    """
    with h5py.File(path, "r") as file:
        _refuse_others(path, file)
        yield file


def _refuse_others(path: Path, file: h5py.File) -> None:
    """Refuse a file whose content lies in others."""
    ahead: list[h5py.Group] = [file]
    seen: set[tuple[int, int]] = set()
    while ahead:
        group = ahead.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):  # leads to what is met on its own way
                continue
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"{path}: {where} is a link to another file, which is not followed. {_INSTEAD}")
            item = group[name]
            if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                raise DataError(f"{path}: the values of {where} lie in another file, which is not read. {_INSTEAD}")
            info = h5py.h5o.get_info(item.id)
            key = (info.fileno, info.addr)
            if isinstance(item, h5py.Group) and key not in seen:  # a group may hold itself
                ahead.append(item)
            seen.add(key)
            if len(seen) > MOST:
                raise DataError(f"{path} has more than {MOST} groups and arrays. It is damaged or hostile.")


_INSTEAD = "Get the file from its authors, or write all values into one file."
