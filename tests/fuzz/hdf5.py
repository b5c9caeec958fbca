"""Changes of the structure of HDF5 files."""

from __future__ import annotations

import json
import re
from typing import Any

import h5py
import numpy as np

from tests.fuzz.mutations import ODD_JSON, Rng, damage_json

TEXT = h5py.string_dtype()


def damage_hdf5(path: Any, rng: Rng) -> None:
    """Replace, remove or bend one or two things of a file: an array, a group, an attribute."""
    with h5py.File(path, "r+") as file:
        for _ in range(1 + int(rng.integers(2))):
            places: list[str] = []
            file.visit(places.append)
            holders = [place for place in ("/", *places) if len(file[place].attrs)] if places else []
            if holders and rng.random() < 0.4:
                _attribute(file[holders[rng.integers(len(holders))]].attrs, rng)
            elif places:
                _object(file, places[rng.integers(len(places))], rng)


def damage_heaps(path: Any, rng: Rng) -> None:
    """Bend the heaps in which texts are kept: the size of one, or the number or size of an object in it."""
    content = bytearray(path.read_bytes())
    places = [found.start() for found in re.finditer(b"GCOL", content)]
    for _ in range(int(rng.integers(1, 4)) if places else 0):
        heap = places[rng.integers(len(places))]
        size = int.from_bytes(content[heap + 8 : heap + 16], "little")
        at, sizes = heap + 8, [heap + 8]
        while (at := at + 8) + 16 <= min(heap + size, len(content)):
            sizes.append(at + 8)
            length = int.from_bytes(content[at + 8 : at + 16], "little")
            if content[at : at + 2] == b"\0\0" or length > size:
                break
            at += 8 + (length + 7) // 8 * 8
        place = sizes[rng.integers(len(sizes)) if rng.random() < 0.5 else -1]
        value = int(rng.choice([0, 1, 8, 16, 24, 4096, 1 << 31, 1 << 32, 1 << 62]))
        if rng.random() < 0.2:  # the number of the object, or how the heap begins
            content[place - 8 : place - 6] = bytes(2)
        else:
            value = (1 << 64) - value if value and rng.random() < 0.3 else value
            content[place : place + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)


def _attribute(attrs: h5py.AttributeManager, rng: Rng) -> None:
    name = list(attrs)[rng.integers(len(attrs))]
    value = attrs[name]
    chance = rng.random()
    if isinstance(value, str) and value[:1] in ("{", "[") and chance < 0.7:
        attrs[name] = json.dumps(damage_json(json.loads(value), rng))
    elif chance < 0.75:
        del attrs[name]
    else:
        odd = (
            "", "{", "[" * 5000, "null", "NaN", "x" * 50_000, "../../x", b"\xff\xfe", 0, -1, 1e300, float("nan"),
            np.arange(3), np.array(["a", "b"], object), h5py.Empty("f4"), np.zeros((2, 2)), True,
            json.dumps(ODD_JSON[rng.integers(len(ODD_JSON))]),
        )  # fmt: skip
        attrs[name] = odd[rng.integers(len(odd))]


def _object(file: h5py.File, place: str, rng: Rng) -> None:
    item = file.get(place)
    if isinstance(item, h5py.Dataset) and (item.size or 0) > 10**6:  # has been damaged before
        return
    if isinstance(item, h5py.Dataset) and item.shape and rng.random() < 0.4:
        _values(item, rng)
        return
    shape, dtype = (item.shape, item.dtype) if isinstance(item, h5py.Dataset) else ((3,), np.dtype("f4"))
    shape = shape or (1,)
    whole = item[()] if isinstance(item, h5py.Dataset) and item.shape else np.zeros(shape)
    del file[place]
    huge = (int(rng.choice([10**7, 10**9, 1 << 40, 1 << 58])), *shape[1:])
    odd = {
        "gone": lambda: None,
        "group": lambda: file.create_group(place),
        "nested": lambda: file.create_dataset(f"{place}/deep/er", data=[1]),
        "scalar": lambda: file.create_dataset(place, data=rng.choice([1, -1])),
        "text": lambda: file.create_dataset(place, data="text"),
        "null": lambda: file.create_dataset(place, data=h5py.Empty("f4")),
        "none": lambda: file.create_dataset(place, (0, *shape[1:]), dtype),
        "huge": lambda: file.create_dataset(place, huge, dtype, chunks=(64, *shape[1:])),
        "compact": lambda: file.create_dataset(place, (10**8,), "u1", chunks=(10**8,), compression="gzip"),
        "texts": lambda: file.create_dataset(place, data=["a"] * shape[0], dtype=TEXT),
        "bytes": lambda: file.create_dataset(place, data=[b"\xed\xa0\x80"] * shape[0], dtype=TEXT),
        "fixed": lambda: file.create_dataset(place, data=np.full(shape[0], b"\xff\xfe")),
        "float": lambda: file.create_dataset(place, data=rng.normal(size=shape)),
        "half": lambda: file.create_dataset(place, data=rng.normal(size=shape).astype("f2")),
        "big-endian": lambda: file.create_dataset(place, shape, ">i8"),
        "complex": lambda: file.create_dataset(place, shape, "c8"),
        "bool": lambda: file.create_dataset(place, shape, "?"),
        "bytes8": lambda: file.create_dataset(place, shape, "u1"),
        "unsigned": lambda: file.create_dataset(place, data=np.full(shape, (1 << 64) - 1, "u8")),
        "record": lambda: file.create_dataset(place, shape, [("a", "i4"), ("b", "f4")]),
        "wide": lambda: file.create_dataset(place, (shape[0], 10**9), "f4", chunks=(1, 64)),
        "rows": lambda: file.create_dataset(place, shape, np.dtype((np.void, 8))),
        "ragged": lambda: file.create_dataset(place, shape, h5py.vlen_dtype("i4")),
        "reference": lambda: file.create_dataset(place, shape, h5py.ref_dtype),
        "longer": lambda: file.create_dataset(place, data=np.concatenate([whole, whole])),
        "shorter": lambda: file.create_dataset(place, data=whole[:-1]),
        "deeper": lambda: file.create_dataset(place, data=whole[..., None]),
        "flat": lambda: file.create_dataset(place, data=whole.reshape(-1)),
        "dangling": lambda: file.__setitem__(place, h5py.SoftLink("/nowhere")),
        "itself": lambda: file.__setitem__(place, h5py.SoftLink(f"/{place}")),
        "up": lambda: file.__setitem__(place, h5py.SoftLink("/")),
        "external": lambda: file.__setitem__(place, h5py.ExternalLink("/etc/hostname", "/x")),
        "outside": lambda: file.create_dataset(place, (8,), "u1", external=[("/etc/hostname", 0, 8)]),
        "type": lambda: file.__setitem__(place, np.dtype("f8")),
    }
    if not isinstance(item, h5py.Dataset):
        odd = {name: make for name, make in odd.items() if name not in ("longer", "shorter", "deeper", "flat")}
    list(odd.values())[rng.integers(len(odd))]()


def _values(data: h5py.Dataset, rng: Rng) -> None:
    values = data[()]
    texts_or_numbers = data.dtype.kind != "O" or h5py.check_string_dtype(data.dtype)
    if not values.size or not texts_or_numbers:  # an array of arrays cannot be written as one
        return
    place = int(rng.integers(values.size))
    if h5py.check_string_dtype(data.dtype):
        texts = (b"", b"\xed\xa0\x80", b"\xff", b"../x", b"x" * 100_000, b"train", values.flat[0])
        values.flat[place] = texts[rng.integers(len(texts))]
    elif data.dtype.kind == "f":
        values.flat[place] = rng.choice([np.nan, np.inf, -np.inf, 3e38 if data.dtype.itemsize == 4 else 1e300, -1, 6e4])
    elif data.dtype.kind in "iu":
        limits = np.iinfo(data.dtype)
        values.flat[place] = rng.choice([limits.min, limits.max, limits.min // 2, limits.max // 2, 0, 5, 100])
    if rng.random() < 0.2:
        values = values[::-1]
    data[...] = values
