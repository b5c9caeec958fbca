"""What a classifier takes for what: recall by class and confusion, from the predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.markdown import NONE, code, escape, table
from mmbench.report.rows import Row
from mmbench.runner.predictions import PredictionsError

Counts = npt.NDArray[np.float64]
SHOWN = 3
"""Rows whose confusion is shown: the first of the order, and references."""


def confusion(board: Board, row: Row) -> Counts | None:
    """Return ``(C, C)`` the mean number of test samples of a class (row) taken for another (column) by a seed.

    None for a row without whole seeds, without predictions, or of another kind of target than one class of several.
    """
    task = next((record.task for record in row.used.values()), None)
    if task is None or task.kind != "multiclass" or not row.seeds:
        return None
    size = len(task.names)
    total = np.zeros((size, size))
    try:
        for one in row.used.values():
            found = board.evidence(one)
            if not np.isfinite(found.prediction).all():
                return None
            np.add.at(total, (found.target[:, 0].astype(int), found.prediction.argmax(1)), 1)
    except PredictionsError:
        return None
    return total / len(row.seeds)


def classes(board: Board) -> list[str]:
    """Return the tables of recalls and confusions; nothing for other targets."""
    found = {row: counts for row in board.rows if (counts := confusion(board, row)) is not None}
    if not found:
        return []
    names = [escape(name) for row in list(found)[:1] if (task := row.any_record.task) for name in task.names]
    rows = [[code(row.label), *_shares(counts)] for row, counts in found.items()]
    lines = ["Recall of each class, over all test samples and seeds:", "", *table(["method", *names], rows)]
    for row in _chosen(board, list(found)):
        counts = found[row]
        body = [[name, *(f"{value:.1f}" for value in line)] for name, line in zip(names, counts, strict=True)]
        lines += ["", f"{code(row.label)}: true class by line, predicted class by column, mean over seeds:", ""]
        lines += table(["", *names], body)
    return lines


def _shares(counts: Counts) -> list[str]:
    total = counts.sum(1)
    return [cells.number(float(own / all_)) if all_ else NONE for own, all_ in zip(np.diag(counts), total, strict=True)]


def _chosen(board: Board, rows: list[Row]) -> list[Row]:
    """Return the first row, ``late_fusion`` and ``linear``, in the order of the board."""
    wanted = [row for row in rows if row.method in ("late_fusion", "linear") and not row.any_record.variant]
    return [row for row in rows if row is rows[0] or row in wanted][:SHOWN]
