from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules import hdf5
from data_modules.budget import VARIABLE
from data_modules.hdf5 import Contents, open_hdf5
from data_modules.schema import DataError


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


def test_a_heap_without_end_and_texts_without_end_are_not_followed(tmp_path: Path) -> None:
    """The library reads the first for ever, and makes room for the second."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("texts", data=["words"] * 20, dtype=h5py.string_dtype())
        file.flush()
        place = data.id.get_offset()
    whole = path.read_bytes()
    heap = whole.index(b"GCOL")
    for at, change in ((heap, b"GCOX"), (heap + 16, bytes(16)), (heap + 8, (1 << 60).to_bytes(8, "little"))):
        path.write_bytes(whole[:at] + change + whole[at + len(change) :])
        with pytest.raises(DataError, match=r"x\.h5: the texts of '/texts' are damaged\. Get the file again"):
            texts_of(path)
    references = b"".join(b"\xff\xff\xff\xff" + whole[at + 4 : at + 16] for at in range(place, place + 320, 16))
    path.write_bytes(whole[:place] + references + whole[place + 320 :])
    with pytest.raises(DataError, match=r"'texts' would take 429GB|is damaged"):
        texts_of(path)


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
