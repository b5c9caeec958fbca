from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.budget import VARIABLE
from data_modules.schema import DataError
from data_modules.store import hdf5, hdf5_heap, verified
from data_modules.store.hdf5 import Contents, open_hdf5


def link(file: h5py.File, other: Path) -> None:
    file["deep/er/x"] = h5py.ExternalLink(other.name, "/values")


def store_elsewhere(file: h5py.File, other: Path) -> None:
    file.create_dataset("deep/x", (8,), "u1", external=[(str(other), 0, 8)])


def look_elsewhere(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((8,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "values", (8,))
    file.create_virtual_dataset("deep/x", layout)


@pytest.mark.parametrize("make", [link, store_elsewhere, look_elsewhere])
def test_a_file_that_makes_others_be_read_is_refused(make: Callable[[h5py.File, Path], None], tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["values"] = np.arange(8, dtype=np.float32)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make(file, other)
    with pytest.raises(DataError, match=r"in another file|link to another file"), open_hdf5(path):
        pass


def test_groups_that_hold_themselves_and_links_inside_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a/values"] = np.arange(3)
        file["a/b/again"] = file["a"]
        file["soft"] = h5py.SoftLink("/a/values")
        file["dangling"] = h5py.SoftLink("/nowhere")
    with open_hdf5(path) as file:
        assert file["soft"][:].tolist() == [0, 1, 2]


def test_a_file_of_too_many_objects_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MOST", 10)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for number in range(11):
            file.create_group(str(number))
    with pytest.raises(DataError, match="more than 10 groups"), open_hdf5(path):
        pass


def texts_of(path: Path) -> list[str]:
    with open_hdf5(path) as file:
        return Contents(path, file).texts("texts")


@pytest.mark.parametrize("options", [{}, {"chunks": (3,)}, {"chunks": (3,), "compression": "gzip"}])
def test_texts_come_back_however_they_are_kept(tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", "é" * 5000, *(f"words {number}" for number in range(500)), "😀"]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("texts", data=texts, dtype=h5py.string_dtype(), **options)
    assert texts_of(tmp_path / "x.h5") == texts
    monkeypatch.setenv(VARIABLE, "2MB")  # those in blocks are read few at a time
    assert texts_of(tmp_path / "x.h5") == texts
    monkeypatch.setenv(VARIABLE, "0.07MB")
    with pytest.raises(DataError, match=r"x\.h5: what is read of it up to 'texts' would take"):
        texts_of(tmp_path / "x.h5")


KEPT: dict[str, dict[str, object]] = {
    "in a row": {},
    "in blocks": {"chunks": (10,)},
    "packed": {"chunks": (10,), "compression": "gzip"},
    "shuffled": {"chunks": (10,), "compression": "gzip", "shuffle": True},
    "attribute": {},
}


def write_texts(path: Path, kept: str) -> bytes:
    with h5py.File(path, "w") as file:
        if kept == "attribute":
            file.attrs["texts"] = "words"
        else:
            file.create_dataset("texts", data=["words"] * 20, dtype=h5py.string_dtype(), **KEPT[kept])
    return path.read_bytes()


def read_texts(path: Path, kept: str) -> list[str]:
    with open_hdf5(path) as file:
        contents = Contents(path, file)
        return [contents.attribute("texts")] if kept == "attribute" else contents.texts("texts")


@pytest.mark.parametrize("kept", KEPT)
def test_a_heap_without_end_is_not_followed(tmp_path: Path, kept: str) -> None:
    """The library reads it for ever."""
    path = tmp_path / "x.h5"
    whole = write_texts(path, kept)
    assert set(read_texts(path, kept)) == {"words"}
    heap = whole.index(b"GCOL")
    objects = heap + 16
    free = objects + 24 * (1 if kept == "attribute" else 20)  # each has a head of 16 bytes, and its text takes 8
    changes = {
        "no step": (free + 8, bytes(8)),
        "half a step": (free + 8, (8).to_bytes(8, "little")),
        "a step back": (free + 8, (2**64 - 4096).to_bytes(8, "little")),
        "no object": (objects, bytes(16)),
        "a text beyond the end": (objects + 8, (1 << 14).to_bytes(8, "little")),
        "no room": (heap + 8, bytes(8)),
    }
    for what, (at, change) in changes.items():
        path.write_bytes(whole[:at] + change + whole[at + len(change) :])
        with pytest.raises(DataError, match=rf"x\.h5: the texts at byte {heap} are damaged\. Get the file again"):
            pytest.fail(f"{what}: {read_texts(path, kept)}")
    beyond = [(heap + 8, size.to_bytes(8, "little")) for size in (len(whole) - heap + 1, 1 << 60, (1 << 64) - 1)]
    for at, change in ((heap, b"GCOX"), *beyond):  # the library says so itself
        path.write_bytes(whole[:at] + change + whole[at + len(change) :])
        with pytest.raises(DataError, match=r"x\.h5: 'texts' is damaged \("):
            read_texts(path, kept)


def test_heaps_inside_each_other_are_refused(tmp_path: Path) -> None:
    """Going through each of them would take the square of their number."""
    path = tmp_path / "x.h5"
    count, head, thing = 3000, 16, 16
    with h5py.File(path, "w") as file:
        place = file.create_dataset("x", data=np.zeros(count * (head + thing), np.uint8)).id.get_offset()
    content = bytearray(path.read_bytes())
    for number in range(count):
        at = place + number * (head + thing)
        size = count * (head + thing) - number * (head + thing)
        content[at : at + head] = b"GCOL\x01\0\0\0" + size.to_bytes(8, "little")
        content[at + head : at + head + thing] = b"\1\0\1\0\0\0\0\0" + (size - head - thing).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"the texts at byte \d+ are damaged"), open_hdf5(path):
        pass


def test_a_heap_is_found_wherever_it_begins_and_what_only_looks_like_one_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    whole = write_texts(path, "in blocks")
    heap = whole.index(b"GCOL")
    path.write_bytes(whole[: heap + 16] + bytes(16) + whole[heap + 32 :])
    for size in range(1, 12):
        monkeypatch.setattr(hdf5_heap, "BLOCK", size)
        with path.open("rb") as file:
            assert list(hdf5_heap._signatures(file)) == [heap]
    with h5py.File(path, "w") as file:
        file["x"] = np.frombuffer(b"GCOL\x01\0\0\0" + b"\x80\x3f" * 40, np.uint8)  # its size would be a quintillion
    with open_hdf5(path) as file:
        assert len(file["x"]) == 88


def test_a_file_is_looked_through_once_in_each_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    once = hdf5_heap._signatures
    monkeypatch.setattr(hdf5_heap, "_signatures", lambda file: looked.append(1) or once(file))
    path = tmp_path / "x.h5"
    whole = write_texts(path, "in blocks")
    os.utime(path, ns=(0, 0))
    time.sleep(2 * verified.TICK_NS / 1e9)
    for _ in range(3):
        read_texts(path, "in blocks")
    assert len(looked) == 1
    heap = whole.index(b"GCOL")
    path.write_bytes(whole[: heap + 16] + bytes(16) + whole[heap + 32 :])
    with pytest.raises(DataError, match="are damaged"):
        read_texts(path, "in blocks")


@pytest.mark.parametrize("kept", ["in a row", "in blocks", "packed", "shuffled"])
def test_no_room_is_made_for_a_text_that_is_larger_than_its_file(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "x.h5"
    write_texts(path, kept)
    with h5py.File(path, "r+") as file:
        data = file["texts"]
        for first in (0, 10) if data.chunks else ():
            mask, content = data.id.read_direct_chunk((first,))
            plain = zlib.decompress(content) if "compression" in KEPT[kept] else content
            plain = plain[:3] + b"\xf0" + plain[4:]
            data.id.write_direct_chunk((first,), zlib.compress(plain) if "compression" in KEPT[kept] else plain, mask)
        place = data.id.get_offset()
    if place is not None:
        whole = path.read_bytes()
        path.write_bytes(whole[: place + 3] + b"\xf0" + whole[place + 4 :])
    with pytest.raises(DataError, match=r"x\.h5: '/texts' is damaged: it has a text larger than the file"):
        read_texts(path, kept)


def test_a_damaged_file_is_said_to_be_so(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(3)
    path.write_bytes(path.read_bytes().replace(b"SNOD", b"SNOX"))
    with pytest.raises(DataError, match=r"x\.h5.* is damaged .*Get the file again"), open_hdf5(path):
        pass


def test_memory_that_is_not_there_is_no_damage(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"x: 'a' needs more memory than there is\. Close"),
        hdf5.reading(tmp_path / "x", "a"),
    ):
        raise MemoryError
