"""What a command that trained says at its end: each trial beside the published one, then where its rows stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmbench.report import cells
from mmbench.report.boards import Board, no_evidence
from mmbench.report.equality import WORDS, Difference, compare_trials, worst
from mmbench.report.grouping import Code, boards
from mmbench.report.judgement import REFERENCES, Evidence
from mmbench.report.leaderboard import file_names
from mmbench.report.markdown import NONE, printable
from mmbench.report.notes import made_by, notes
from mmbench.report.rows import Row
from mmbench.report.standing import around
from mmbench.runner.record import Record

NEIGHBOURS = 2
"""Rows above and below an own row that are shown."""

WIDTH, NUMBER, WORD = 80, 9, max(map(len, WORDS))
TITLE = WIDTH - 3 * NUMBER - WORD - 5


def your_runs(
    own: Sequence[Record],
    published: Iterable[Record] | None,
    everything_own: Iterable[Record],
    checkpoints: Mapping[str, Path],
    console: Console,
    code: Code | None = None,
    out: Path = Path("leaderboard/local"),
    evidence: Evidence = no_evidence,
) -> None:
    """Print by track the trials of a command, and their rows among the published ones.

    Args:
        own: Records of the command's trials.
        published: Published records; None where there are none of any track.
        everything_own: All own records, of which a row may have more than this command made.
        checkpoints: Checkpoint by trial id, of those that have one.
        console: Where to print; 80 columns suffice.
        code: Hash of the present code of a method on a data set.
        out: Folder of one's own tables.
        evidence: Test predictions by record, for the intervals.
    """
    here = published is not None
    published = list(published or ())
    tracks = {record.track for record in own}
    theirs = [record for record in published if record.track in tracks]
    mine = [*(record for record in everything_own if record.track in tracks), *own]
    names = file_names(sorted({record.track for record in everything_own} | tracks))
    if not here:
        console.print(
            "There are no published records here (an installed package has none, a clone of the repository has): your "
            "runs stand among themselves, and whether they reproduce published numbers cannot be told."
        )
    for board in boards(theirs, mine, code, evidence=evidence):
        ids = {record.id for record in own if (record.track, record.identity) == (board.track, board.identity)}
        if not ids:
            continue
        console.print()
        _line(console, f"Your runs on {board.track} (data {board.identity[:12]})", "bold")
        _trials(board, [record for record in own if record.id in ids], checkpoints, console)
        if here and not any(not row.own for row in board.rows):
            other = any(record.track == board.track for record in theirs)
            what = "the published rows of this track were measured on other data" if other else "nothing is published"
            console.print(f"{what.capitalize()}: these runs stand among themselves.")
        console.print()
        _ranking(board, ids, console)
        _line(console, f"The whole table: {out / names[board.track]}.md")


def _line(console: Console, text: str, style: str = "") -> None:
    """Print a line; where it is longer than the console is wide, the terminal breaks it, so that it can be copied."""
    console.print(Text(text, style=style), soft_wrap=True)


def _trials(board: Board, own: Sequence[Record], checkpoints: Mapping[str, Path], console: Console) -> None:
    """Print a line per trial, and below it what else is to be known and where its checkpoint lies."""
    rows = {record.id: row for row in board.rows if not row.own for record in row.records.values()}
    theirs = {record.id: record for row in rows.values() for record in row.records.values()}
    metric = f"{board.metric} {cells.arrow(board.higher)}" if board.metric else "metric"
    _columns(console, f"trial ({metric})", "yours", "published", "diff.", "word", "dim")
    for record in own:
        found = theirs.get(record.id)
        differences = compare_trials(record, found, list(rows[record.id].records.values())) if found else []
        chosen = next((item for item in differences if item.name == board.metric), None)
        _columns(
            console,
            record.title,
            _value(board, record),
            _value(board, found) if found else NONE,
            cells.number(chosen.difference, "+") if chosen else NONE,
            worst(differences) if differences else NONE,
        )
        for line in _below(record, differences, chosen):
            _line(console, f"  {line}")
        if record.id in checkpoints:
            _line(console, f"  {checkpoints[record.id]}")


def _columns(console: Console, title: str, *texts: str) -> None:
    """Print one line of the table of trials; a title that is too long has a line of its own."""
    *numbers, word = texts[:4]
    style = texts[4] if len(texts) > 4 else ""
    title = printable(title)
    if cell_len(title) > TITLE:
        _line(console, title, style)
        title = ""
    line = " ".join([set_cell_size(title, TITLE), *(f"{text:>{NUMBER}}" for text in numbers), word])
    _line(console, line.rstrip(), style)


def _value(board: Board, record: Record) -> str:
    return cells.number(record.test.get(board.metric)) if record.completed else record.status


def _below(record: Record, differences: Sequence[Difference], chosen: Difference | None) -> list[str]:
    """Return why there is no result, or which numbers gave a trial a worse word than the one that is shown."""
    if record.error is not None:
        return [printable(f"{record.error.type}: {record.error.message}")]
    word = worst(differences)
    if chosen is None or chosen.word == word:
        return []
    return [f"{word}: {', '.join(printable(item.name) for item in differences if item.word == word)}"]


def _ranking(board: Board, ids: Set[str], console: Console) -> None:
    """Print the rows of some trials with what stands around them, the references and the best."""
    rows = [row for row in board.rows if row.own and not ids.isdisjoint(_ids(row))]
    shown = _shown(board, rows, ids)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column(f"{board.metric or 'metric'} {cells.arrow(board.higher)} [95 %]", justify="right", overflow="fold")
    for before, index in pairwise([-1, *shown, len(board.rows)]):
        if index - before > 1:
            table.add_row("", Text(f"… {cells.several(index - before - 1, 'more row')}", style="dim"), "", "")
        if index < len(board.rows):
            row = board.rows[index]
            texts = [cells.rank(board, row), row.label, str(len(row.seeds))]
            texts.append(
                cells.mean_and_deviation(row.summary(board.metric)) + around(board.judgement.intervals.get(row), row)
            )
            table.add_row(*(Text(text, style="bold" if row in rows else "") for text in texts))
    console.print(table)
    for row in board.rows:
        seen = row.own or not ids.isdisjoint(_ids(row))
        found = notes(board, row) if row in rows else made_by(row) if seen else []
        if found:
            console.print(Text(f"{row.label}: {'; '.join(found)}"))


def _ids(row: Row) -> set[str]:
    return {record.id for record in row.records.values()}


def _shown(board: Board, rows: Sequence[Row], ids: Set[str]) -> list[int]:
    """Return the places of the rows that are shown: own ones, their neighbours and namesakes, references, the best."""
    last = len(board.rows) - 1
    shown = {0}
    for index, row in enumerate(board.rows):
        if row in rows:
            shown |= set(range(max(0, index - NEIGHBOURS), min(last, index + NEIGHBOURS) + 1))
        elif (
            row is board.best
            or not ids.isdisjoint(_ids(row))
            or (row in board.usual and row.method in REFERENCES and not row.any_record.changed)
        ):
            shown.add(index)
    # The line that says that one row is left out has the place of that row.
    return sorted(shown | {index for index in range(last) if {index - 1, index + 1} <= shown})
