"""What a store holds, at a glance: samples per split, lengths, repairs, labels, notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from data_modules.schema import DataError, TargetSpec
from data_modules.store import SPLITS, FeatureStore
from data_modules.store.provenance import recipe_text

BINS = 7
ROUNDED_SCALES = range(4, 11)
"""Widths of the scales whose regression labels are counted by rounding (seven classes for -3 to 3)."""

Array = npt.NDArray[Any]
Counts = dict[str, int]


@dataclass(frozen=True)
class StoreSummary:
    """The summary of a store; rich prints it as tables.

    Attributes:
        path: The store.
        dataset: Key of the data set.
        feature_set: Name of the feature set.
        identity: SHA-256 of what the data are, the same on every processor.
        content: SHA-256 of what is in the file.
        samples: Number of samples.
        aligned: Whether the modalities share one time axis.
        target: The target as plain containers.
        modalities: By modality its dim, kind and source, the shortest, mean and longest sample, the repairs (NaN and
            infinite values set to 0, empty sequences given one step), and the recipe; None where the values are those
            of others.
        protocols: By protocol and fold the number of samples in each part, of unused ones, and of the groups (videos)
            that occur in more than one part.
        labels: By output and class or bin the number of samples, under ``all`` and under ``<protocol>/<fold>/<split>``.
        notes: What the importer found worth saying.
        libraries: By package the version that computed values.
    """

    path: str
    dataset: str
    feature_set: str
    identity: str
    content: str
    samples: int
    aligned: bool
    target: dict[str, Any]
    modalities: dict[str, dict[str, Any]]
    protocols: dict[str, list[Counts]]
    labels: dict[str, dict[str, Counts]]
    notes: tuple[str, ...]
    libraries: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, fit for JSON."""
        return {**asdict(self), "notes": list(self.notes)}

    def __rich__(self) -> RenderableType:
        """Return the tables that rich prints."""
        axis = "aligned" if self.aligned else "not aligned"
        kind = self.target["kind"] if self.target["names"] else "without labels"
        head = Text(
            f"{self.dataset}/{self.feature_set}: {self.samples} samples, {axis}, {kind}\n"
            f"{self.path}\nidentity {self.identity}\ncontent  {self.content}"
        )
        origins = [Text(f"{name}: {_origin(row)}") for name, row in self.modalities.items()]
        if self.libraries:
            origins.append(Text(f"made with {', '.join(f'{name} {one}' for name, one in self.libraries.items())}"))
        notes = [Text(f"note: {note}") for note in self.notes]
        tables = [self._modality_table()]
        tables += [self._protocol_table(), self._label_table()] if self.protocols else []
        return Group(head, *tables, *origins, *notes)

    def _modality_table(self) -> Table:
        table = _table("modality", "kind", "dim", "steps min", "mean", "max", "NaN", "inf", "empty")
        for name, row in self.modalities.items():
            length, repairs = row["length"], row["repairs"]
            numbers = (row["dim"], length["min"], f"{length['mean']:.1f}", length["max"])
            table.add_row(name, row["kind"], *map(str, (*numbers, repairs["nan"], repairs["inf"], repairs["empty"])))
        return table

    def _protocol_table(self) -> Table:
        table = _table("protocol", "fold", *SPLITS, "unused", "shared groups")
        for name, folds in self.protocols.items():
            for fold, counts in enumerate(folds):
                table.add_row(name, str(fold), *map(str, counts.values()))
        return table

    def _label_table(self) -> Table:
        """Return label counts of all samples and of the parts of the first fold shown."""
        first = f"{next(iter(self.protocols))}/0"
        columns = {"all": "all", **{split: f"{first}/{split}" for split in SPLITS}}
        table = _table("output", "label", "all", *(f"{first} {split}" for split in SPLITS))
        for output, counts in self.labels["all"].items():
            for label in counts:
                numbers = (str(self.labels[key][output][label]) for key in columns.values())
                table.add_row(Text(output), Text(label), *numbers)
        return table


def _origin(modality: dict[str, Any]) -> str:
    recipe = modality["recipe"]
    said = f" ({modality['source']})" if modality["source"] else ""
    return f"recipe {recipe_text(recipe)}{said}" if recipe else f"exact values{said}"


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        numeric = column not in ("modality", "kind", "protocol", "output", "label")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


def summary(store: FeatureStore, protocol: str | None = None) -> StoreSummary:
    """Return the summary of a store.

    Args:
        store: The store.
        protocol: The split protocol to show; by default all.

    Raises:
        DataError: When the store has no such protocol.
    """
    if protocol is not None and protocol not in store.splits:
        raise DataError(f"{store.path} has no split protocol {protocol!r}; it has: {', '.join(store.splits)}.")
    chosen = {name: folds for name, folds in store.splits.items() if protocol in (None, name)}
    labels = {"all": _histograms(store.targets, store.target, store.targets)}
    protocols: dict[str, list[Counts]] = {}
    for name, folds in chosen.items():
        protocols[name] = []
        for fold in range(len(folds)):
            rows = store.rows(name, fold)
            counts = {split: len(rows[split]) for split in SPLITS}
            counts["unused"] = len(store) - sum(counts.values())
            counts["shared_groups"] = _shared_groups(store, rows)
            protocols[name].append(counts)
            for split in SPLITS:
                labels[f"{name}/{fold}/{split}"] = _histograms(store.targets[rows[split]], store.target, store.targets)
    modalities = {}
    for name, spec in store.modalities.items():
        lengths = np.diff(store.offsets[name])
        span = {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())}
        modalities[name] = {
            "dim": spec.dim,
            "kind": spec.kind,
            "source": spec.source,
            "length": span,
            "repairs": dict(store.repairs[name]),
            "recipe": store.recipes.get(name),
        }
    return StoreSummary(
        str(store.path),
        store.dataset,
        store.feature_set,
        store.identity,
        store.content,
        len(store),
        store.aligned,
        {**asdict(store.target), "names": list(store.target.names)},
        modalities,
        protocols,
        labels,
        tuple(store.notes),
        store.libraries,
    )


def _shared_groups(store: FeatureStore, rows: dict[str, npt.NDArray[np.int64]]) -> int:
    """Return how many groups have samples in more than one part; unnamed groups do not count."""
    parts = [set(store.groups[rows[split]]) - {""} for split in SPLITS]
    return sum(len(part) for part in parts) - len(set().union(*parts))


def _histograms(targets: Array, spec: TargetSpec, every: Array) -> dict[str, Counts]:
    """Return by output how often each class or bin occurs.

    Real labels on a scale of a handful of whole numbers are clipped to it and rounded half to even, as the seven-class
    accuracy does; others fall into seven equal bins over the scale, or over all labels where there is none.
    """
    if spec.kind == "multiclass":
        counts = np.bincount(targets, minlength=len(spec.names))
        return {"class": {name: int(count) for name, count in zip(spec.names, counts, strict=True)}}
    if spec.kind in ("multilabel", "binary"):
        return {
            name: {"0": int((column == 0).sum()), "1": int((column == 1).sum())}
            for name, column in zip(spec.names, targets.T, strict=True)
        }
    columns = zip(spec.names, targets.reshape(len(targets), -1).T, every.reshape(len(every), -1).T, strict=True)
    return {name: _histogram(column, spec.low, spec.high, whole) for name, column, whole in columns}


def _histogram(values: Array, low: float | None, high: float | None, every: Array) -> Counts:
    if low is not None and high is not None and low == round(low) and high - low in ROUNDED_SCALES:
        rounded = np.rint(values.clip(low, high))
        return {f"{c:+d}" if c else "0": int((rounded == c).sum()) for c in range(round(low), round(high) + 1)}
    low = float(every.min() if low is None else low)
    high = float(every.max() if high is None else high)
    values = values.clip(low, high)
    edges = np.linspace(low, high, BINS + 1) if high > low else np.asarray([low, low + 1])
    counts, _ = np.histogram(values.astype(float), edges)
    return {f"{a:.3g} to {b:.3g}": int(n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)}
