"""A row of a table: the trials of one configuration, over the seeds and folds that the table is about."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmbench.report.statistics import Summary, summarize
from mmbench.runner.records import RecordDict

Cell = tuple[int, int]
"""Seed and fold of a trial."""


@dataclass(frozen=True, eq=False)
class Row:
    """One configuration on one board.

    Attributes:
        key: Short hash of the configuration.
        label: Method, variant and changed settings; with ``#key`` where several rows would have the same.
        records: All its records by cell.
        cells: Cells of the board.
        metric: The metric that selects.
        by_fold: Whether a value is one fold (boards of a single seed) instead of the mean of a seed's folds.
    """

    key: str
    label: str
    records: Mapping[Cell, RecordDict]
    cells: Sequence[Cell]
    metric: str
    by_fold: bool

    @property
    def any_record(self) -> RecordDict:
        """A record, for what they all share."""
        return self.records[min(self.records)]

    @property
    def method(self) -> str:
        """Key of the method."""
        return str(self.any_record["method"])

    @property
    def card(self) -> dict[str, Any]:
        """Title, year, fidelity and published results of the method."""
        return dict(self.any_record["card"])

    @cached_property
    def counted(self) -> dict[Cell, RecordDict]:
        """The completed trials of the board's cells, in order."""
        return {cell: self.records[cell] for cell in self.cells if self._state(cell) == "completed"}

    @cached_property
    def troubles(self) -> dict[Cell, str]:
        """What became of the other cells of the board."""
        return {cell: self._state(cell) for cell in self.cells if cell not in self.counted}

    @property
    def extra(self) -> int:
        """Number of trials outside of the board's cells."""
        return len(set(self.records) - set(self.cells))

    @property
    def complete(self) -> bool:
        """Whether every cell of the board has a result."""
        return bool(self.cells) and not self.troubles

    def _state(self, cell: Cell) -> str:
        record = self.records.get(cell)
        if record is None:
            return "missing"
        if record["status"] == "completed":
            return "completed" if defined(record["test"].get(self.metric)) else "without a defined " + self.metric
        return str(record["status"])

    def summary(self, metric: str) -> Summary | None:
        """Return mean and spread of a test metric; None unless it is defined in every trial that counts."""
        units: dict[int, list[float]] = {}
        for (seed, fold), record in self.counted.items():
            value = record["test"].get(metric)
            if not defined(value):
                return None
            units.setdefault(fold if self.by_fold else seed, []).append(value)
        return summarize([math.fsum(values) / len(values) for values in units.values()]) if units else None

    @cached_property
    def mean(self) -> float:
        """Mean of the selecting metric, NaN without a trial that counts."""
        summary = self.summary(self.metric)
        return math.nan if summary is None else summary.mean

    def pairs(self, other: Row) -> tuple[list[float], list[float]]:
        """Return this and another row's selecting metric in the cells that both have."""
        common = [cell for cell in self.counted if cell in other.counted]
        ours, theirs = ([row.counted[cell]["test"][self.metric] for cell in common] for row in (self, other))
        return ours, theirs


def defined(value: Any) -> bool:
    """Return whether a metric has a value."""
    return value is not None and math.isfinite(value)
