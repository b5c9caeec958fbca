"""What stands in the cells of every table, on a page or on a terminal: plain text of one fact each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import Any

from mmbench.report.boards import Board
from mmbench.report.markdown import NONE
from mmbench.report.rows import Cell, Row
from mmbench.report.statistics import LEVEL, Summary

SHOWN = 3
"""Cells of one kind that are named in a note; of more, the number is given."""


def number(value: float | None) -> str:
    """Return a metric with four decimals."""
    return NONE if value is None else f"{value:.4f}"


def spread(summary: Summary | None) -> str:
    """Return mean and standard deviation."""
    if summary is None:
        return NONE
    return number(summary.mean) + ("" if summary.std is None else f" ± {number(summary.std)}")


def interval(summary: Summary | None) -> str:
    """Return the interval of the mean, or that there is only one value."""
    if summary is None:
        return ""
    return " (n=1)" if summary.low is None else f" [{number(summary.low)}, {number(summary.high)}]"


def arrow(higher: bool | None) -> str:
    """Return which way is better."""
    return {True: "↑", False: "↓", None: ""}[higher]


def rank(board: Board, row: Row) -> str:
    """Return the rank of a complete row."""
    place = board.rank(row)
    return NONE if place is None else str(place)


def trials(row: Row) -> str:
    """Return how many trials there are of how many, and how many more that do not count."""
    return f"{len(row.counted)}/{len(row.cells)}" + (f" (+{row.extra})" if row.extra else "")


def against_best(board: Board, row: Row) -> str:
    """Return whether a row differs from the best one, and how sure that is."""
    if row is board.best:
        return "best"
    if not row.complete:
        return NONE
    if row.key not in board.p_best:
        return "?"
    p = board.p_best[row.key][1]
    return ("<0.001" if p < 0.001 else f"{p:.3f}") + (" ≈" if p >= 1 - LEVEL else "")


def cost(row: Row, name: str) -> list[Any]:
    """Return one measurement of cost of every trial that counts and has it."""
    return [record["cost"][name] for record in row.counted.values() if record["cost"].get(name) is not None]


def parameters(row: Row) -> str:
    """Return the number of trained parameters."""
    return f"{max(found):,}" if (found := cost(row, "parameters")) else NONE


def seconds(row: Row) -> str:
    """Return the median duration of an epoch in seconds."""
    found = cost(row, "seconds_per_epoch")
    return f"{median(found):.3g}" if found and median(found) < 100 else f"{median(found):.0f}" if found else NONE


def memory(row: Row) -> str:
    """Return the largest peak memory in MiB and what it counts."""
    if not (found := cost(row, "peak_memory")):
        return NONE
    return f"{max(found) / 2**20:,.0f} ({' and '.join(sorted(set(cost(row, 'peak_memory_of'))))})"


def selected_epoch(row: Row) -> float | None:
    """Return the median of the selected epochs, counted from 0."""
    return median(epochs) if (epochs := [record["selection"]["epoch"] for record in row.counted.values()]) else None


def notes(board: Board, row: Row) -> list[str]:
    """Return what a reader must know of a row."""
    found = []
    states = Counter(row.troubles.values())
    for state in sorted(states):
        cells = [cell for cell, what in row.troubles.items() if what == state]
        found.append(f"{states[state]} {state}{_named(row, cells)}")
    found += [f"{name}={'default' if value is None else value}" for name, value in board.differing(row).items()]
    if row.any_record["data"].get("dialogue"):
        found.append("sees the whole dialogue")
    if instead := row.any_record.get("instead"):
        found.append("on " + ", ".join(f"{name} {had} (for {meant})" for name, (had, meant) in instead.items()))
    if failing := board.against_constant(row):
        found.append(failing)
    if board.far_ahead(row):
        found.append("far ahead of all others: check it")
    last = [r for r in row.counted.values() if r["selection"]["epoch"] + 1 >= r["training"]["max_epochs"]]
    if last:
        found.append(f"epoch limit ({len(last)}/{len(row.counted)})")
    return found


def _named(row: Row, cells: list[Cell]) -> str:
    """Return the seeds and folds of a few cells, with the type of error where something failed."""
    if len(cells) > SHOWN:
        return ""
    with_folds = any(fold for _, fold in row.cells)
    names = []
    for seed, fold in cells:
        error = row.records[seed, fold].get("error", {}).get("type", "") if (seed, fold) in row.records else ""
        kind = f": {error}" if error and error != "diverged" else ""
        names.append(f"seed {seed}" + (f" fold {fold}" if with_folds else "") + kind)
    return f" ({', '.join(names)})"


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
