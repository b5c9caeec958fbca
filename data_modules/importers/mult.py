"""MulT pickles: ``{mosi,mosei_senti,iemocap}_data.pkl`` (word-aligned) and ``..._data_noalign.pkl``.

Layout (yaohungt/Multimodal-Transformer): a dict of train, valid, test, each a dict of columns::

    text, audio, vision  (N, T, D): GloVe 300, COVAREP 5 or 74, FACET 20 or 35; zeros on the left
    labels               (N, 1, 1) sentiment from -3 to 3, or IEMOCAP's (N, 4, 2): per emotion one-hot, 1 = present
    id                   MOSI rows of three bytes strings, the first "video_clip"; MOSEI rows (video, start, end)

IEMOCAP's files name no samples, so that its sessions cannot be told: ids are made from split and row. They hold the
published split only (by number of samples, test is session 1, valid session 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.importers.common import (
    Array,
    Extents,
    Source,
    check_rows,
    extent,
    foreign,
    outside_scale,
    published_parts,
    sequences,
    shared,
)
from data_modules.importers.pickles import load_pickle
from data_modules.importers.values import array, column, labels, named
from data_modules.schema import MODALITIES, DataError, TargetSpec
from data_modules.store import Sample, StoreInfo

EMOTIONS = ("neutral", "happy", "sad", "angry")
"""IEMOCAP's four problems in the order of the label columns, which is that of the authors' evaluation."""


def read(source: Path, *, dataset: str, aligned: bool | None = None, feature_set: str | None = None) -> Source:
    """Read a MulT pickle.

    Args:
        source: The pickle.
        dataset: Key of the data set.
        aligned: Whether the modalities share one time axis; by default, when their padded lengths are equal.
        feature_set: Name of the feature set; by default as ``glove_aligned_50``, which tells it from MMSA's
            ``aligned_50`` with its BERT states.

    Raises:
        DataError: For another layout, or columns that do not fit each other.
    """
    content = load_pickle(source)
    wanted = "a dict of train, valid, test, each a dict with labels and text, audio or vision"
    found = published_parts(content)
    if found is None or not all(isinstance(part, Mapping) and "labels" in part for part in found.values()):
        raise foreign(source, content, "mult", wanted)
    values: dict[str, dict[str, Array]] = {}
    targets: dict[str, Array] = {}
    names: dict[str, list[tuple[str, str]]] = {}
    for split, part in found.items():
        where = f"{source}: in the split {split!r}, "
        values[split] = {
            name: sequences(source, split, name, array(f"{where}{name!r}", part[name]))
            for name in MODALITIES
            if name in part
        }
        targets[split] = _labels(source, split, part["labels"])
        ids = {"id": column(f"{where}'id'", part["id"])} if "id" in part else {}
        check_rows(source, split, {**values[split], **ids}, len(targets[split]))
        # Without ids, the split and the row are all there is.
        names[split] = (
            [named(f"{where}row {row}", raw) for row, raw in enumerate(ids["id"])]
            if ids
            else [(f"{split}_{row}", "") for row in range(len(targets[split]))]
        )
    if not values["train"] or any(one.keys() != values["train"].keys() for one in values.values()):
        raise foreign(source, content, "mult", f"{wanted}, the same ones in each")

    steps = {name: array.shape[1] for name, array in values["train"].items()}
    if aligned is None:
        aligned = len(steps) > 1 and len(set(steps.values())) == 1
    if aligned and len(set(steps.values())) > 1:
        raise DataError(f"{source} is not aligned: its padded lengths are {steps}. Drop the option `aligned`.")
    extents = {}
    for split, arrays in values.items():
        measured: Extents = {name: [extent(sample) for sample in array] for name, array in arrays.items()}
        extents[split] = shared(measured) if aligned else measured

    if len({one.ndim for one in targets.values()}) > 1:
        raise DataError(f"{source} has labels of sentiment in one split and of emotions in another. Get it again.")
    binary = targets["train"].ndim == 2
    target = TargetSpec("binary", EMOTIONS) if binary else TargetSpec("regression", ("sentiment",), -3.0, 3.0)
    notes = outside_scale(np.concatenate(list(targets.values())), target)
    if any("id" not in part for part in found.values()):
        notes.append("The file names no samples: ids were made from split and row, videos and speakers are unknown.")
    info = StoreInfo(
        dataset,
        feature_set or f"glove_{'aligned' if aligned else 'unaligned'}_{next(iter(steps.values()))}",
        target,
        sources={name: f"column {name} of {source.name}" for name in steps},
        aligned=aligned,
        notes=tuple(notes),
    )
    return Source(info, _samples(names, values, extents, targets))


def _labels(source: Path, split: str, values: Any) -> Array:
    """Return ``(N,)`` sentiment, or ``(N, 4)`` presences of IEMOCAP's emotions."""
    found = labels(f"{source}: in the split {split!r}, 'labels'", values)
    if found.ndim == 3 and found.shape[1:] == (len(EMOTIONS), 2):
        if not (np.isin(found, (0, 1)).all() and (found.sum(-1) == 1).all()):
            raise DataError(
                f"{source}: labels of the split {split!r} are not one-hot, as with the label NaN. Remove them."
            )
        return found.argmax(-1)
    if found.ndim and found.size == len(found):
        return found.reshape(-1)
    raise DataError(
        f"{source}: the labels of the split {split!r} have the shape {found.shape}; (N, 1, 1) for sentiment or "
        f"(N, {len(EMOTIONS)}, 2) for IEMOCAP was expected. Bring other labels in with `mmbench data import plain`."
    )


def _samples(
    names: Mapping[str, list[tuple[str, str]]],
    values: Mapping[str, dict[str, Array]],
    extents: Mapping[str, Extents],
    targets: Mapping[str, Array],
) -> Iterator[Sample]:
    for split, own in targets.items():
        for row, (label, (sample, video)) in enumerate(zip(own, names[split], strict=True)):
            inputs = {}
            for name, padded in values[split].items():
                start, stop = extents[split][name][row]
                inputs[name] = padded[row, start:stop]
            yield Sample(sample, inputs, label if own.ndim > 1 else float(label), split, video)
