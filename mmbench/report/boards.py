"""From records to boards: which trials belong together, and who is ahead.

A *board* is a track on one identity of its data; its rows are configurations. Published trials and a person's own are
rows of their own, so that nobody's runs change what was published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmbench.metrics import DESCRIPTIONS
from mmbench.report.judgement import Evidence, Judgement
from mmbench.report.rows import Row
from mmbench.report.trust import Trust, trust
from mmbench.report.values import commonest
from mmbench.runner.predictions import Predictions, PredictionsError
from mmbench.runner.record import Record

FEWEST_FOR_OUTLIER = 5
"""Ranked rows, the constant aside, from which on a row can be called far ahead of the others."""


def no_evidence(record: Record) -> Predictions:
    """Say that nobody gave predictions.

    Raises:
        PredictionsError: Always.
    """
    raise PredictionsError(f"nobody gave the predictions of {record.id}")


@dataclass(frozen=True, eq=False)
class Board:
    """A track on one identity of its data.

    Attributes:
        track: Name of the track.
        identity: Which data.
        family: Metric family, empty while no trial is completed.
        metric: The metric that selects and ranks, likewise.
        higher: Whether larger values of it are better.
        rows: Rows with whole seeds by their mean, then those with a part of one, then the others by label.
        evidence: Test predictions by record; what raises ``PredictionsError`` has no intervals.
    """

    track: str
    identity: str
    family: str
    metric: str
    higher: bool
    rows: Sequence[Row]
    evidence: Evidence = no_evidence

    @cached_property
    def judgement(self) -> Judgement:
        """What the rows show of each other."""
        return Judgement(self.rows, self.metric, self.higher, self.evidence)

    @cached_property
    def trusts(self) -> dict[Row, Trust]:
        """By row how far its confidences and values can be trusted."""
        return {row: trust(row, self.evidence) for row in self.rows}

    @cached_property
    def records(self) -> list[Record]:
        """The records of all rows."""
        return [record for row in self.rows for _, record in sorted(row.records.items())]

    @cached_property
    def ranked(self) -> list[Row]:
        """The rows that have a rank, best first."""
        return [row for row in self.rows if row.ranked]

    @property
    def best(self) -> Row | None:
        """The first of the ranked rows."""
        return self.ranked[0] if self.ranked else None

    def rank(self, row: Row) -> int | None:
        """Return 1 plus the number of ranked rows that are better; None for a row without a rank."""
        if not row.ranked:
            return None
        return 1 + sum(self._better(other.mean, row.mean) for other in self.ranked)

    def _better(self, value: float, than: float) -> bool:
        return value > than if self.higher else value < than

    @cached_property
    def metrics(self) -> list[str]:
        """Names of all test metrics: the selecting one, then in the order of their descriptions, per-name ones last."""
        order = list(DESCRIPTIONS.get(self.family, {}))
        found = {name for row in self.rows for record in row.counted.values() for name in record.test}

        def place(name: str) -> tuple[bool, bool, int, str]:
            base = name.partition("/")[0]
            return name != self.metric, "/" in name, order.index(base) if base in order else len(order), name

        return sorted(found, key=place)

    @property
    def plain_metrics(self) -> list[str]:
        """The metrics without those of a single class or output."""
        return [name for name in self.metrics if "/" not in name]

    def higher_is_better(self, metric: str) -> bool | None:
        """Return the direction of a metric, None if it is unknown."""
        if metric == self.metric:
            return self.higher
        info = DESCRIPTIONS.get(self.family, {}).get(metric.partition("/")[0])
        return info.higher_is_better if info else None

    @cached_property
    def constant(self) -> Row | None:
        """The row of the constant prediction, preferably a ranked and a published one."""
        rows = [row for row in self.rows if row.method == "constant" and row.counted]
        return min(rows, key=lambda row: (not row.ranked, row.own), default=None)

    def against_constant(self, row: Row) -> str:
        """Return in words that a row fails to beat the constant; empty if it does not."""
        if self.constant is None or row.method == self.constant.method or not row.seeds:
            return ""
        if not self._better(row.mean, self.constant.mean):
            return "no better than the constant"
        judged = row in self.judgement.against.get("constant", {})
        return "not shown to beat the constant" if judged and not self.judgement.shown_against(row, "constant") else ""

    def far_ahead(self, row: Row) -> bool:
        """Return whether the best row leads by more than the others span, the constant aside, which needs a look."""
        others = [other.mean for other in self.ranked if other not in (row, self.constant)]
        if row is not self.best or row is self.constant or len(others) + 1 < FEWEST_FOR_OUTLIER:
            return False
        return min(abs(row.mean - value) for value in others) > max(others) - min(others)

    @cached_property
    def usual(self) -> Sequence[Row]:
        """The rows that say what is usual on this board: the published ones, or all where there are none."""
        return [row for row in self.rows if not row.own] or self.rows

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The settings of most rows in which no row should differ: data and training."""
        settings = [_shared(row.any_record) for row in self.usual]
        names = sorted({name for found in settings for name in found})
        return {name: commonest(found.get(name) for found in settings) for name in names}

    def differing(self, row: Row) -> dict[str, Any]:
        """Return what sets a row apart, beyond its label, from the others and from its namesakes."""
        record = row.any_record
        own = _shared(record)
        names = sorted({*self.shared, *own})
        apart = {name: own.get(name) for name in names if own.get(name) != self.shared.get(name)}
        for other in (other.any_record for other in self.rows):
            if other.label == record.label:
                apart |= {name: value for name, value in record.config.items() if other.config.get(name) != value}
        return {name: value for name, value in sorted(apart.items()) if name not in record.changed}

    @cached_property
    def content(self) -> str:
        """The commonest bytes of the features, empty where nobody noted them."""
        return (
            commonest(record.content for row in self.usual for record in row.records.values() if record.content) or ""
        )

    @cached_property
    def libraries(self) -> dict[str, str]:
        """The commonest libraries that computed the features, empty where nobody noted them."""
        noted = (record.libraries for row in self.usual for record in row.records.values() if record.libraries)
        return commonest(noted) or {}


def _shared(record: Record) -> dict[str, Any]:
    data = {name: value for name, value in record.data.items() if name != "dialogue"}  # the method's own choice
    return {**data, **record.training}
