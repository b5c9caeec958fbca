"""What rows are left with when one modality says nothing: the boards on which it is exchanged between samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote

from data_modules.batches.corruption import Corruption
from data_modules.schema import MODALITIES
from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.markdown import NONE, code, table
from mmbench.report.rows import Row
from mmbench.report.standing import around
from mmbench.report.sweep import configuration


def shuffled(board: Board, boards: Iterable[Board], names: Mapping[str, str]) -> list[str]:
    """Return the table of the rows that were also trained with one modality shuffled; nothing where none was.

    Args:
        board: The board on which nothing is shuffled.
        boards: Those of all tracks.
        names: By track the file name of its page.
    """
    tracks = {name: f"{board.track}+{Corruption(shuffled=name).variant}" for name in MODALITIES}
    found = {
        name: {configuration(row): _score(other, row) for row in other.rows}
        for name, track in tracks.items()
        for other in boards
        if (other.track, other.identity) == (track, board.identity)
    }
    rows = []
    for row in board.rows:
        others = [scores.get(configuration(row), NONE) for scores in found.values()]
        if set(others) - {NONE}:
            rows.append([code(row.label), _score(board, row), *others])
    if not rows:
        return []
    text = (
        f"{code(board.metric)} of rows trained and tested with one modality exchanged between the samples of each "
        "split, so that it says nothing of their labels: what the others tell is left."
    )
    heads = [f"[{name} shuffled]({quote(names[tracks[name]])}.md)" for name in found]
    return [text, "", *table(["method", "as it is", *heads], rows)]


def _score(board: Board, row: Row) -> str:
    return cells.mean_and_deviation(row.summary(board.metric)) + around(board.judgement.intervals.get(row), row)
