"""The plain layout, as npz and as HDF5."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_modules.formats import import_store
from tests.fuzz.harness import Form
from tests.fuzz.hdf5 import damage_hdf5, damage_heaps
from tests.fuzz.mutations import Rng, mutate

N = 8


def _columns() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 5, N)
    return {
        "id": np.array([f"v{row // 2}[{row}]" for row in range(N)]),
        "label": rng.uniform(-3, 3, N),
        "split": np.array(["train"] * 4 + ["dev"] * 2 + ["test"] * 2),
        "group": np.array([f"v{row // 2}" for row in range(N)]),
        "transcript": np.array(["words"] * N),
        "text": rng.normal(size=(N, 3)).astype(np.float32),
        "audio": rng.normal(size=(N, 4, 2)),
        "audio_lengths": lengths,
        "vision": rng.normal(size=(int(lengths.sum()), 2)),
        "vision_lengths": lengths,
    }


def _npz(folder: Path) -> Path:
    np.savez(folder / "mine.npz", **_columns())
    return folder / "mine.npz"


def _classes(folder: Path) -> Path:
    np.savez_compressed(folder / "mine.npz", **{**_columns(), "label": np.arange(N) % 2})
    return folder / "mine.npz"


def _hdf5(folder: Path) -> Path:
    with h5py.File(folder / "mine.h5", "w") as file:
        for key, value in _columns().items():
            file[key] = value.astype(object) if value.dtype.kind == "U" else value
    return folder / "mine.h5"


def _import(path: Path, **options: Any) -> None:
    import_store("plain", path, path.parent / "out.h5", dataset="mine", options=options)


def damage_npz(path: Path, rng: Rng) -> None:
    """Replace one array of an npz by an odd one, or by odd bytes under its name."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = list(members)[rng.integers(len(members))]
    value = np.load(io.BytesIO(members[name]))
    huge = int(rng.choice([10**8, 10**10, 1 << 40, 1 << 61]))
    tail = f", {value.shape[1]}" if value.ndim > 1 else ","
    odd = (
        lambda: _npy(value[0]),
        lambda: _npy(np.array(1.0)),
        lambda: _npy(value[:-1]),
        lambda: _npy(np.concatenate([value, value])),
        lambda: _npy(value[:, None]),
        lambda: _npy(value[:0]),
        lambda: _npy(np.full(value.shape, rng.choice([np.nan, np.inf, -1, 1e39, 1e300]))),
        lambda: _npy(np.full(value.shape, (1 << 64) - 1, np.uint64)),
        lambda: _npy(np.full(value.shape, -(1 << 62), np.int64)),
        lambda: _npy(np.full(value.shape, "\ud800")),
        lambda: _npy(np.full(value.shape, "")),
        lambda: _npy(np.full(value.shape, b"\xff\xfe")),
        lambda: _npy(np.full(value.shape, None, object)),
        lambda: _npy(np.zeros(value.shape, [("a", "i4")])),
        lambda: _npy(np.zeros(value.shape, "M8[s]")),
        lambda: _npy(np.zeros(value.shape, "c16")),
        lambda: _npy(np.zeros(value.shape, "?")),
        lambda: _npy(np.zeros(value.shape, ">f2")),
        lambda: _header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({huge}{tail})}}") + bytes(64),
        lambda: _header(f"{{'descr': '<U{huge}', 'fortran_order': False, 'shape': ({N},)}}"),
        lambda: _header("{'descr': '<f8', 'fortran_order': False, 'shape': (-8,)}"),
        lambda: _header("(" * 500),
        lambda: _header("{'descr': '<f8', 'fortran_order': False, 'shape': ('a',)}"),
        lambda: _header(f"{{'descr': '<f8', 'fortran_order': True, 'shape': ({7 * 10**7},)}}") + bytes(56 * 10**7),
        lambda: mutate(members[name], rng)[0],
        lambda: b"",
    )
    members[name] = odd[rng.integers(len(odd))]()
    method = int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    if len(members[name]) > 10**7:
        method = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as file:
        for key, data in members.items():
            file.writestr(key, data)
    if rng.random() < 0.1:  # a method that nobody knows
        data = path.read_bytes()
        path.write_bytes(data.replace(b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x63\x00"))


def _npy(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(value))
    return file.getvalue()


def _header(text: str) -> bytes:
    return b"\x93NUMPY\x01\0" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


FORMS = [
    Form("plain-npz", _npz, _import, (damage_npz,)),
    Form("plain-classes", _classes, lambda path: _import(path, task="multiclass"), (damage_npz,)),
    Form("plain-hdf5", _hdf5, _import, (damage_hdf5, damage_heaps)),
]
