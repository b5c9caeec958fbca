"""Writing a feature store: one sample at a time, checked and repaired, and only whole files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from data_modules.names import check_name, printable
from data_modules.schema import MODALITIES, DataError, ModalitySpec, TargetSpec
from data_modules.store.digests import digests
from data_modules.store.header import FORMAT, SPLITS, TYPES, UNUSED, VERSION, Array, SplitTables, check_protocol
from data_modules.store.new_store import new_store
from data_modules.store.provenance import Recipe, versions
from data_modules.store.read import FeatureStore
from data_modules.store.sample import Sample, StoreInfo

CHUNK_BYTES = 1 << 20


class _ModalityWriter:
    """Appends samples of one modality and counts what had to be repaired."""

    def __init__(self, group: h5py.Group, name: str, first: Array, info: StoreInfo) -> None:
        kind = info.kinds.get(name, "features")
        self.name, self.kind, self.shape, self.size = name, kind, first.shape[1:], info.sizes.get(name, 0)
        self.recipe = info.recipes.get(name)
        if 0 in self.shape:
            raise DataError(f"The {name} features have no columns: leave the modality out.")
        self.dtype = np.dtype(np.float32 if kind == "features" else first.dtype)
        row = max(1, int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize)
        chunk = (max(1, CHUNK_BYTES // row), *self.shape)
        self.values = group.create_dataset(
            "values", (0, *self.shape), self.dtype, maxshape=(None, *self.shape), chunks=chunk
        )
        self.offsets = [0]
        self.origins: list[str] = []
        self.repairs = {"nan": 0, "inf": 0, "empty": 0}
        self._pending: list[Array] = []
        self._pending_rows, self._limit = 0, chunk[0]

    def add(self, sample: Sample) -> None:
        name, values = sample.id, np.asarray(sample.inputs[self.name])
        if (self.name in sample.origins) != (self.recipe is not None):
            raise DataError(
                f"Sample {name!r} has {'an' if self.name in sample.origins else 'no'} origin of its {self.name}, and "
                f"the store has {'a' if self.recipe else 'no'} recipe for it. Both or none of the two are to be given."
            )
        self.origins += [sample.origins[self.name]] if self.recipe else []
        dimensions, types = TYPES[self.kind]
        kept = values.dtype.kind in "fiub" if self.kind == "features" else values.dtype.name in types.split()
        if values.ndim != dimensions or not kept:
            raise DataError(
                f"Sample {name!r} has {self.name} {self.kind} of type {values.dtype} and shape {values.shape}. A "
                "store takes features as numbers (steps, columns), tokens as whole numbers (steps,), frames as uint8 "
                "(frames, 3, height, width), and waveforms as int16 or float16 (samples,)."
            )
        if values.shape[1:] != self.shape:
            raise DataError(
                f"Sample {name!r} has {self.name} steps of shape {values.shape[1:]}, the samples before it have "
                f"{self.shape}. All files of one store must come from the same extractor."
            )
        if self.kind == "tokens" and len(values) and not (values.min() >= 0 and values.max() < self.size):
            raise DataError(
                f"Sample {name!r} has {self.name} tokens from {values.min()} to {values.max()}, outside the "
                f"vocabulary of {self.size}. Say how large the vocabulary is."
            )
        # What is too large for float32 is infinite, and counted as such; so are NaN of whatever bits.
        with np.errstate(over="ignore", invalid="ignore"):
            values = values.astype(self.dtype)
        if self.kind == "features":
            nan, inf = np.isnan(values), np.isinf(values)
            self.repairs["nan"] += int(nan.sum())
            self.repairs["inf"] += int(inf.sum())
            values[nan | inf] = 0
        if len(values) == 0:
            self.repairs["empty"] += 1
            values = np.zeros((1, *self.shape), self.dtype)
        self.offsets.append(self.offsets[-1] + len(values))
        self._pending.append(values)
        self._pending_rows += len(values)
        if self._pending_rows >= self._limit:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            start = len(self.values)
            self.values.resize(start + self._pending_rows, axis=0)
            self.values[start:] = np.concatenate(self._pending)
        self._pending, self._pending_rows = [], 0


def write_store(
    path: str | os.PathLike[str],
    info: StoreInfo,
    samples: Iterable[Sample],
    splits: Callable[[list[Sample]], SplitTables] | None = None,
    protocol: str = "standard",
) -> FeatureStore:
    """Write samples to a store, atomically, holding one sample at a time.

    NaN and infinite features become 0 and are counted; an empty sequence becomes one zero step and is counted.

    Args:
        path: The file to make or replace.
        info: What is said of all samples.
        samples: The samples.
        splits: From the samples (without their inputs) to split tables by protocol; by default one table, named by
            ``protocol``, from the samples' own ``split``.
        protocol: Name of that default table.

    Returns:
        The written store, open for reading.

    Raises:
        DataError: For no samples, a repeated id, differing dimensions, a missing modality, a NaN target, or a name
            that no protocol can have.
    """
    target = Path(path)
    for what, name in (("data set", info.dataset), ("feature set", info.feature_set)):
        check_name(what, name)
    if splits is None:
        check_protocol(protocol)  # now, not after all samples
    if info.target.low is not None and info.target.high is not None and not info.target.low < info.target.high:
        raise DataError(f"The scale of the labels from {info.target.low:g} to {info.target.high:g} has no extent.")
    with new_store(target) as new:
        file = new.file
        light = _write_samples(file, info, new.while_there_is_room(samples))
        tables = splits(light) if splits else {protocol: [_own_split(light)]}
        shared: list[str] = []
        file.create_group("splits", track_order=True)  # the first protocol is the default one
        for name, folds in tables.items():
            check_protocol(name)
            for fold, table in enumerate(folds):
                _check_table(name, fold, table, len(light))
                shared += _shared_groups(name, fold, table, light)
                file.create_dataset(f"splits/{name}/{fold}", data=np.asarray(table, np.int8))
        file.attrs["notes"] = json.dumps([printable(note) for note in (*info.notes, *shared)])
        file.attrs["identity"], file.attrs["content"] = digests(file)
    return FeatureStore(target)


def _write_samples(file: h5py.File, info: StoreInfo, samples: Iterable[Sample]) -> list[Sample]:
    writers: dict[str, _ModalityWriter] = {}
    seen: dict[str, str | None] = {}
    light: list[Sample] = []
    for sample in samples:
        if sample.id in seen:
            where = (
                f"in the splits {seen[sample.id]} and {sample.split}" if seen[sample.id] != sample.split else "twice"
            )
            raise DataError(f"The sample id {sample.id!r} occurs {where}. Ids must be unique: remove one of the two.")
        _check_texts(sample)
        _check_target(sample, info.target)
        if not light:
            for name in (name for name in MODALITIES if name in sample.inputs):
                group = file.create_group(f"modalities/{name}")
                writers[name] = _ModalityWriter(group, name, np.asarray(sample.inputs[name]), info)
        if not (sample.inputs or writers or sample.transcript):
            raise DataError(f"Sample {sample.id!r} has neither a modality nor a transcript: leave it out.")
        if set(sample.inputs) != set(writers):
            raise DataError(
                f"Sample {sample.id!r} has the modalities {sorted(sample.inputs)}, the samples before it have "
                f"{sorted(writers)} of {list(MODALITIES)}. Give every sample the same modalities."
            )
        for writer in writers.values():
            writer.add(sample)
        seen[sample.id] = sample.split
        light.append(
            Sample(sample.id, {}, sample.target, sample.split, sample.group, sample.speaker, sample.transcript)
        )
    if not light:
        raise DataError(f"The source of {info.dataset}/{info.feature_set} has no samples: nothing was written.")
    shapes = {np.shape(sample.target) for sample in light}
    if len(shapes) > 1:
        raise DataError(f"The labels have the shapes {sorted(shapes)}. Give every sample the same.")
    strings = h5py.string_dtype()
    modalities = {}
    for name, writer in writers.items():
        writer.flush()
        offsets = np.asarray(writer.offsets, np.int64)
        file.create_dataset(f"modalities/{name}/offsets", data=offsets)
        spec = ModalitySpec(
            name,
            info.sizes.get(name, int(writer.shape[0]) if writer.shape else 1),
            max_length=int(np.diff(offsets).max()),
            kind=writer.kind,
            source=printable(info.sources.get(name, "")),
            unknown=info.unknown.get(name, 0),
            rate=info.rates.get(name, 0.0),
            size=writer.shape[1:] if writer.kind == "frames" else (0, 0),
        )
        modalities[name] = asdict(spec)
        if writer.recipe:
            file.create_dataset(f"modalities/{name}/origins", data=writer.origins, dtype=strings)
    for key in ("id", "group", "speaker", "transcript"):
        file.create_dataset(f"{key}s", data=[getattr(sample, key) for sample in light], dtype=strings)
    integer = info.target.kind in ("multiclass", "binary")
    targets = np.asarray([sample.target for sample in light])
    file.create_dataset("targets", data=targets.astype(np.int64 if integer else np.float32))
    recipes: dict[str, Recipe] = {name: writer.recipe for name, writer in writers.items() if writer.recipe}
    file.attrs.update(
        format=FORMAT,
        version=VERSION,
        dataset=info.dataset,
        feature_set=info.feature_set,
        aligned=info.aligned,
        target=json.dumps(asdict(info.target)),
        modalities=json.dumps(modalities),
        repairs=json.dumps({name: writer.repairs for name, writer in writers.items()}),
        recipes=json.dumps({name: recipe.to_dict() for name, recipe in recipes.items()}),
        libraries=json.dumps({**info.libraries, **versions(recipes.values())}, sort_keys=True),
    )
    return light


def _check_texts(sample: Sample) -> None:
    """Refuse texts that HDF5 cannot hold."""
    if not sample.id:
        raise DataError("A sample has an empty id. Give every sample a name of its own.")
    for name in ("id", "group", "speaker", "transcript"):
        text = getattr(sample, name)
        if "\0" in text:
            raise DataError(f"Sample {sample.id!r} has a {name} with a NUL in it, {text[:100]!r}. Take it out.")
        if printable(text) != text:
            raise DataError(
                f"Sample {sample.id!r} has the {name} {text[:100]!r}, which is no Unicode text. Save it as UTF-8."
            )


def _check_target(sample: Sample, target: TargetSpec) -> None:
    """Refuse labels that are none of the target, or that 32 bits cannot hold."""
    given = np.asarray(sample.target, float)
    if not np.isfinite(given).all():
        raise DataError(f"Sample {sample.id!r} has the label NaN or inf. Remove such samples before the import.")
    if (abs(given) > np.finfo(np.float32).max).any():
        raise DataError(f"Sample {sample.id!r} has the label {sample.target}, too large for 32 bits. Scale or mend it.")
    outputs = len(target.names)
    shapes = [()] if target.kind == "multiclass" else [(outputs,), ()] if outputs == 1 else [(outputs,)]
    if given.shape not in shapes:
        raise DataError(f"Sample {sample.id!r} has a label of shape {given.shape} for {outputs} names of the target.")
    most = outputs - 1 if target.kind == "multiclass" else 1
    if target.kind != "regression" and not ((given >= 0) & (given <= most) & (given == np.floor(given))).all():
        raise DataError(f"Sample {sample.id!r} has the label {sample.target}, which is no class from 0 to {most}.")


def _own_split(samples: list[Sample]) -> npt.NDArray[np.int8]:
    for sample in samples:
        if sample.split is not None and sample.split not in SPLITS:
            raise DataError(f"Sample {sample.id!r} is in the split {sample.split!r}; splits are {', '.join(SPLITS)}.")
    return np.asarray([UNUSED if r.split is None else SPLITS.index(r.split) for r in samples], np.int8)


def _check_table(protocol: str, fold: int, table: npt.NDArray[np.int8], samples: int) -> None:
    if len(table) != samples:
        raise DataError(f"Split {protocol!r}, fold {fold}, has {len(table)} entries for {samples} samples.")
    for code, name in enumerate(SPLITS):
        if not (np.asarray(table) == code).any():
            raise DataError(
                f"Split {protocol!r}, fold {fold}, has no {name} samples. Every fold needs all three parts."
            )


def _shared_groups(protocol: str, fold: int, table: npt.NDArray[np.int8], samples: list[Sample]) -> list[str]:
    """Return a note when videos, dialogues or actors have samples in more than one part."""
    parts: dict[str, set[int]] = {}
    for sample, code in zip(samples, np.asarray(table).tolist(), strict=True):
        if sample.group and code != UNUSED:
            parts.setdefault(sample.group, set()).add(code)
    count = sum(len(codes) > 1 for codes in parts.values())
    if not count:
        return []
    return [f"{protocol}, fold {fold}: {count} groups are in more than one part; scores are not independent of them."]
