"""What stands in the cells of every table, on a page or on a terminal: plain text of one fact each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from mmbench.report.boards import Board
from mmbench.report.markdown import NONE
from mmbench.report.rows import Row
from mmbench.report.statistics import Summary

COST = ("parameters", "MMAC", "s / epoch", "s / 1000", "MB")
"""Heads of what :func:`cost` returns."""

BESIDE = " *"
"""What stands behind a time that was measured beside other work."""

LARGE = 1e6
"""Absolute value from which on a metric is shown with a power of ten."""


def number(value: float | None, sign: str = "") -> str:
    """Return a metric with four decimals; ``sign`` is ``+`` for one that always has a sign."""
    if value is None:
        return NONE
    return f"{value:{sign}.4g}" if abs(value) >= LARGE else f"{value:{sign}.4f}"


def mean_and_deviation(summary: Summary | None) -> str:
    """Return mean and sample standard deviation (``ddof=1``)."""
    if summary is None:
        return NONE
    return number(summary.mean) + ("" if summary.std1 is None else f" ± {number(summary.std1)}")


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


def parameters(row: Row) -> int | None:
    """Return the number of trained parameters, which the records know, too."""
    found = [record.cost.parameters for record in row.counted.values() if record.cost is not None]
    return max(found, default=None) if row.cost is None else row.cost.parameters


def short(value: float | None) -> str:
    """Return a number with three digits."""
    if value is None:
        return NONE
    return f"{value:.3g}" if abs(value) < 100 or value >= LARGE else f"{value:,.0f}"


def cost(row: Row) -> list[str]:
    """Return parameters, millions of MACs, seconds of an epoch and of 1,000 predictions, and memory in MB."""
    count, found = parameters(row), row.cost
    texts = [NONE if count is None else f"{count:,}"]
    if found is None:
        return texts + [NONE] * (len(COST) - 1)
    beside = "" if found.alone else BESIDE
    memory = NONE if found.memory is None else f"{found.memory / 1e6:,.0f} ({found.memory_of})"
    times = (found.seconds_per_epoch, found.seconds_to_predict)
    return [*texts, short(found.macs / 1e6), *(short(value) + beside for value in times), memory]


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
