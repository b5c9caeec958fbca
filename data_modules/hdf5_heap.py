"""The heaps in which HDF5 keeps texts, looked through before the library does.

A text of any length is kept as ``(length, heap, number)``, and the heap as a row of objects, each with its size. What a
damaged heap says is followed by the library without end, and a length of 4 GB can be said of many texts. Layout: HDF5
File Format Specification 3.0, III.E (global heap) and VII (variable-length types).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from data_modules.schema import DataError

REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
HEAP, OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HH4xQ")
WIDTHS = (8, 8)
"""Bytes of addresses and sizes in the files that are looked through, which is all but very old ones."""


def texts_size(path: Path, data: h5py.Dataset) -> int | None:
    """Return the bytes of the texts of an array together, or None where only reading tells.

    Raises:
        DataError: When a heap is damaged.
        OSError: When the file cannot be read.
    """
    place = data.id.get_offset()
    if place is None or data.file.id.get_create_plist().get_sizes() != WIDTHS:
        return None
    with path.open("rb") as file:
        file.seek(place)
        content = file.read(data.size * REFERENCE.itemsize)
        references = np.frombuffer(content[: len(content) // REFERENCE.itemsize * REFERENCE.itemsize], REFERENCE)
        for heap in np.unique(references["heap"][references["length"] > 0]).tolist():
            if not _sound(file, heap + data.file.userblock_size, path.stat().st_size):
                raise DataError(
                    f"{path}: the texts of {data.name!r} are damaged. Get the file again, or make it again from its "
                    "source."
                )
    return int(references["length"].sum(dtype=np.uint64))


def _sound(file: BinaryIO, place: int, end: int) -> bool:
    """Return whether a heap is one, and can be gone through to its end."""
    if place + HEAP.size > end:
        return False
    file.seek(place)
    signature, version, size = HEAP.unpack(file.read(HEAP.size))
    if signature != b"GCOL" or version != 1 or not HEAP.size <= size <= end - place:
        return False
    content = file.read(size - HEAP.size)
    at = 0
    while at + OBJECT.size <= len(content):
        number, _, length = OBJECT.unpack_from(content, at)
        # the object 0 is the space that is left, and its size is that of its header too
        step = length if number == 0 else OBJECT.size + (length + 7) // 8 * 8
        if not OBJECT.size <= step <= len(content) - at:
            return False
        at += step
    return True
