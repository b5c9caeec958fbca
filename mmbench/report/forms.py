"""One table in several forms: Markdown to read, CSV to compute with, LaTeX to print."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mmbench.report.cells import interval, mean_and_deviation, number
from mmbench.report.markdown import escape, printable, table
from mmbench.report.statistics import Summary

Form = Literal["markdown", "csv", "latex"]
FORMS: tuple[Form, ...] = get_args(Form)

Ends = tuple[float, float]
_SUMMARY = ("n", "mean", "std", "std1", "low", "high")
_SYMBOLS = {"±": r"$\pm$", "\N{EN DASH}": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}


@dataclass(frozen=True)
class Plain:
    """A column of text and numbers.

    Attributes:
        name: Its name.
        values: Its cells.
        sign: ``+`` for numbers that always have a sign.
    """

    name: str
    values: Sequence[str | int | float | None]
    sign: Literal["", "+"] = ""


@dataclass(frozen=True)
class Means:
    """A column of means and their spread; in CSV, a column for each part of it.

    Attributes:
        name: Its name.
        values: Its cells.
        arrow: Which way is better.
        behind: What stands behind mean and deviation.
    """

    name: str
    values: Sequence[Summary | None]
    arrow: str = ""
    behind: Literal["", "interval", "n"] = ""


@dataclass(frozen=True)
class Intervals:
    """A column of intervals; in CSV, a column for each end.

    Attributes:
        name: Its name.
        values: Its cells.
    """

    name: str
    values: Sequence[Ends | None]


Column = Plain | Means | Intervals


def in_form(columns: Sequence[Column], form: Form, left: int = 1) -> str:
    """Return the text of a table; CSV has every number unrounded and in a column of its own.

    Args:
        columns: The columns, all as long.
        form: The form.
        left: Number of leading columns that are aligned to the left where alignment is part of the form.
    """
    if form == "csv":
        return _csv(columns)
    heads = [
        f"{column.name} {column.arrow}".strip() if isinstance(column, Means) else column.name for column in columns
    ]
    rows = list(zip(*(_shown(column) for column in columns), strict=True))
    if form == "markdown":
        return "\n".join(table([*map(escape, heads)], [[*map(escape, row)] for row in rows], left)) + "\n"
    return _latex(heads, rows, left)


def _shown(column: Column) -> list[str]:
    """Return the cells as they are read."""
    if isinstance(column, Means):
        behind = {"": lambda value: "", "interval": interval, "n": lambda value: f" (n={value.n})" if value else ""}
        return [mean_and_deviation(value) + behind[column.behind](value) for value in column.values]
    if isinstance(column, Intervals):
        return [f"[{number(ends[0], '+')}, {number(ends[1], '+')}]" if ends else number(None) for ends in column.values]
    return [str(value) if isinstance(value, str | int) else number(value, column.sign) for value in column.values]


def _csv(columns: Sequence[Column]) -> str:
    parts: list[tuple[str, list[object]]] = []
    for column in columns:
        if isinstance(column, Means):
            parts += [(f"{column.name}:{name}", [getattr(v, name, None) for v in column.values]) for name in _SUMMARY]
        elif isinstance(column, Intervals):
            ends = [value or (None, None) for value in column.values]
            parts += [(f"{column.name}:{name}", [pair[n] for pair in ends]) for n, name in enumerate(("low", "high"))]
        else:
            parts.append((column.name, list(column.values)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([printable(name) for name, _ in parts])
    for row in zip(*(values for _, values in parts), strict=True):
        writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue()


def _latex(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Return the table with the rules of the package booktabs and every special character escaped."""
    import pandas

    frame = pandas.DataFrame([[*map(printable, row)] for row in rows], columns=[*map(printable, heads)])
    text = frame.to_latex(index=False, escape=True, column_format="l" * left + "r" * (len(heads) - left))
    for symbol, command in _SYMBOLS.items():
        text = text.replace(symbol, command)
    return text
