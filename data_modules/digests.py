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
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from data_modules.provenance import digest, update
from data_modules.schema import DataError

BLOCK_BYTES = 1 << 22
"""So much of an array is read at a time."""
SAMPLES = ("ids", "groups", "speakers", "transcripts", "targets")
APART = ("content", "notes")
"""The attributes that the content does not cover."""
DECLARED = ("kind", "dim", "unknown", "rate", "size")
"""What of a modality is declared; its words name files, and its longest sample may be a frame longer elsewhere."""


def digests(file: h5py.File) -> tuple[str, str]:
    """Return identity and content of an open store, in one pass.

    Raises:
        DataError: When the file refers to others.
    """
    arrays = {name: _array(data) for name, data in _arrays(file)}
    identity = _identity(file, arrays)
    attributes = {key: _attribute(value) for key, value in file.attrs.items() if key not in (*APART, "identity")}
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


def _attribute(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(group: h5py.Group, place: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the arrays below a group by their place."""
    for name in group:
        # Links and storage elsewhere would make a store of values that nobody has compared.
        own = isinstance(group.get(name, getlink=True), h5py.HardLink)
        item = group[name] if own else None
        if isinstance(item, h5py.Group) and place.count("/") < 2:
            yield from _arrays(item, f"{place}{name}/")
        elif isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual:
            yield f"{place}{name}", item
        else:
            raise DataError(f"{place}{name} of {group.file.filename} is no array of its own: make the store again.")


def _array(data: h5py.Dataset) -> str:
    if h5py.check_string_dtype(data.dtype):
        return digest(data.asstr()[:].tolist())
    found = hashlib.sha256()
    rows = max(1, BLOCK_BYTES // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=int))))
    update(found, data.shape, data.dtype, (data[start : start + rows] for start in range(0, len(data), rows)))
    return found.hexdigest()
