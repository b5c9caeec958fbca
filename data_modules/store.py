"""The feature store: one HDF5 file per data set and feature set.

Layout (format version 1)::

    attrs            format, version, dataset, feature_set, target, modalities, aligned, notes, repairs, fingerprint
    ids, groups, speakers, transcripts    (N,) strings
    targets                               (N,) or (N, C)
    modalities/<name>/values              (sum T, D) ragged, no padding; (sum T,) for token ids
    modalities/<name>/offsets             (N + 1,) first row of each sample
    splits/<protocol>/<fold>              (N,) int8: 0 train, 1 valid, 2 test, -1 unused

The fingerprint is a SHA-256 over the content in this order; it is part of every result made from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data_modules.schema import MODALITIES, DataError, DataSpec, ModalityKind, ModalitySpec, TargetSpec

FORMAT, VERSION = "mmbench-store", 1
SPLITS = ("train", "valid", "test")
UNUSED = -1
CHUNK_BYTES = 1 << 20

Array = npt.NDArray[Any]
SplitTables = dict[str, list[npt.NDArray[np.int8]]]


@dataclass
class Record:
    """One sample on its way into a store.

    Attributes:
        id: Stable name, such as ``video[clip]``.
        inputs: By modality ``(T, D)`` features, ``(T,)`` token ids or ``(T, C, H, W)`` frames, without padding.
        target: A number, or one per output.
        split: ``train``, ``valid``, ``test``, or None when the splits come from elsewhere or the sample is unused.
        group: Video or dialogue that the sample is part of.
        speaker: Speaker or actor.
        transcript: What is said.
    """

    id: str
    inputs: dict[str, Array]
    target: float | Array
    split: str | None = None
    group: str = ""
    speaker: str = ""
    transcript: str = ""


@dataclass(frozen=True)
class StoreInfo:
    """What is said of all samples together.

    Attributes:
        dataset: Key of the data set.
        feature_set: Name of the feature set.
        target: What the targets mean.
        sources: By modality the extractor and its settings, in words.
        kinds: By modality its kind, where it is not ``features``.
        sizes: By modality the size of the vocabulary, for tokens.
        unknown: By modality the id that stands for a missing token.
        aligned: Whether the modalities of a sample share one time axis.
        notes: What the importer found worth saying.
    """

    dataset: str
    feature_set: str
    target: TargetSpec
    sources: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, ModalityKind] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    aligned: bool = False
    notes: tuple[str, ...] = ()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


class _ModalityWriter:
    """Appends samples of one modality and counts what had to be repaired."""

    def __init__(self, group: h5py.Group, name: str, first: Array, kind: ModalityKind) -> None:
        self.name, self.kind, self.shape = name, kind, first.shape[1:]
        self.dtype = np.dtype(np.float32 if kind == "features" else first.dtype)
        row = max(1, int(np.prod(self.shape, dtype=int)) * self.dtype.itemsize)
        chunk = (max(1, CHUNK_BYTES // row), *self.shape)
        self.values = group.create_dataset(
            "values", (0, *self.shape), self.dtype, maxshape=(None, *self.shape), chunks=chunk
        )
        self.offsets = [0]
        self.repairs = {"nan": 0, "inf": 0, "empty": 0}
        self._pending: list[Array] = []
        self._pending_rows, self._limit = 0, chunk[0]

    def add(self, sample: str, values: Array) -> None:
        values = np.asarray(values)
        if values.shape[1:] != self.shape:
            raise DataError(
                f"Sample {sample!r} has {self.name} steps of shape {values.shape[1:]}, the samples before it have "
                f"{self.shape}. All files of one store must come from the same extractor."
            )
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and counted as such
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
    records: Iterable[Record],
    splits: Callable[[list[Record]], SplitTables] | None = None,
    protocol: str = "standard",
) -> FeatureStore:
    """Write records to a store, atomically, holding one sample at a time.

    NaN and infinite features become 0 and are counted; an empty sequence becomes one zero step and is counted.

    Args:
        path: The file to make or replace.
        info: What is said of all samples.
        records: The samples.
        splits: From the records (without their inputs) to split tables by protocol; by default one table, named by
            ``protocol``, from the records' own ``split``.
        protocol: Name of that default table.

    Returns:
        The written store, open for reading.

    Raises:
        DataError: For no samples, a repeated id, differing dimensions, a missing modality or a NaN target.
    """
    target = Path(path)
    with atomic_path(target) as part, h5py.File(part, "w") as file:
        light = _write_samples(file, info, records)
        tables = splits(light) if splits else {protocol: [_own_split(light)]}
        file.create_group("splits", track_order=True)  # the first protocol is the default one
        for name, folds in tables.items():
            for fold, table in enumerate(folds):
                _check_table(name, fold, table, len(light))
                file.create_dataset(f"splits/{name}/{fold}", data=np.asarray(table, np.int8))
        file.attrs["fingerprint"] = _fingerprint(file)
    return FeatureStore(target)


def _write_samples(file: h5py.File, info: StoreInfo, records: Iterable[Record]) -> list[Record]:
    writers: dict[str, _ModalityWriter] = {}
    seen: dict[str, str | None] = {}
    light: list[Record] = []
    for record in records:
        if record.id in seen:
            where = (
                f"in the splits {seen[record.id]} and {record.split}" if seen[record.id] != record.split else "twice"
            )
            raise DataError(f"The sample id {record.id!r} occurs {where}. Ids must be unique: remove one of the two.")
        if not np.isfinite(np.asarray(record.target, dtype=float)).all():
            raise DataError(f"Sample {record.id!r} has the label NaN or inf. Remove such samples before the import.")
        if not writers:
            for name in (name for name in MODALITIES if name in record.inputs):
                group = file.create_group(f"modalities/{name}")
                kind = info.kinds.get(name, "features")
                writers[name] = _ModalityWriter(group, name, np.asarray(record.inputs[name]), kind)
        if set(record.inputs) != set(writers) or not writers:
            raise DataError(
                f"Sample {record.id!r} has the modalities {sorted(record.inputs)}, the samples before it have "
                f"{sorted(writers)} of {list(MODALITIES)}. Give every sample the same modalities."
            )
        for name, writer in writers.items():
            writer.add(record.id, record.inputs[name])
        seen[record.id] = record.split
        light.append(
            Record(record.id, {}, record.target, record.split, record.group, record.speaker, record.transcript)
        )
    if not light:
        raise DataError(f"The source of {info.dataset}/{info.feature_set} has no samples: nothing was written.")
    modalities = {}
    for name, writer in writers.items():
        writer.flush()
        offsets = np.asarray(writer.offsets, np.int64)
        file.create_dataset(f"modalities/{name}/offsets", data=offsets)
        dim = info.sizes.get(name, int(writer.shape[0]) if writer.shape else 1)
        longest, source = int(np.diff(offsets).max()), info.sources.get(name, "")
        spec = ModalitySpec(name, dim, longest, writer.kind, source, info.unknown.get(name, 0))
        modalities[name] = asdict(spec)
    strings = h5py.string_dtype()
    for key in ("id", "group", "speaker", "transcript"):
        file.create_dataset(f"{key}s", data=[getattr(record, key) for record in light], dtype=strings)
    integer = info.target.kind in ("multiclass", "binary")
    targets = np.asarray([record.target for record in light])
    file.create_dataset("targets", data=targets.astype(np.int64 if integer else np.float32))
    file.attrs.update(
        format=FORMAT,
        version=VERSION,
        dataset=info.dataset,
        feature_set=info.feature_set,
        aligned=info.aligned,
        target=json.dumps(asdict(info.target)),
        modalities=json.dumps(modalities),
        notes=json.dumps(list(info.notes)),
        repairs=json.dumps({name: writer.repairs for name, writer in writers.items()}),
    )
    return light


def _own_split(records: list[Record]) -> npt.NDArray[np.int8]:
    for record in records:
        if record.split is not None and record.split not in SPLITS:
            raise DataError(f"Sample {record.id!r} is in the split {record.split!r}; splits are {', '.join(SPLITS)}.")
    return np.asarray([UNUSED if r.split is None else SPLITS.index(r.split) for r in records], np.int8)


def _check_table(protocol: str, fold: int, table: npt.NDArray[np.int8], samples: int) -> None:
    if len(table) != samples:
        raise DataError(f"Split {protocol!r}, fold {fold}, has {len(table)} entries for {samples} samples.")
    for code, name in enumerate(SPLITS):
        if not (np.asarray(table) == code).any():
            raise DataError(
                f"Split {protocol!r}, fold {fold}, has no {name} samples. Every fold needs all three parts."
            )


def _fingerprint(file: h5py.File) -> str:
    """Return the SHA-256 of the content: everything but free text and the fingerprint itself."""
    digest = hashlib.sha256()
    for key in ("format", "version", "dataset", "feature_set", "target"):
        digest.update(f"{key}={file.attrs[key]};".encode())
    datasets: list[h5py.Dataset] = []
    file.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
    for data in sorted(datasets, key=lambda item: str(item.name)):
        digest.update(f"{data.name}:{data.shape};".encode())
        if data.dtype.kind == "O":
            digest.update(b"\0".join(data[:]))
            continue
        rows = max(1, CHUNK_BYTES * 4 // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=int))))
        for start in range(0, len(data), rows):
            digest.update(np.ascontiguousarray(data[start : start + rows]).tobytes())
    return digest.hexdigest()


class FeatureStore:
    """A store, open for reading.

    Args:
        path: The HDF5 file.

    Raises:
        DataError: When the file is missing, truncated, foreign, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(
                f"There is no store at {self.path}. Make one with `mmbench data import` or `mmbench data synth`."
            )
        try:
            with h5py.File(self.path, "r") as file:
                self._read_header(file)
        except OSError as error:
            raise DataError(
                f"{self.path} is not readable as HDF5 ({error}). It may be truncated or another kind of file: "
                "make it again with `mmbench data import`."
            ) from error

    def _read_header(self, file: h5py.File) -> None:
        attrs = dict(file.attrs)
        if attrs.get("format") != FORMAT:
            raise DataError(
                f"{self.path} is HDF5 but not a feature store. Bring it in with `mmbench data import plain`."
            )
        if attrs["version"] != VERSION:
            raise DataError(
                f"{self.path} has store version {attrs['version']}, this program reads {VERSION}. "
                "Make it again from its source with `mmbench data import`."
            )
        try:
            self.dataset, self.feature_set = str(attrs["dataset"]), str(attrs["feature_set"])
            self.fingerprint = str(attrs["fingerprint"])
            self.aligned = bool(attrs["aligned"])
            self.notes: list[str] = json.loads(attrs["notes"])
            self.repairs: dict[str, dict[str, int]] = json.loads(attrs["repairs"])
            self.target = TargetSpec.from_dict(json.loads(attrs["target"]))
            self.modalities = {name: ModalitySpec(**spec) for name, spec in json.loads(attrs["modalities"]).items()}
            self.ids, self.groups, self.speakers, self.transcripts = (
                np.asarray(file[f"{key}s"].asstr()[:], dtype=object) for key in ("id", "group", "speaker", "transcript")
            )
            self.targets: Array = file["targets"][:]
            self.offsets = {name: file[f"modalities/{name}/offsets"][:] for name in self.modalities}
            self.splits: SplitTables = {
                name: [folds[str(fold)][:] for fold in range(len(folds))] for name, folds in file["splits"].items()
            }
        except KeyError as error:
            raise DataError(
                f"{self.path} is incomplete ({error}): make it again with `mmbench data import`."
            ) from error

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.ids)

    def spec(self, protocol: str) -> DataSpec:
        """Return what a method must know, for one split protocol."""
        speakers = len(set(self.speakers) - {""})
        return DataSpec(
            self.dataset,
            self.feature_set,
            protocol,
            self.modalities,
            self.target,
            aligned=self.aligned,
            speakers=speakers,
        )

    def rows(self, protocol: str, fold: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return the rows of each split.

        Raises:
            DataError: When the protocol or the fold does not exist.
        """
        if protocol not in self.splits:
            raise DataError(f"{self.path} has no split protocol {protocol!r}; it has: {', '.join(self.splits)}.")
        folds = self.splits[protocol]
        if not 0 <= fold < len(folds):
            raise DataError(
                f"Split protocol {protocol!r} of {self.path} has the folds 0 to {len(folds) - 1}, not {fold}."
            )
        return {name: np.flatnonzero(folds[fold] == code) for code, name in enumerate(SPLITS)}

    def read(self, name: str, rows: npt.NDArray[np.int64]) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return one modality of some samples as ``(sum T, ...)`` values and ``(len(rows) + 1,)`` offsets."""
        offsets = self.offsets[name]
        lengths = offsets[rows + 1] - offsets[rows]
        own = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        with h5py.File(self.path, "r") as file:
            data = file[f"modalities/{name}/values"]
            values = np.empty((int(own[-1]), *data.shape[1:]), data.dtype)
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            for run in np.split(np.arange(len(rows)), breaks):
                if len(run):
                    source = slice(int(offsets[rows[run[0]]]), int(offsets[rows[run[-1]] + 1]))
                    data.read_direct(values, source, slice(int(own[run[0]]), int(own[run[-1] + 1])))
        return values, own

    def verify(self) -> None:
        """Compare the content with the fingerprint.

        Raises:
            DataError: When the file was changed after it was written.
        """
        with h5py.File(self.path, "r") as file:
            found = _fingerprint(file)
        if found != self.fingerprint:
            raise DataError(
                f"{self.path} was changed after it was made: its fingerprint is {found[:12]} instead of "
                f"{self.fingerprint[:12]}. Make it again with `mmbench data import`."
            )
