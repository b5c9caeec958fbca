"""What stands in the cells of every table, on a page or on a terminal: plain text of one fact each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from mmbench.report.boards import Board
from mmbench.report.markdown import NONE
from mmbench.report.rows import Row
from mmbench.report.statistics import LEVEL, Summary
from mmbench.runner.facts import Cost

LARGE = 1e6
"""Absolute value from which on a metric is shown with a power of ten."""


def number(value: float | None, sign: str = "") -> str:
    """Return a metric with four decimals; ``sign`` is ``+`` for one that always has a sign."""
    if value is None:
        return NONE
    return f"{value:{sign}.4g}" if abs(value) >= LARGE else f"{value:{sign}.4f}"


def spread(summary: Summary | None) -> str:
    """Return mean and standard deviation."""
    if summary is None:
        return NONE
    return number(summary.mean) + ("" if summary.std is None else f" ± {number(summary.std)}")


def interval(summary: Summary | None) -> str:
    """Return the interval of the mean, or that it is of one seed or of a part of one."""
    if summary is None:
        return ""
    if summary.low is None:
        return " (n=1)" if summary.n else " (no whole seed)"
    return f" [{number(summary.low)}, {number(summary.high)}]"


def arrow(higher: bool | None) -> str:
    """Return which way is better."""
    return {True: "↑", False: "↓", None: ""}[higher]


def rank(board: Board, row: Row) -> str:
    """Return the rank of a row."""
    place = board.rank(row)
    return NONE if place is None else str(place)


def against_best(board: Board, row: Row) -> str:
    """Return whether a row differs from the best one, and how sure that is."""
    if row is board.best:
        return "best"
    if not row.ranked:
        return NONE
    if row.key not in board.p_best:
        return "?"
    p = board.p_best[row.key][1]
    return ("<0.001" if p < 0.001 else f"{p:.3f}") + (" ≈" if p >= 1 - LEVEL else "")


def costs(row: Row) -> list[Cost]:
    """Return the cost of every trial that counts."""
    return [record.cost for record in row.counted.values() if record.cost is not None]


def parameters(row: Row) -> str:
    """Return the number of trained parameters."""
    return f"{max(cost.parameters for cost in found):,}" if (found := costs(row)) else NONE


def seconds(row: Row) -> str:
    """Return the median duration of an epoch in seconds."""
    if not (found := costs(row)):
        return NONE
    value = median(cost.seconds_per_epoch for cost in found)
    return f"{value:.3g}" if value < 100 or value >= LARGE else f"{value:.0f}"


def memory(row: Row) -> str:
    """Return the largest peak memory in MiB and what it counts."""
    found = [cost for cost in costs(row) if cost.peak_memory is not None]
    if not found:
        return NONE
    largest = max(cost.peak_memory or 0 for cost in found)
    kinds = sorted({cost.peak_memory_of for cost in found})
    return f"{(largest + 2**19) // 2**20:,} ({' and '.join(kinds)})"


def selected_epoch(row: Row) -> float | None:
    """Return the median of the selected epochs, counted from 0."""
    epochs = [record.selection.epoch for record in row.counted.values() if record.selection]
    return median(epochs) if epochs else None


def ranges(values: Iterable[int]) -> str:
    """Return numbers as text, runs of three and more as a range."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)


def several(count: int, what: str) -> str:
    """Return a number of things."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def joined(values: Iterable[object]) -> str:
    """Return the different values as text, in order."""
    return ";".join(sorted({str(value) for value in values}))


def middle(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return median(values) if values else None
