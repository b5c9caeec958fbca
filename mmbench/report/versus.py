"""Two rows of a board beside each other, metric by metric."""

from __future__ import annotations

from data_modules.schema import unknown_name
from mmbench.methods.config import ConfigError
from mmbench.report.boards import Board
from mmbench.report.cells import arrow, several
from mmbench.report.forms import Column, Form, Intervals, Means, Plain, in_form
from mmbench.report.inference import Inference
from mmbench.report.markdown import escape
from mmbench.report.notes import notes
from mmbench.report.rows import YOURS, Row
from mmbench.report.statistics import welch

READING = (
    "The difference is the first row minus the second, with its 95 % interval over new seeds and new groups of test "
    "samples, where the table compares both, and by Welch's t over seeds, which knows these test samples only. Neither "
    "allows for several metrics being looked at."
)


def versus(board: Board, a: str, b: str, form: Form = "markdown") -> str:
    """Return the comparison of two rows.

    Args:
        board: The board.
        a: Label of the first row, or the key of its method.
        b: Likewise of the second.
        form: Form of the table; what is to be known of it stands below in Markdown, above as a comment in LaTeX.

    Raises:
        ConfigError: When there is no such row, or when there are several.
    """
    first, second = find_row(board, a), find_row(board, b)
    names = board.plain_metrics
    ours, theirs = ([row.summary(name) for name in names] for row in (first, second))
    columns: list[Column] = [
        Plain("metric", names if form == "csv" else [f"{n} {arrow(board.higher_is_better(n))}".strip() for n in names]),
        Means(first.label, ours, behind="n"),
        Means(second.label, theirs, behind="n"),
        Plain("difference", [a.mean - b.mean if a and b else None for a, b in zip(ours, theirs, strict=True)], "+"),
        Intervals(
            "new seeds and new groups", [_ends(board.judgement.difference(first, second, name)) for name in names]
        ),
        Intervals("interval over seeds", [welch(first.values(name), second.values(name)) for name in names]),
    ]
    text = in_form(columns, form)
    if form == "csv":
        return text
    known = [READING]
    if both := len({record.id for record in first.used.values()} & {record.id for record in second.used.values()}):
        known.append(f"The rows share {several(both, 'trial')}, trained twice; what differs are the other seeds.")
    known += [f"{row.label}: {'; '.join(found)}." for row in (first, second) if (found := notes(board, row))]
    if form == "latex":
        return "".join(f"% {line}\n" for line in known) + text
    return text + "".join(f"\n{escape(line)}\n" for line in known)


def _ends(found: Inference | None) -> tuple[float, float] | None:
    return (found.low, found.high) if found else None


def find_row(board: Board, name: str) -> Row:
    """Return the row of a label or of a method.

    Raises:
        ConfigError: When there is none, or when there are several.
    """
    labels = [row.label for row in board.rows]
    if name in labels:
        return board.rows[labels.index(name)]
    rows = [row for row in board.rows if row.own] if name.endswith(YOURS) else board.rows
    base = name.removesuffix(YOURS)
    found = [row for row in rows if base in (row.method, row.any_record.label)]
    if not found:
        raise ConfigError(f"{board.track}: {unknown_name('row', name, labels)}")
    if len(found) > 1:
        raise ConfigError(f"{board.track} has several rows {name!r}: {', '.join(row.label for row in found)}.")
    return found[0]
