"""A trial: what was run, what came out, how it went, where its files are, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmbench.methods import ConfigError, methods
from mmbench.report.cells import number
from mmbench.report.rows import UNKNOWN_HERE, of_code
from mmbench.runner.callbacks import best_checkpoint
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import predictions_path, read_record
from mmbench.show.parts import Part, facts, spelled

FEWEST = 4
"""Letters of an id that name a trial."""


def find_records(begin: str, folders: Mapping[str, Path]) -> list[tuple[str, Path, Record]]:
    """Return the records whose id begins with some letters: whose they are, where, and what they say.

    Args:
        begin: At least :data:`FEWEST` first letters of the id, or all of it.
        folders: By whose they are, the folders of records.

    Raises:
        ConfigError: When several trials begin so, or when a file cannot be read.
    """
    if len(begin) < FEWEST or not set(begin) <= set("0123456789abcdef"):
        return []
    paths = [(whose, path) for whose, root in folders.items() for path in sorted(root.glob(f"**/{begin}*.json"))]
    ids = sorted({path.stem for _, path in paths})
    if len(ids) > 1:
        raise ConfigError(f"{len(ids)} trials begin with {begin}: give more of the id, such as {', '.join(ids[:5])}.")
    try:
        return [(whose, path, read_record(path)) for whose, path in paths]
    except RecordError as error:
        raise ConfigError(
            f"The record of {ids[0]} cannot be shown: {error}. `mmbench verify` names its file."
        ) from error


def show_trial(whose: str, path: Path, record: Record, runs: Path, present: str) -> list[Part]:
    """Return what there is to know of a trial.

    Args:
        whose: Whose record it is.
        path: Where it lies.
        record: What it says.
        runs: Folder of checkpoints and logs.
        present: Hash of the code that its method and data set have now, empty where it has none.
    """
    parts = [
        _head(whose, record, present),
        Part("Error", facts({record.error.type: record.error.message}), lines=record.error.trace)
        if record.error
        else Part(""),
        Part("Settings", _settings(record)),
        Part(
            "Test, at the selected epoch", facts({name: number(value) for name, value in sorted(record.test.items())})
        ),
        Part("Curve", table=curve(record)),
        _cost(record),
        Part("Files", _files(path, record, runs)),
    ]
    return [part for part in parts if part.rows or part.table or part.lines]


def curve(record: Record) -> tuple[tuple[str, ...], ...]:
    """Return the curve, names first; the selected epoch has a star."""
    names = list(dict.fromkeys(name for row in record.curve for name in row if name != "epoch"))
    chosen = record.selection.epoch if record.selection else None
    rows = [
        (f"{row['epoch']}{'*' if row['epoch'] == chosen else ' '}", *(number(row.get(name)) for name in names))
        for row in record.curve
    ]
    return (("epoch", *names), *rows) if rows else ()


def _head(whose: str, record: Record, present: str) -> Part:
    chosen = record.selection
    return Part(
        f"{record.id}: {record.title}",
        facts(
            {
                "status": f"{record.status}, {whose}",
                "method": f"{record.method}: {record.card.title} ({record.card.year}, {record.card.fidelity})",
                "track": record.track,
                "fold": f"{record.fold} of {record.folds}" if record.folds > 1 else "",
                "data": record.identity,
                "samples": ", ".join(f"{count} {split}" for split, count in record.samples.items()),
                "selected": chosen
                and f"epoch {chosen.epoch}, whose {chosen.metric} on validation is {number(chosen.value)}",
                "code": _code(record, present),
                "when": record.environment.date,
            }
        ),
    )


def _code(record: Record, present: str) -> str:
    """Return which code made a trial, and whether it is the present one."""
    if present and of_code(record, present):
        return f"{record.code or 'unknown'}, the present code"
    if not present:
        return f"{record.code or 'unknown'}; {UNKNOWN_HERE}"
    return f"{record.code}, other code than the present one" if record.code else "unknown"


def _settings(record: Record) -> tuple[tuple[str, str, str], ...]:
    """Return name, value, and what is special, of the settings of method, training and data."""
    cls = methods().get(record.method)
    usual: dict[str, Any] = {item.name: item.default for item in fields(cls.Config)} if cls else {}

    def note(name: str, value: Any) -> str:
        words = ["changed by the command"] if name in record.changed else []
        return "; ".join([*words, *([f"default {spelled(usual[name])}"] if usual.get(name, value) != value else [])])

    data = {f"data.{name}": value for name, value in record.data.items()}
    everything = {**record.config, **record.training, **data}
    return tuple((name, spelled(value), note(name, value)) for name, value in everything.items())


def _cost(record: Record) -> Part:
    cost, machine = record.cost, record.environment
    values: dict[str, Any] = {"device": machine.device}
    if cost:
        values |= {
            "parameters": f"{cost.parameters:,}",
            "time": f"{cost.seconds:.1f} s for {cost.epochs} epochs",
            "memory": cost.peak_memory and f"{cost.peak_memory / 2**20:,.0f} MiB ({cost.peak_memory_of})",
        }
    libraries = ("python", "torch", "lightning", "torchmetrics", "numpy")
    values["made with"] = ", ".join(f"{name} {getattr(machine, name)}" for name in libraries)
    return Part("Cost and machine", facts(values))


def _files(path: Path, record: Record, runs: Path) -> tuple[tuple[str, str], ...]:
    """Return the files that are there."""
    folder = runs / record.id
    places = {"record": path, "predictions": predictions_path(path), "logs": folder / "log"}
    if record.selection:
        places["checkpoint"] = best_checkpoint(folder, record.selection.epoch)
    return facts({name: machine for name, machine in places.items() if machine.exists()})
