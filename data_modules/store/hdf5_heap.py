"""The heaps in which HDF5 keeps texts, looked through before the library does.

A text of any length is kept as ``(length, heap, number)``, and the heap as a row of objects, each with its size. What a
damaged heap says is followed by the library without end, and a length of 4 GB can be said of many texts. Layout: HDF5
File Format Specification 3.0, III.E (global heap) and VII (variable-length types).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from data_modules.schema import DataError
from data_modules.store import verified

SIGNATURE = b"GCOL\x01"
"""How every heap begins that the library takes for one: four letters, and the only version."""
HEAD = 16
"""Bytes before the objects of a heap, and before the content of an object; whatever the width of sizes in them."""
WIDTHS = (2, 4, 8)
"""Bytes of a size that the library knows to read."""
NUMBERS = 1 << 16
"""Objects that a heap can tell apart."""
BLOCK = 1 << 20
AGAIN = "Get the file again, or make it again from its source."

_sound_files: dict[str, verified.State] = {}
"""By path in which state this process has found the heaps of a file sound."""


def check_heaps(path: Path, file: h5py.File, remedy: str) -> None:
    """Refuse a file with a heap in which the library would lose its way, whatever leads there.

    All of the file is read for that, once per state of it and process, or never where it was compared with its digest
    in this state before (:func:`data_modules.store.verified.intact`).

    Args:
        path: The file.
        file: The file, open; nothing may have been read of it that is kept in heaps.
        remedy: What to do with a damaged one, a sentence.

    Raises:
        DataError: When a heap is damaged.
        OSError: When the file cannot be read.
    """
    now, key = verified.state(path), str(path.absolute())
    if _sound_files.get(key) == now or verified.intact(path, now):
        return
    width = file.id.get_create_plist().get_sizes()[1]
    if width not in WIDTHS:
        raise DataError(f"{path} is damaged (sizes of {width} bytes). {remedy}")
    with path.open("rb") as content:
        taken = 0
        for offset in _signatures(content):
            content.seek(offset + len(SIGNATURE) + 3)
            size = int.from_bytes(content.read(8)[:width], "little")
            # One beyond the end is none, or one that the library refuses. Numbers of all kinds make up the letters and
            # the version once in 2 ** 40 bytes, and a size that fits a gigabyte once in 2 ** 34 of those.
            if offset + size > now[0]:
                continue
            # Heaps inside each other would be gone through again and again.
            if offset < taken or not _sound(content, offset, size, width):
                raise DataError(f"{path}: the texts at byte {offset} are damaged. {remedy}")
            taken = offset + size
    if time.time_ns() - max(now[2:]) >= verified.TICK_NS:
        _sound_files[key] = now


def _signatures(file: BinaryIO) -> Iterator[int]:
    """Return where heaps may begin. Read, not mapped: a file on a disk that fails is an error then and no crash."""
    start, rest = 0, b""
    while True:
        file.seek(start + len(rest))
        block = rest + file.read(BLOCK)
        if len(block) == len(rest):
            return
        at = block.find(SIGNATURE)
        while at >= 0:
            yield start + at
            at = block.find(SIGNATURE, at + 1)
        rest = block[-len(SIGNATURE) + 1 :]
        start += len(block) - len(rest)


def _sound(file: BinaryIO, offset: int, size: int, width: int) -> bool:
    """Return whether a heap can be gone through to its end."""
    at = HEAD
    file.seek(offset + at)
    for _ in range(NUMBERS):
        if at + HEAD > size:
            return at <= size
        head = file.read(HEAD)
        length = int.from_bytes(head[8 : 8 + width], "little")
        # the object 0 is the space that is left, and its size is that of its header too
        step = length if head[:2] == b"\0\0" else HEAD + (length + 7) // 8 * 8
        if not HEAD <= step <= size - at:
            return False
        at += step
        file.seek(step - HEAD, 1)
    return at + HEAD > size


def texts_size(path: Path, data: h5py.Dataset) -> int | None:
    """Return the bytes of the texts of an array together, or None where only reading tells.

    Of texts in attributes, and of blocks packed in another way than gzip's, nothing is known before: one that claims
    4 GB takes them until the library notices.

    Raises:
        DataError: When a text claims more than the file holds.
        OSError: When the file cannot be read.
    """
    address = data.file.id.get_create_plist().get_sizes()[0]
    reference = np.dtype([("length", "<u4"), ("heap", f"V{address}"), ("number", "<u4")])
    offset, most, total = data.id.get_offset(), path.stat().st_size, 0
    for content in _blocks(data, reference.itemsize) if offset is None else [_read(path, offset, data, reference)]:
        lengths = np.frombuffer(content[: len(content) // reference.itemsize * reference.itemsize], reference)["length"]
        if len(lengths) and int(lengths.max()) > most:
            raise DataError(f"{path}: {data.name!r} is damaged: it has a text larger than the file. {AGAIN}")
        total += int(lengths.sum(dtype=np.uint64))
    return None if offset is None else total


def _read(path: Path, offset: int, data: h5py.Dataset, reference: np.dtype[np.void]) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(data.size * reference.itemsize)


def _blocks(data: h5py.Dataset, width: int) -> Iterator[bytes]:
    """Return the references of an array in blocks, of those blocks that are packed as texts can be."""
    if not data.chunks:
        return
    plan = data.id.get_create_plist()
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    places: list[tuple[int, ...]] = []
    data.id.chunk_iter(lambda block: places.append(block.chunk_offset))
    for offset in places:
        skipped, content = data.id.read_direct_chunk(offset)
        used = [code for number, code in enumerate(filters) if not skipped >> number & 1]
        if used == [h5py.h5z.FILTER_DEFLATE]:
            with suppress(zlib.error):  # the library will say so
                yield zlib.decompressobj().decompress(content, math.prod(data.chunks) * width)
        elif not used:
            yield content
