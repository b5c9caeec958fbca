"""The table that a command prints when its trials are done."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmbench.report import cells
from mmbench.report.boards import boards
from mmbench.runner.records import RecordDict


def terminal_table(records: Iterable[RecordDict], track: str, console: Console) -> None:
    """Print the ranking of one track, narrow enough for 80 columns, and the notes below it.

    Args:
        records: Records; those of other tracks are left out.
        track: The track.
        console: Where to print.
    """
    for board in boards(record for record in records if record["track"] == track):
        title = Text(f"{track} (data {board.fingerprint[:12]})")
        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown.add_column("")
        shown.add_column("method", overflow="fold")
        metric = f"{board.metric or 'metric'} {cells.arrow(board.higher) if board.metric else ''}"
        for head in ("trials", metric, "p (best)", "parameters", "s/epoch"):
            shown.add_column(head, justify="right", no_wrap=True)
        for row in board.rows:
            texts = [cells.rank(board, row), row.label, cells.trials(row), cells.spread(row.summary(board.metric))]
            texts += [cells.against_best(board, row), cells.parameters(row), cells.seconds(row)]
            shown.add_row(*(Text(text, style="bold" if row is board.best else "") for text in texts))
        console.print(shown)
        for row in board.rows:
            if notes := cells.notes(board, row):
                console.print(Text(f"{row.label}: {'; '.join(notes)}"))
