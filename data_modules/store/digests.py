"""The two digests of a store.

The *identity* says what the data are: which board a result belongs to. It is taken of the data set, the declarations
of the modalities, the samples with their groups, labels and splits, and of each modality either the exact values or,
where these were computed here, the recipe and the origins; so it is the same on every processor. Paths, words and
versions of libraries do not decide it.

The *content* is taken of everything in the file but the notes: it tells when a file was changed after it was made.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from data_modules.budget import check_size
from data_modules.schema import DataError
from data_modules.store.provenance import digest, update

BLOCK_BYTES = 1 << 22
"""So much of an array is read at a time."""
SAMPLES = ("ids", "groups", "speakers", "transcripts", "targets")
APART = ("content", "notes")
"""The attributes that the content does not cover."""
DECLARED = ("kind", "dim", "unknown", "rate", "size")
"""What of a modality is declared; its words name files, and its longest sample may be a frame longer elsewhere."""


def digests(file: h5py.File, texts: Callable[[str], list[str]] | None = None) -> tuple[str, str]:
    """Return identity and content of an open store, in one pass.

    Args:
        file: The store.
        texts: Reads an array of texts by its place; by default as they are, for a file that was made here.

    Raises:
        DataError: When the file refers to others, or holds what no store does.
    """
    arrays = {name: _array(name, data, texts) for name, data in _arrays(file)}
    identity = _identity(file, arrays)
    attributes = {key: _attribute(file, key) for key in file.attrs if key not in (*APART, "identity")}
    # The first protocol is the one that is used by default.
    parts = {"attributes": attributes, "protocols": list(file["splits"]), "arrays": arrays, "identity": identity}
    return identity, digest(parts)


def _identity(file: h5py.File, arrays: dict[str, str]) -> str:
    recipes = json.loads(file.attrs["recipes"])
    modalities: dict[str, Any] = {}
    for name, spec in json.loads(file.attrs["modalities"]).items():
        parts = ("origins",) if name in recipes else ("values", "offsets")
        modalities[name] = {
            **{key: spec[key] for key in DECLARED},
            **{part: arrays[f"modalities/{name}/{part}"] for part in parts},
            "recipe": recipes.get(name),
        }
    return digest(
        {
            **{key: str(file.attrs[key]) for key in ("dataset", "feature_set")},
            "aligned": bool(file.attrs["aligned"]),
            "target": json.loads(file.attrs["target"]),
            "modalities": modalities,
            **{name: arrays[name] for name in SAMPLES},
            "splits": {name: found for name, found in arrays.items() if name.startswith("splits/")},
        }
    )


def _attribute(file: h5py.File, key: str) -> Any:
    value = file.attrs[key]
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, str | int | float):
        raise DataError(f"The attribute {key!r} of {file.filename} is no text or number: make the store again.")
    return value


def _arrays(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the arrays below a group by their place."""
    for name in group:
        # Links and storage elsewhere would make a store of values that nobody has compared.
        own = isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = group[name] if own else None
        if isinstance(item, h5py.Group) and prefix.count("/") < 2:
            yield from _arrays(item, f"{prefix}{name}/")
        elif isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
            yield f"{prefix}{name}", item
        else:
            raise DataError(f"{prefix}{name} of {group.file.filename} is no array of its own: make the store again.")


def _array(name: str, data: h5py.Dataset, texts: Callable[[str], list[str]] | None) -> str:
    if h5py.check_string_dtype(data.dtype):
        return digest(texts(name) if texts else data.asstr()[:].tolist())
    if data.dtype.kind not in "fiub" or not data.shape:
        raise DataError(f"{name} of {data.file.filename} is no array of numbers or texts: make the store again.")
    found = hashlib.sha256()
    row = data.dtype.itemsize * math.prod(data.shape[1:])
    rows = max(1, BLOCK_BYTES // max(1, row))
    check_size(data.file.filename, name, row + data.dtype.itemsize * math.prod(data.chunks or ()))
    update(found, data.shape, data.dtype, (data[start : start + rows] for start in range(0, len(data), rows)))
    return found.hexdigest()
