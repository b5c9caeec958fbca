"""What the rows of a board show: intervals over new seeds and new groups, who is shown better than whom, references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

from mmbench.report.inference import (
    Comparison,
    Estimate,
    Inference,
    InferenceError,
    RowScores,
    against,
    compare_all,
    difference,
    estimates,
    row_interval,
    scores_of,
)
from mmbench.report.rows import Row
from mmbench.report.statistics import LEVEL
from mmbench.runner.predictions import Predictions, PredictionsError
from mmbench.runner.record import Record

Evidence = Callable[[Record], Predictions]
"""Test predictions of a completed record."""

REFERENCES = ("late_fusion", "unimodal", "linear", "constant")
"""Methods that every row is held against, chosen before anybody looked; of unimodal rows the best on validation."""


class Against(NamedTuple):
    """The difference of a row to a reference.

    Attributes:
        found: Row minus reference, over new seeds and new groups.
        p: Its p-value, adjusted for the number of rows (Holm).
    """

    found: Inference
    p: float


class Judgement:
    """What the rows of a board show.

    Args:
        rows: All rows of the board.
        metric: The metric that ranks.
        higher: Whether larger values of it are better.
        evidence: Test predictions by record.
    """

    def __init__(self, rows: Sequence[Row], metric: str, higher: bool, evidence: Evidence) -> None:
        self.metric, self.higher, self._evidence = metric, higher, evidence
        self._rows = [row for row in rows if row.seeds]
        self.ranked = [row for row in rows if row.ranked]
        self._intervals: dict[str, dict[Row, Inference]] = {}

    @cached_property
    def scores(self) -> dict[Row, dict[str, RowScores]]:
        """By row with whole seeds the scores of each metric that has an interval."""
        return {row: found for row in self._rows if (found := self._scores(row))}

    def _scores(self, row: Row) -> dict[str, RowScores]:
        try:
            trials = {cell: (record.task, self._evidence(record)) for cell, record in row.used.items() if record.task}
            return scores_of(row.label, trials)
        except (InferenceError, PredictionsError):  # its seeds were tested on different samples, or there is nothing
            return {}

    @cached_property
    def refused(self) -> list[Row]:
        """Ranked rows that are not compared: tested on other samples than most, or without predictions."""
        return [row for row in self.ranked if row not in self.compared]

    @cached_property
    def compared(self) -> list[Row]:
        """The ranked rows that are compared, in order: those that were tested on the same samples as most."""
        tested = {row: scores[self.metric].items for row, scores in self.scores.items() if self.metric in scores}
        kinds = [tested[row] for row in self.ranked if row in tested]
        usual = max(kinds, key=lambda kind: (kinds.count(kind), -kinds.index(kind)), default="")
        return [row for row in self.ranked if tested.get(row) == usual]

    def estimates(self, metric: str) -> dict[Row, Estimate]:
        """Return by row what is known of its mean, of all compared rows that have the metric."""
        scores = {row: self.scores[row][metric] for row in self.compared if metric in self.scores[row]}
        return dict(zip(scores, estimates(list(scores.values())), strict=True))

    @cached_property
    def _estimates(self) -> dict[Row, Estimate]:
        return self.estimates(self.metric)

    @cached_property
    def intervals(self) -> dict[Row, Inference]:
        """By row the interval of its mean over new seeds and new groups."""
        return self.intervals_of(self.metric)

    def intervals_of(self, metric: str) -> dict[Row, Inference]:
        """Return the same of any metric."""
        if metric not in self._intervals:
            found = {row: row_interval(estimate) for row, estimate in self.estimates(metric).items()}
            self._intervals[metric] = {row: interval for row, interval in found.items() if interval is not None}
        return self._intervals[metric]

    def difference(self, row: Row, other: Row, metric: str) -> Inference | None:
        """Return row minus other over new seeds and new groups; None where one of them is not compared."""
        found = self.estimates(metric)
        return difference(found[row], found[other]) if row in found and other in found else None

    @cached_property
    def comparison(self) -> Comparison | None:
        """All pairs of compared rows at one level; None without such rows."""
        return compare_all(list(self._estimates.values()), self.higher) if self._estimates else None

    def ranks(self, row: Row) -> tuple[int, int] | None:
        """Return the interval of a row's rank; all of them hold together."""
        return self.comparison.ranks[self.compared.index(row)] if self.comparison and row in self.compared else None

    def best(self, row: Row) -> bool:
        """Return whether a row is in the set of the best."""
        return bool(self.comparison and row in self.compared and self.comparison.best[self.compared.index(row)])

    def better(self, row: Row, than: Row) -> bool:
        """Return whether a row is shown better than another."""
        if not self.comparison or row not in self.compared or than not in self.compared:
            return False
        return bool(self.comparison.better[self.compared.index(row), self.compared.index(than)])

    @cached_property
    def references(self) -> dict[str, Row]:
        """By method the reference rows that there are: with the settings of the board, published ones first."""
        found = {}
        for method in REFERENCES:
            rows = [row for row in self.compared if row.method == method and not row.any_record.changed]
            if method == "linear":
                rows = [row for row in rows if not row.any_record.variant]
            if rows:
                found[method] = min(rows, key=lambda row: (row.own, self._on_validation(row)))
        return found

    def _on_validation(self, row: Row) -> float:
        """Return the mean of the selecting metric on validation, the smaller the better."""
        values = [record.selection.value for record in row.used.values() if record.selection is not None]
        mean = sum(values) / len(values) if values else float("inf")
        return -mean if self.higher else mean

    @cached_property
    def against(self) -> dict[str, dict[Row, Against]]:
        """By reference the differences of the other compared rows to it."""
        found: dict[str, dict[Row, Against]] = {}
        for name, reference in self.references.items():
            others = [row for row in self.compared if row is not reference]
            results = against(self._estimates[reference], [self._estimates[row] for row in others])
            found[name] = {row: Against(*one) for row, one in zip(others, results, strict=True) if one is not None}
        return found

    def shown_against(self, row: Row, reference: str) -> bool | None:
        """Return whether a row is shown better (True) or worse (False) than a reference; None if neither."""
        one = self.against.get(reference, {}).get(row)
        if one is None or one.p > 1 - LEVEL:
            return None
        return (one.found.estimate > 0) == self.higher
