"""The plain layout: one's own features in one npz or HDF5 file, without pickles.

Keys, all of them arrays with one row per sample, N samples (any key may have another name, see ``fields``)::

    id          N strings, unique
    label       (N,) numbers, or (N, C) for several outputs; for classes numbers from 0, or the names of the classes
    split       N strings: train, valid (dev, val), test; empty for samples that are not used            (optional)
    group       N strings: the video, dialogue or speaker that must not be in two parts                  (optional)
    speaker     N strings                                                                                (optional)
    transcript  N strings                                                                                (optional)
    text, audio, vision       one or more of them, each in one of three forms:
        (N, D)                one vector per sample
        (N, T, D)             padded sequences, with <modality>_lengths; without, zeros at both ends are padding
        (sum of lengths, D)   all steps of all samples one after the other, with <modality>_lengths
    <modality>_lengths        N integers

For example ``numpy.savez("mine.npz", id=ids, label=labels, split=split, text=text, audio=audio,
audio_lengths=lengths)``. Strings are written as ``numpy.array(list_of_str)``, not as objects; HDF5 strings of either
kind are read.

A pretrained encoder can read the transcripts, those of the file or of a table, and its hidden states become the text
(options ``text_encoder`` and ``transcripts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import h5py
import numpy as np

from data_modules.features.encoders import TextEncoder
from data_modules.importers.common import (
    SPLIT_NAMES,
    Array,
    Source,
    check_rows,
    cut_by_group,
    extent,
    hold_out,
    outside_scale,
    string,
)
from data_modules.importers.npz import Npz
from data_modules.importers.transcripts import flaw_of, read_texts
from data_modules.names import printable
from data_modules.schema import MODALITIES, DataError, MetricFamily, TargetKind, TargetSpec, unknown_name
from data_modules.store import FORMAT, Sample, StoreInfo
from data_modules.store.hdf5 import Contents, open_hdf5
from data_modules.store.provenance import digest

TEXTS = ("group", "speaker", "transcript")
COLUMNS = ("id", "label", "split", *TEXTS)
ARRAY = b"\x93NUMPY"
REMEDY = "Save plain arrays under their keys, or name others with the option `fields`; check that the file is complete."
MOST_CLASSES = 10_000
KEYS = (*COLUMNS, *MODALITIES, *(f"{name}_lengths" for name in MODALITIES))


def read(
    source: Path,
    *,
    dataset: str,
    feature_set: str = "own",
    task: TargetKind = "regression",
    names: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    family: MetricFamily | None = None,
    fields: dict[str, str] | None = None,
    aligned: bool = False,
    valid_groups: float | None = None,
    protocol: str | None = None,
    text_encoder: str | None = None,
    transcripts: Path | None = None,
) -> Source:
    """Read a file in the plain layout.

    Args:
        source: The npz or HDF5 file.
        dataset: Key of the data set.
        feature_set: Name of the feature set.
        task: What the labels are: ``regression``, ``multiclass``, ``multilabel`` or ``binary``.
        names: Names of the outputs or classes; by default those in the file, ``sentiment`` for one real number, or
            their numbers.
        low: Smallest label of the scale, for regression.
        high: Largest label of the scale, for regression.
        family: The metric family; by default what the task implies.
        fields: From a key of the layout to its name in this file, such as ``{"text": "text_feat"}``.
        aligned: Whether the modalities share one time axis, step by step. Single vectors always do.
        valid_groups: For a file with train and test only: the share of the training groups (samples, without groups)
            to hold out for validation. Which ones depends on their names alone (the order of their SHA-256).
        protocol: Name of the split protocol: by default ``standard``, or ``by-group`` for a file without splits, which
            is cut by group: a fifth for test, a tenth of the rest for validation.
        text_encoder: Hugging Face encoder, by name or folder, that reads the transcripts: the hidden states of its last
            layer, one per token, are the text. Needs the extra ``text``.
        transcripts: CSV or TSV with the columns ``id`` and ``text``, or folder of such tables, instead of the
            transcripts of the file.

    Raises:
        DataError: For another layout or columns that do not fit each other.
    """
    names_in_file = dict(fields or {})
    columns = _load(source, names_in_file)
    ids = _ids(source, columns["id"])
    check_rows(source, "file", {key: columns[key] for key in COLUMNS if key in columns}, len(ids))
    modalities = {name: _Modality(source, name, columns, len(ids)) for name in MODALITIES if name in columns}
    extra = {key: _strings(columns[key]) for key in TEXTS if key in columns}
    if transcripts:
        extra["transcript"] = read_texts(transcripts, ids)
    encoder = _encoder(transcripts or source, text_encoder, modalities, extra) if text_encoder else None
    if not modalities and not encoder:
        raise DataError(f"{source} has none of {', '.join(MODALITIES)}. Name its features with the option `fields`.")
    if aligned and encoder:
        raise DataError(f"{source} is not aligned with the tokens of its transcripts. Drop the option `aligned`.")
    if aligned and len({tuple(one.lengths) for one in modalities.values()}) > 1:
        raise DataError(f"{source} is not aligned: the lengths of its modalities differ. Drop the option `aligned`.")
    low, high = (None if end is None else float(end) for end in (low, high))
    labels, target = _labels(source, columns["label"], TargetSpec(task, tuple(names), low, high, family))
    splits, notes = _splits(source, columns.get("split"), extra.get("group", ids), valid_groups)
    notes += outside_scale(labels, target)

    def samples() -> Iterator[Sample]:
        for row, name in enumerate(ids):
            inputs = {key: one.sample(row) for key, one in modalities.items()}
            group, speaker, said = (extra[key][row] if key in extra else "" for key in TEXTS)
            origins = {}
            if encoder:
                inputs["text"], origins["text"] = encoder(said), digest(said)
            yield Sample(name, inputs, labels[row], splits[row], group, speaker, said, origins)

    info = StoreInfo(
        dataset,
        feature_set,
        target,
        sources={
            **({"text": encoder.text} if encoder else {}),
            **{name: f"{names_in_file.get(name, name)} of {source.name}" for name in modalities},
        },
        aligned=aligned or (encoder is None and all(one.vectors for one in modalities.values())),
        notes=tuple(notes),
        recipes={"text": encoder.recipe} if encoder else {},
    )
    return Source(info, samples(), protocol=protocol or ("standard" if "split" in columns else "by-group"))


def _encoder(
    source: Path, name: str, modalities: Mapping[str, _Modality], extra: Mapping[str, list[str]]
) -> TextEncoder:
    """Return what reads the transcripts."""
    if "text" in modalities:
        raise DataError(
            f"{source} has a text, and the option `text_encoder` would make another. Drop the option, or save the file "
            "without that text, or with it under another name."
        )
    said = extra.get("transcript", [])
    if not any(said):
        raise DataError(
            f"{source} has no transcripts that {name} could read. Name what stands for 'transcript' with the option "
            "`fields`, or give a table with the option `transcripts`."
        )
    for row, transcript in enumerate(said):
        if flaw := flaw_of(transcript, source):
            raise DataError(f"Row {row}: {flaw}")
    return TextEncoder(name)


def _load(source: Path, fields: Mapping[str, str]) -> dict[str, Array]:
    """Return the file's arrays under the keys of the layout."""
    for key in fields:
        if key not in KEYS:
            raise DataError(unknown_name("key of the option fields", key, KEYS))
    with ExitStack() as stack:
        file = _open(source, stack)
        found: dict[str, Array] = {}
        for key in KEYS:
            name = fields.get(key, key)
            if file.has(name):
                values = file.load(name, 1 if key in MODALITIES else 4)
                if values.ndim != 1 and key in ("id", "split", *TEXTS):
                    raise DataError(
                        f"{source}: {name!r} has the shape {values.shape}; one text per sample was expected. Name what "
                        f"stands for {key!r} with the option `fields`."
                    )
                found[key] = values
            elif key in fields or key in ("id", "label"):
                raise DataError(
                    f"{source} has no {name!r}; it has: {', '.join(map(printable, sorted(file.names())))}. Name what "
                    f"stands for {key!r} with the option `fields`, as {{{key}: NAME}}."
                )
    return found


def _is_store(contents: Contents) -> bool:
    try:
        return contents.attribute("format") == FORMAT
    except DataError:  # an attribute of the user's own
        return False


def _open(source: Path, stack: ExitStack) -> Npz | Contents:
    try:
        if h5py.is_hdf5(source):
            contents = Contents(source, stack.enter_context(open_hdf5(source)), REMEDY)
            if _is_store(contents):
                raise DataError(f"{source} is a feature store already: use it as it is.")
            return contents
        with source.open("rb") as file:
            if file.read(len(ARRAY)) == ARRAY:
                raise DataError(f"{source} holds a single array. Save all arrays under their keys with numpy.savez.")
        return Npz(source, stack.enter_context(ZipFile(source)))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{source} cannot be read as npz or HDF5 ({error}). It is truncated or another kind of file: save your "
            "arrays with numpy.savez; bring published pickles in with `mmbench data import mmsa`, `mult` or `misa`."
        ) from error


def _strings(values: Array) -> list[str]:
    return [string(value) for value in values.tolist()]


def _ids(source: Path, values: Array) -> list[str]:
    ids = _strings(values)
    if "" in ids:
        raise DataError(f"{source}: the id in row {ids.index('')} is empty. Give every sample a name of its own.")
    return ids


class _Modality:
    """One modality of the file, in any of the three forms."""

    def __init__(self, source: Path, name: str, columns: Mapping[str, Array], samples: int) -> None:
        self.values, lengths = columns[name], columns.get(f"{name}_lengths")
        shape = self.values.shape
        if self.values.dtype.kind not in "fiu" or len(shape) not in (2, 3):
            raise DataError(
                f"{source}: {name} is a {self.values.dtype} array of shape {shape}; numbers of shape (N, D), (N, T, D) "
                "or, with lengths, (sum of lengths, D) were expected."
            )
        if lengths is not None and (
            lengths.shape != (samples,) or lengths.dtype.kind not in "iu" or (lengths < 0).any()
        ):
            raise DataError(f"{source}: {name}_lengths must be {samples} integers from 0, one per sample.")
        self.vectors = len(shape) == 2 and lengths is None
        # added up as whole numbers of any size, for those of an array begin again at their end
        rows = samples if lengths is None or len(shape) == 3 else sum(lengths.tolist())
        if shape[0] != rows:
            raise DataError(f"{source}: {name} has {shape[0]} rows; {rows} were expected for {samples} samples.")
        if lengths is None and len(shape) == 3:
            extents = np.asarray([extent(sample) for sample in self.values])
            self.starts, self.lengths = extents[:, 0], extents[:, 1] - extents[:, 0]
            return
        if lengths is not None and len(shape) == 3 and (lengths > shape[1]).any():
            raise DataError(f"{source}: {name}_lengths go up to {lengths.max()}, {name} has {shape[1]} steps.")
        self.lengths = np.ones(samples, int) if lengths is None else lengths.astype(int)
        self.starts = np.zeros(samples, int) if len(shape) == 3 else np.cumsum(self.lengths) - self.lengths

    def sample(self, row: int) -> Array:
        """Return ``(T, D)`` of one sample."""
        steps = slice(self.starts[row], self.starts[row] + self.lengths[row])
        return self.values[row, steps] if self.values.ndim == 3 else self.values[steps]


def _labels(source: Path, labels: Array, target: TargetSpec) -> tuple[Array, TargetSpec]:
    """Return the targets and their description, with the names filled in."""
    if labels.ndim == 2 and labels.shape[1] == 1 and target.kind in ("regression", "multiclass"):
        labels = labels[:, 0]
    if target.kind == "multiclass" and labels.dtype.kind in "USO" and labels.ndim == 1:
        classes = _strings(labels)
        known = target.names or tuple(sorted(set(classes)))
        strange = sorted(set(classes) - set(known))
        if strange:
            raise DataError(f"{source} has the labels {', '.join(strange)}, which the option `names` lacks.")
        return np.asarray([known.index(one) for one in classes]), replace(target, names=known)
    labels = labels.astype(float) if labels.dtype.kind == "b" else labels
    if labels.dtype.kind not in "fiu" or labels.ndim not in ((1,) if target.kind == "multiclass" else (1, 2)):
        raise DataError(
            f"{source}: the label is a {labels.dtype} array of shape {labels.shape}, unfit for {target.kind}."
        )
    if target.kind == "regression":
        outputs = labels.shape[1] if labels.ndim == 2 else 1
        default = ("sentiment",) if outputs == 1 else tuple(map(str, range(outputs)))
    else:
        if labels.ndim == 1 and target.kind != "multiclass":
            labels = labels[:, None]
        if labels.ndim == 1:
            bad = ~((labels >= 0) & (labels < MOST_CLASSES) & (labels == np.floor(labels)))
        else:
            bad = ~np.isin(labels, [0, 1])
        if bad.any():
            wanted = f"class numbers below {MOST_CLASSES}" if labels.ndim == 1 else "0 or 1"
            raise DataError(
                f"{source}: {int(bad.sum())} labels are not {wanted}, the first in row {int(np.argwhere(bad)[0, 0])}. "
                "Set the option `task` to what the labels are."
            )
        labels = labels.astype(np.int64)
        outputs = int(labels.max(initial=0)) + 1 if labels.ndim == 1 else labels.shape[1]
        default = tuple(map(str, range(outputs)))
    if not outputs:
        raise DataError(f"{source}: the label has the shape {labels.shape}, without an output. Give one or more.")
    if target.names and (outputs > len(target.names) if target.kind == "multiclass" else outputs != len(target.names)):
        raise DataError(f"{source} has {outputs} outputs or classes, the option `names` has {len(target.names)}.")
    return labels, replace(target, names=target.names or default)


def _splits(
    source: Path, column: Array | None, groups: list[str], valid_groups: float | None
) -> tuple[list[str | None], list[str]]:
    """Return the split of every sample, None for unused ones, and notes."""
    if column is None:
        if valid_groups is not None:
            raise DataError(f"{source} has no split, so the option `valid_groups` has nothing to divide. Drop it.")
        cut = cut_by_group(groups)
        return [cut[group] for group in groups], ["The file has no split: it was cut by group for this import."]
    splits = [SPLIT_NAMES.get(name.lower(), name) or None for name in _strings(column)]
    if valid_groups is None:
        if "valid" not in splits:
            raise DataError(
                f"{source} has no valid part. Hold out a share of the training groups with the option `valid_groups`, "
                "such as 0.1."
            )
        return splits, []
    if "valid" in splits:
        raise DataError(f"{source} has a valid part, so the option `valid_groups` would replace it. Drop it.")
    training = [group for group, split in zip(groups, splits, strict=True) if split == "train"]
    held = hold_out(training, valid_groups)
    note = (
        f"valid: {len(held)} of {len(set(training))} training groups were held out, chosen by the hash of their names."
    )
    return [
        "valid" if split == "train" and group in held else split for group, split in zip(groups, splits, strict=True)
    ], [note]
