from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules import hdf5
from data_modules.hdf5 import open_hdf5
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
