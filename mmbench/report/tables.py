"""The table that somebody asks for: only one's own rows, only some methods, sorted by another metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from data_modules.schema import unknown_name
from mmbench.methods.config import ConfigError
from mmbench.report.boards import Board
from mmbench.report.cells import arrow
from mmbench.report.forms import Column, Form, Means, Plain, in_form
from mmbench.report.rows import Row


def selected_table(
    board: Board, *, mine: bool = False, methods: Sequence[str] = (), sort: str | None = None, form: Form = "markdown"
) -> str:
    """Return rank, method, seeds and the metrics of the rows that are asked for.

    Args:
        board: The board.
        mine: Only one's own rows.
        methods: Only the rows of these methods; of all when empty.
        sort: Metric by which rows are in order, the best first; by default that of the ranking, whose ranks are shown
            in any case.
        form: Form of the table.

    Raises:
        ConfigError: When the board has no such method or metric, or no row of one's own where only these are asked for.
    """
    known = sorted({row.method for row in board.rows})
    for name in methods:
        if name not in known:
            raise ConfigError(f"{board.track}: {unknown_name('method', name, known)}")
    rows = [row for row in board.rows if (row.own or not mine) and (row.method in methods or not methods)]
    if not rows:
        raise ConfigError(f"{board.track}: you have no rows there. `mmbench run` makes some.")
    if sort is not None and sort != board.metric:
        rows = _sorted(board, rows, sort)
    columns: list[Column] = [
        Plain("rank", [board.rank(row) for row in rows]),
        Plain("method", [row.label for row in rows]),
        Plain("n", [len(row.seeds) for row in rows]),
    ]
    for name in board.plain_metrics:
        way = arrow(board.higher_is_better(name))
        behind: Literal["", "interval"] = "interval" if name == board.metric else ""
        columns.append(Means(name, [row.summary(name) for row in rows], way, behind))
    return in_form(columns, form, left=2)


def _sorted(board: Board, rows: Sequence[Row], metric: str) -> list[Row]:
    """Return rows by the mean of a metric, those without one last; one of unknown direction counts as a score."""
    if metric not in board.metrics:
        raise ConfigError(f"{board.track}: {unknown_name('metric', metric, board.metrics)}")
    sign = 1 if board.higher_is_better(metric) is False else -1

    def place(row: Row) -> tuple[bool, bool, float]:
        summary = row.summary(metric)
        return summary is None, not row.seeds, sign * summary.mean if summary else 0.0

    return sorted(rows, key=place)
