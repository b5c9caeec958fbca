"""What a reader must know of a row beside its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mmbench.report.boards import Board
from mmbench.report.caveats import idle_mechanism
from mmbench.report.cells import ranges, several
from mmbench.report.markdown import printable
from mmbench.report.rows import FEWEST_SEEDS, UNKNOWN_HERE, Row, RunKey
from mmbench.runner.record import Record

SHOWN = 3
"""Trials of one kind that are named in a note; of more, the number is given."""


def notes(board: Board, row: Row) -> list[str]:
    """Return what a reader must know of a row, each a few words on one line."""
    found = _troubles(row) + _seeds(row) + made_by(row)
    found += [f"{name}={'default' if value is None else value}" for name, value in board.differing(row).items()]
    if row.any_record.data.get("dialogue"):
        found.append("sees the whole dialogue")
    if instead := row.any_record.instead:
        found.append("on " + ", ".join(f"{name} {had} (for {meant})" for name, (had, meant) in instead.items()))
    found += _features(board, row)
    if failing := board.against_constant(row):
        found.append(failing)
    if board.far_ahead(row):
        found.append("far ahead of all others: check it")
    found += idle_mechanism(row)
    last = sum(_limited(record) for record in row.counted.values())
    if last:
        found.append(f"epoch limit ({last}/{len(row.counted)})")
    return [printable(text) for text in found]


def _limited(record: Record) -> bool:
    """Return whether a training ended by the largest number of epochs, and not because nothing got better."""
    if record.cost is None or record.selection is None:
        return False
    waited = record.cost.epochs - 1 - record.selection.epoch
    return record.cost.epochs >= record.training["max_epochs"] and waited < record.training["patience"]


def _troubles(row: Row) -> list[str]:
    """Return what went wrong in trials."""
    states = Counter(row.troubles.values())
    return [
        f"{states[state]} {state}{_named(row, [cell for cell, what in row.troubles.items() if what == state])}"
        for state in sorted(states)
    ]


def _seeds(row: Row) -> list[str]:
    """Return what a row's number of seeds means for it, and which trials are not part of its value."""
    found = []
    parts = sorted({seed for seed, _ in row.counted} - set(row.seeds))
    if not row.seeds and row.counted:
        folds = sorted({fold for _, fold in row.counted})
        found.append(f"only fold{'s' * (len(folds) > 1)} {ranges(folds)} of {row.folds}: not ranked")
    elif parts:
        some = f" ({', '.join(f'seed {seed}' for seed in parts)})" if len(parts) <= SHOWN else ""
        found.append(f"{several(len(parts), 'seed')} without all folds{some}: not counted")
    if row.seeds and len(row.seeds) < FEWEST_SEEDS and not row.troubles:
        found.append(f"{several(len(row.seeds), 'seed')}: not ranked")
    return found


def made_by(row: Row) -> list[str]:
    """Return that other code than the present made trials, and how many the present code was shown to give as well."""
    if row.present is None:
        return []
    if not row.present:
        return [UNKNOWN_HERE]
    made = {cell: record for cell, record in row.records.items() if record.code != row.present}
    again = [cell for cell, record in made.items() if row.current(record)]
    if len(again) == len(made):
        return []
    text = "made by earlier code" if all(record.code for record in made.values()) else "made by unknown code"
    if len(made) < len(row.records):
        text = f"{_count(row, list(made), list(row.records))} {text}"
    return [text + (f"; reproduced {_count(row, again, list(made))}" if again else "")]


def _count(row: Row, some: Sequence[RunKey], of: Sequence[RunKey]) -> str:
    """Return how many seeds are meant, or trials where seeds have several folds."""
    return f"{len(some)} of {several(len(of), 'seed' if row.folds == 1 else 'trial')}"


def _features(board: Board, row: Row) -> list[str]:
    """Return where the features of a row are not quite those of the others, though the data are the same."""
    found = []
    others = sorted({record.content for record in row.records.values()} - {"", board.content})
    if others and board.content:
        found.append("other bytes of the same features")
    different = {
        f"{name} {version} (others: {board.libraries.get(name, 'none')})"
        for record in row.records.values()
        for name, version in record.libraries.items()
        if board.libraries and board.libraries.get(name) != version
    }
    return found + ([f"features computed with {', '.join(sorted(different))}"] if different else [])


def _named(row: Row, cells: list[RunKey]) -> str:
    """Return the seeds and folds of a few cells, with the type of error where something failed."""
    if len(cells) > SHOWN:
        return ""
    names = []
    for seed, fold in cells:
        error = row.records[seed, fold].error
        kind = f": {error.type}" if error and error.type != "diverged" else ""
        names.append(f"seed {seed}" + (f" fold {fold}" if row.folds > 1 else "") + kind)
    return f" ({', '.join(names)})"
