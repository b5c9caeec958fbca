"""What a store says of itself, believed only when every part of it fits the others."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from data_modules.names import check_name
from data_modules.schema import MODALITIES, STRICT, DataError, ModalitySpec, TargetSpec
from data_modules.store.hdf5 import Contents

FORMAT, VERSION = "mmbench-store", 2
SPLITS = ("train", "valid", "test")
UNUSED = -1
EVERYTHING = "everything"
"""The protocol of a store without splits, or of a model that is trained already: all samples are to be predicted."""
WORDS = ("dataset", "feature_set", "identity", "content")
SAMPLES = ("ids", "groups", "speakers", "transcripts")
TYPES: dict[str, tuple[int, str]] = {
    "features": (2, "float32"),
    "tokens": (1, "uint8 int8 int16 int32 int64"),
    "frames": (4, "uint8"),
    "waveform": (1, "int16 float16"),
}
"""By kind the dimensions and types of values that a store takes."""

Array = npt.NDArray[Any]
SplitTables = dict[str, list[npt.NDArray[np.int8]]]


@dataclass
class _Recipe:
    __pydantic_config__ = STRICT
    extractor: str
    revision: int
    settings: dict[str, Any]


@dataclass
class _Repairs:
    __pydantic_config__ = STRICT
    nan: int
    inf: int
    empty: int


_JSON: dict[str, TypeAdapter[Any]] = {
    "notes": TypeAdapter(list[str]),
    "repairs": TypeAdapter(dict[str, _Repairs]),
    "recipes": TypeAdapter(dict[str, _Recipe]),
    "libraries": TypeAdapter(dict[str, str]),
    "target": TypeAdapter(TargetSpec),
    "modalities": TypeAdapter(dict[str, ModalitySpec]),
}


@dataclass(eq=False)
class StoreHeader:
    """All of a store but the values; see :class:`data_modules.store.FeatureStore`."""

    dataset: str
    feature_set: str
    identity: str
    content: str
    aligned: bool
    notes: list[str]
    repairs: dict[str, dict[str, int]]
    recipes: dict[str, dict[str, Any]]
    libraries: dict[str, str]
    target: TargetSpec
    modalities: dict[str, ModalitySpec]
    ids: Array
    groups: Array
    speakers: Array
    transcripts: Array
    targets: Array
    offsets: dict[str, npt.NDArray[np.int64]]
    origins: dict[str, Array]
    splits: SplitTables


def read_header(contents: Contents) -> StoreHeader:
    """Read all of a store but the values.

    Raises:
        DataError: When a part is missing, of another type or shape than it must be, or does not fit the others.
    """
    parts: dict[str, Any] = {name: _word(contents, name) for name in WORDS} | {
        name: _json(contents, name) for name in _JSON
    }
    for name in ("dataset", "feature_set"):
        check_name(name.replace("_", " "), parts[name], str(contents.path))
    target = TargetSpec.from_dict(parts["target"])
    ordered = target.low is None or target.high is None or target.low < target.high
    _expect(contents, "target", ordered, "has a scale without extent")
    modalities = {name: ModalitySpec.from_dict(spec) for name, spec in parts["modalities"].items()}
    _expect(contents, "recipes", set(parts["recipes"]) <= set(modalities), "names modalities that are not there")
    _expect(contents, "repairs", set(parts["repairs"]) == set(modalities), "does not name the modalities")
    aligned = contents.attribute("aligned")
    _expect(contents, "aligned", isinstance(aligned, bool), f"is {aligned!r}; true or false was expected")
    samples = {name: np.asarray(contents.texts(name), dtype=object) for name in SAMPLES}
    ids = samples["ids"]
    count = len(ids)
    _expect(contents, "ids", count > 0 and all(ids), "has none, or an empty one")
    if len(set(ids)) < count:
        id, times = Counter(ids).most_common(1)[0]
        raise DataError(
            f"{contents.path} has the sample id {id!r} {times} times, so it was changed after it was made. "
            f"{contents.remedy}"
        )
    origins = {name: np.asarray(contents.texts(f"modalities/{name}/origins"), object) for name in parts["recipes"]}
    texts = {**samples, **{f"modalities/{name}/origins": found for name, found in origins.items()}}
    for address, found in texts.items():
        _expect(contents, address, len(found) == count, f"has {len(found)} rows for {count} samples")
    parts |= {
        **samples,
        "aligned": aligned,
        "target": target,
        "modalities": modalities,
        "origins": origins,
        "targets": _targets(contents, target, count),
        "offsets": {name: _offsets(contents, name, spec, count) for name, spec in modalities.items()},
        "splits": {name: _folds(contents, name, count) for name in contents.members("splits")},
    }
    return StoreHeader(**parts)


def check_protocol(name: str, where: str = "") -> None:
    """Refuse what cannot name a split protocol.

    Raises:
        DataError: When it is no name, or stands for something else.
    """
    check_name("split protocol", name, where)
    if name == EVERYTHING:
        raise DataError(
            f"{f'{where}: ' if where else ''}a split protocol cannot be named {name!r}, which stands for all samples. "
            "Give another name."
        )


def check_values(contents: Contents, name: str, spec: ModalitySpec, steps: int) -> h5py.Dataset:
    """Return the values of a modality, not read.

    Raises:
        DataError: When they are missing, or of another type or shape than declared.
    """
    address = f"modalities/{name}/values"
    data = contents.find(address)
    shape = {"features": (spec.dim,), "frames": (spec.dim, *spec.size)}.get(spec.kind, ())
    known = data.dtype.name in TYPES[spec.kind][1].split() and data.dtype.isnative
    if not known or data.shape != (steps, *shape):
        raise contents.wrong(
            address,
            f"holds {data.dtype} of shape {data.shape}; {spec.kind} of shape {(steps, *shape)} and type "
            f"{' or '.join(TYPES[spec.kind][1].split())} were expected",
        )
    return data


def _expect(contents: Contents, address: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise contents.wrong(address, otherwise)


def _word(contents: Contents, name: str) -> str:
    found = contents.attribute(name)
    _expect(contents, name, isinstance(found, str), "is no text")
    return str(found)


def _json(contents: Contents, name: str) -> Any:
    text = _word(contents, name)
    try:
        _JSON[name].validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise contents.wrong(name, f"is not as it must be ({f'{where}: ' if where else ''}{first['msg']})") from error
    found = json.loads(text)
    if name == "modalities":
        for key, spec in found.items():
            modality = ModalitySpec.from_dict(spec)
            _expect(contents, name, modality.name == key in MODALITIES, f"has the name {modality.name!r} for {key!r}")
            sizes = (modality.dim, modality.max_length, *(modality.size if modality.kind == "frames" else ()))
            _expect(contents, name, min(sizes) > 0 and modality.rate >= 0, f"has sizes of {key} below 1")
    return found


def _targets(contents: Contents, target: TargetSpec, count: int) -> Array:
    whole = target.kind in ("multiclass", "binary")
    found = contents.array("targets", "i" if whole else "f", copies=3)
    outputs = len(target.names)
    single = target.kind == "multiclass" or (target.kind == "regression" and outputs == 1)
    shapes = {(count,)} if target.kind == "multiclass" else {(count, outputs), *([(count,)] if single else [])}
    wanted = np.dtype(np.int64 if whole else np.float32)
    if found.shape not in shapes or found.dtype != wanted:
        raise contents.wrong(
            "targets",
            f"holds {found.dtype} of shape {found.shape}; {wanted} for {count} samples and {outputs} names expected",
        )
    _expect(contents, "targets", bool(np.isfinite(found).all()), "holds NaN or infinite labels")
    if target.kind != "regression":
        most = outputs - 1 if target.kind == "multiclass" else 1
        valid = (found >= 0) & (found <= most) & (found == np.floor(found))
        _expect(contents, "targets", bool(valid.all()), f"holds labels that are no classes from 0 to {most}")
    return found


def _offsets(contents: Contents, name: str, spec: ModalitySpec, count: int) -> npt.NDArray[np.int64]:
    address = f"modalities/{name}/offsets"
    found = contents.array(address, "i", copies=3)
    _expect(
        contents,
        address,
        found.shape == (count + 1,) and found.dtype == np.int64,
        f"holds {found.dtype} of shape {found.shape}; int64 of shape {(count + 1,)} was expected",
    )
    with np.errstate(over="ignore"):
        lengths = np.diff(found)
    grows = found[0] == 0 and bool((found[1:] > found[:-1]).all()) and int(lengths.max()) == spec.max_length
    _expect(contents, address, grows, f"does not grow from 0 by 1 to {spec.max_length} steps a sample")
    check_values(contents, name, spec, int(found[-1]))
    return found


def _folds(contents: Contents, protocol: str, count: int) -> list[npt.NDArray[np.int8]]:
    check_protocol(protocol, str(contents.path))
    address = f"splits/{protocol}"
    folds = contents.members(address)
    _expect(contents, address, bool(folds), "has no folds")
    _expect(contents, address, set(folds) == set(map(str, range(len(folds)))), "has folds that are not 0, 1, ...")
    found = []
    for fold in range(len(folds)):
        table = contents.array(f"{address}/{fold}", "i")
        fits = table.shape == (count,) and table.dtype == np.int8
        codes = set(np.unique(table).tolist()) if fits else set()
        _expect(
            contents,
            f"{address}/{fold}",
            set(range(len(SPLITS))) <= codes <= {UNUSED, *range(len(SPLITS))},
            f"is no split of {count} samples into the codes 0, 1, 2 of {', '.join(SPLITS)}, and -1 for none",
        )
        found.append(table)
    return found
