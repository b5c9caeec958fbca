"""From records to boards: which trials belong together, which of them count, and who is ahead.

A *board* is a track on one state of its data; its rows are configurations, its cells are (seed, fold) pairs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmbench.metrics import DESCRIPTIONS
from mmbench.report.rows import Cell, Row
from mmbench.report.statistics import LEVEL, holm, paired_p
from mmbench.runner.records import RecordDict

DECIDES = ("method", "config", "data", "training", "version")
"""What all trials of a row share, beside the track and the data of their board."""

FEWEST_FOR_OUTLIER = 5
"""Ranked rows, the constant aside, from which on a row can be called far ahead of the others."""


@dataclass(frozen=True, eq=False)
class Board:
    """A track on one state of its data.

    Attributes:
        track: Name of the track.
        fingerprint: Content of the store.
        records: Its records, each once.
        cells: The (seed, fold) pairs that count.
        family: Metric family, empty while no trial is completed.
        metric: The metric that selects and ranks, likewise.
        higher: Whether larger values of it are better.
        rows: Ranked rows by rank, then the others by label.
    """

    track: str
    fingerprint: str
    records: Sequence[RecordDict]
    cells: Sequence[Cell]
    family: str
    metric: str
    higher: bool
    rows: Sequence[Row]

    @property
    def by_fold(self) -> bool:
        """Whether the spread is over folds, for want of a second seed."""
        return _by_fold(self.cells)

    @cached_property
    def ranked(self) -> list[Row]:
        """The complete rows, best first."""
        return [row for row in self.rows if row.complete]

    @property
    def best(self) -> Row | None:
        """The first of the ranked rows."""
        return self.ranked[0] if self.ranked else None

    def rank(self, row: Row) -> int | None:
        """Return 1 plus the number of complete rows that are better; None for an incomplete row."""
        if not row.complete:
            return None
        return 1 + sum(self._better(other.mean, row.mean) for other in self.ranked)

    def _better(self, value: float, than: float) -> bool:
        return value > than if self.higher else value < than

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all test metrics: the selecting one, then in the order of their descriptions, per-name ones last."""
        order = list(DESCRIPTIONS.get(self.family, {}))
        found = {name for row in self.rows for record in row.counted.values() for name in record["test"]}

        def place(name: str) -> tuple[bool, bool, int, str]:
            base = name.partition("/")[0]
            return name != self.metric, "/" in name, order.index(base) if base in order else len(order), name

        return sorted(found, key=place)

    def higher_is_better(self, metric: str) -> bool | None:
        """Return the direction of a metric, None if it is unknown."""
        if metric == self.metric:
            return self.higher
        info = DESCRIPTIONS.get(self.family, {}).get(metric.partition("/")[0])
        return info.higher_is_better if info else None

    @cached_property
    def p_best(self) -> dict[str, tuple[float, float]]:
        """By key of a ranked row: p-value of its difference from the best row, as it is and by Holm's procedure."""
        rows = self.ranked[1:]
        tests = {row.key: paired_p(*row.pairs(self.ranked[0])) for row in rows}
        known = {key: p for key, p in tests.items() if p is not None}
        return {key: (p, q) for (key, p), q in zip(known.items(), holm(list(known.values())), strict=True)}

    @cached_property
    def constant(self) -> Row | None:
        """The row of the constant prediction, preferably a complete one."""
        rows = [row for row in self.rows if row.method == "constant" and row.counted]
        return rows[0] if rows else None

    def p_constant(self, row: Row) -> float | None:
        """Return the p-value of the difference from the constant prediction."""
        return None if self.constant is None or self.constant is row else paired_p(*row.pairs(self.constant))

    def against_constant(self, row: Row) -> str:
        """Return in words that a row fails to beat the constant, in the trials that both have; empty if it does not."""
        if self.constant is None or self.constant is row:
            return ""
        ours, theirs = row.pairs(self.constant)
        if ours and not self._better(math.fsum(ours), math.fsum(theirs)):
            return "no better than the constant"
        p = paired_p(ours, theirs)
        return "not shown to beat the constant" if p is not None and p >= 1 - LEVEL else ""

    def far_ahead(self, row: Row) -> bool:
        """Return whether the best row leads by more than the others span, the constant aside, which needs a look."""
        others = [other.mean for other in self.ranked if other not in (row, self.constant)]
        if row is not self.best or row is self.constant or len(others) + 1 < FEWEST_FOR_OUTLIER:
            return False
        return min(abs(row.mean - value) for value in others) > max(others) - min(others)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The settings of most rows in which no row should differ: data, training and version."""
        own = [_shared(row.any_record) for row in self.rows]
        names = sorted({name for settings in own for name in settings})
        return {name: _commonest(settings.get(name) for settings in own) for name in names}

    def differing(self, row: Row) -> dict[str, Any]:
        """Return what sets a row apart, beyond its label, from the others and from its namesakes."""
        record = row.any_record
        own = _shared(record)
        apart = {name: own.get(name) for name, value in self.shared.items() if own.get(name) != value}
        for other in (other.any_record for other in self.rows):
            if other["label"] == record["label"]:
                apart |= {name: value for name, value in record["config"].items() if other["config"].get(name) != value}
        return {name: value for name, value in sorted(apart.items()) if name not in record["changed"]}


def boards(records: Iterable[RecordDict]) -> list[Board]:
    """Return the boards of all tracks, by track and then by falling number of trials.

    Args:
        records: Records in any order; one that occurs twice counts once.
    """
    unique = {(record["track"], record["id"]): record for record in records}
    groups: dict[tuple[str, str], list[RecordDict]] = {}
    for record in unique.values():
        groups.setdefault((record["track"], record["fingerprint"]), []).append(record)
    made = [_board(track, fingerprint, group) for (track, fingerprint), group in groups.items()]
    return sorted(made, key=lambda board: (board.track, -len(board.records), board.fingerprint))


def _board(track: str, fingerprint: str, records: list[RecordDict]) -> Board:
    completed = [record for record in records if record["status"] == "completed"]
    metric, mode = _commonest((record["selection"]["metric"], record["selection"]["mode"]) for record in completed) or (
        "",
        "max",
    )
    family = _commonest(record["task"]["family"] for record in completed) or ""
    cells = _cells(records)
    groups: dict[str, list[RecordDict]] = {}
    for record in records:
        text = json.dumps([record[name] for name in DECIDES], sort_keys=True)
        groups.setdefault(hashlib.sha256(text.encode()).hexdigest()[:6], []).append(record)
    labels = {key: str(_commonest(record["label"] for record in group)) for key, group in groups.items()}
    often = Counter(labels.values())
    rows = [
        Row(
            key,
            f"{labels[key]} #{key}" if often[labels[key]] > 1 else labels[key],
            {(record["seed"], record["fold"]): record for record in group},
            cells,
            metric,
            _by_fold(cells),
        )
        for key, group in groups.items()
    ]
    board = Board(track, fingerprint, records, cells, family, metric, mode == "max", rows)

    def place(row: Row) -> tuple[bool, float, str]:
        value = row.mean if row.complete else 0.0
        return not row.complete, -value if board.higher else value, row.label

    return Board(track, fingerprint, records, cells, family, metric, mode == "max", sorted(rows, key=place))


def _cells(records: Iterable[RecordDict]) -> list[Cell]:
    """Return the cells that at least half of the methods have tried.

    So neither a further seed of one method nor a search over its settings changes what the others are measured by.
    """
    tried = {((record["seed"], record["fold"]), record["method"]) for record in records}
    methods = {method for _, method in tried}
    return sorted(cell for cell, count in Counter(cell for cell, _ in tried).items() if 2 * count >= len(methods))


def _by_fold(cells: Sequence[Cell]) -> bool:
    return len({seed for seed, _ in cells}) == 1 and len(cells) > 1


def _shared(record: RecordDict) -> dict[str, Any]:
    data = {name: value for name, value in record["data"].items() if name != "dialogue"}  # the method's own choice
    return {**data, **record["training"], "version": record["version"]}


def _commonest(values: Iterable[Any]) -> Any:
    """Return the most frequent plain value, the first in order of its text among equally frequent ones."""
    counts = Counter(json.dumps(value, sort_keys=True) for value in values)
    return json.loads(min(counts, key=lambda text: (-counts[text], len(text), text), default="null"))
