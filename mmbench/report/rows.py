"""A row of a table: the trials of one configuration, over seeds and folds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeGuard

from mmbench.report.statistics import Summary, average, summarize
from mmbench.runner.costs import MethodCost
from mmbench.runner.facts import CardFacts
from mmbench.runner.record import Record

RunKey = tuple[int, int]
"""Seed and fold of a trial."""

Origin = Literal["published", "own"]
"""Whose trials: of the repository, or of the person who reads the table."""

YOURS = " (yours)"
"""What stands after the label of an own row."""

UNKNOWN_HERE = "its method or data set is not known here; one of a plug-in is when its file is named (--plugin)"
"""What is said where there is no code to hold a trial's against."""

FEWEST_SEEDS = 3
"""Whole seeds from which on a row is ranked."""


@dataclass(frozen=True, eq=False)
class Row:
    """One configuration on one board.

    Attributes:
        key: Short hash of the configuration.
        label: Method, variant and changed settings; with ``#key`` where several rows would have the same.
        records: All its records by cell.
        metric: The metric that selects and ranks.
        origin: Whose trials they are.
        present: Hash of the code that the method has now; empty where it has none any more, None where nobody asked.
        cost: What it costs, None where nobody has measured it.
    """

    key: str
    label: str
    records: Mapping[RunKey, Record]
    metric: str
    origin: Origin = "published"
    present: str | None = None
    cost: MethodCost | None = None

    @property
    def any_record(self) -> Record:
        """A record, for what they all share."""
        return self.records[min(self.records)]

    @property
    def method(self) -> str:
        """Key of the method."""
        return self.any_record.method

    @property
    def card(self) -> CardFacts:
        """Title, year, fidelity and published results of the method."""
        return self.any_record.card

    @property
    def own(self) -> bool:
        """Whether it is of the person who reads the table."""
        return self.origin == "own"

    @cached_property
    def folds(self) -> int:
        """Number of folds of the protocol."""
        return max(record.folds for record in self.records.values())

    @cached_property
    def counted(self) -> dict[RunKey, Record]:
        """The completed trials that have the metric, in order."""
        return {cell: record for cell, record in sorted(self.records.items()) if self._state(record) == "completed"}

    @cached_property
    def troubles(self) -> dict[RunKey, str]:
        """What became of the other trials."""
        return {cell: self._state(self.records[cell]) for cell in sorted(set(self.records) - set(self.counted))}

    def _state(self, record: Record) -> str:
        if record.completed:
            return "completed" if defined(record.test.get(self.metric)) else "without a defined " + self.metric
        return record.status

    @cached_property
    def seeds(self) -> list[int]:
        """The whole seeds: those of which every fold has a result."""
        return complete_seeds(self.counted, self.folds)

    @cached_property
    def used(self) -> dict[RunKey, Record]:
        """The trials behind the value: those of whole seeds, or all that count where no seed is whole."""
        if not self.seeds:
            return self.counted
        return {cell: record for cell, record in self.counted.items() if cell[0] in self.seeds}

    @property
    def ranked(self) -> bool:
        """Whether there are enough whole seeds, and nothing went wrong in any trial."""
        return len(self.seeds) >= FEWEST_SEEDS and not self.troubles

    def values(self, metric: str) -> list[float] | None:
        """Return the value of each whole seed, the mean over its folds; None unless all its trials have one."""
        groups: dict[int, list[float]] = {seed: [] for seed in self.seeds}
        for seed, fold in self.used if self.seeds else ():
            value = self.used[seed, fold].test.get(metric)
            if not defined(value):
                return None
            groups[seed].append(value)
        return [average(group) for group in groups.values()]

    def summary(self, metric: str) -> Summary | None:
        """Return mean and spread of a test metric over seeds; None unless it is defined in every trial that is used.

        Where no seed is whole, it is the mean over the folds that are there, of ``n = 0`` seeds.
        """
        if self.seeds:
            values = self.values(metric)
            return summarize(values) if values else None
        groups: dict[int, list[float]] = {}
        for (_, fold), record in self.used.items():
            value = record.test.get(metric)
            if not defined(value):
                return None
            groups.setdefault(fold, []).append(value)
        return Summary(0, average([average(group) for group in groups.values()])) if groups else None

    @cached_property
    def mean(self) -> float:
        """Mean of the selecting metric, NaN without a trial that counts."""
        summary = self.summary(self.metric)
        return math.nan if summary is None else summary.mean

    def current(self, record: Record) -> bool:
        """Return whether the present code made a trial, or was shown to give the same."""
        return bool(self.present) and of_code(record, self.present or "")

    @property
    def made_by(self) -> str:
        """Which code made the trials: ``present``, ``earlier``, ``unknown``, ``mixed``; empty where nobody asked."""
        if self.present is None:
            return ""
        kinds = {
            "present" if self.current(record) else "earlier" if record.code and self.present else "unknown"
            for record in self.records.values()
        }
        return kinds.pop() if len(kinds) == 1 else "mixed"


def of_code(record: Record, code: str) -> bool:
    """Return whether some code made a trial, or was shown to give the same."""
    return code == record.code or (record.reproduced is not None and code == record.reproduced.code)


def complete_seeds(cells: Iterable[RunKey], folds: int) -> list[int]:
    """Return the seeds of which every fold of a protocol is there, in order."""
    counts = Counter(seed for seed, fold in set(cells) if 0 <= fold < folds)
    return sorted(seed for seed, count in counts.items() if count == folds)


def defined(value: float | None) -> TypeGuard[float]:
    """Return whether a metric has a value."""
    return value is not None and math.isfinite(value)
