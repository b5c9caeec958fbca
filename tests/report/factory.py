"""Records made by hand."""

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.schema import ModalitySpec
from mmbench.methods.card import PublishedResult
from mmbench.report.boards import Board
from mmbench.report.grouping import boards
from mmbench.report.rows import Row
from mmbench.runner.facts import CardFacts, Cost, Environment, Failure, Reproduction, Selection, TaskFacts
from mmbench.runner.predictions import Predictions
from mmbench.runner.record import Record
from mmbench.runner.records import Records

TRACK = "mosi/glove/standard"
MACHINE = Environment(
    python="3.11.7",
    torch="2.9.0",
    lightning="2.6.0",
    torchmetrics="1.9.0",
    numpy="2.4.0",
    processor="A CPU",
    threads=1,
    simd="AVX2",
)


def record(
    method: str = "mult",
    seed: int = 1,
    mae: float | None = 0.7,
    *,
    fold: int = 0,
    folds: int = 1,
    track: str = TRACK,
    status: str = "completed",
    config: dict | None = None,
    changed: dict | None = None,
    label: str | None = None,
    max_epochs: int = 40,
    data: dict | None = None,
    identity: str = "f" * 64,
    published: Sequence[tuple[str, float, str]] = (),
    test: Mapping[str, float | None] | None = None,
    family: str = "sentiment",
    selection: str = "mae",
    mode: str = "min",
    names: tuple[str, ...] = ("sentiment",),
    **others: Any,
) -> Record:
    """Return a record; everything not asked for is plausible and the same."""
    training = {"max_epochs": max_epochs, "patience": 8, "precision": "32-true"}
    config, changed, data = config or {"lr": 0.001}, changed or {}, data or {}
    decides = [track, fold, method, config, data, training, seed, identity]
    suffix = f" [{', '.join(f'{k}={v}' for k, v in changed.items())}]" if changed else ""
    found = Record(
        id=hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16],
        status=status,  # type: ignore[arg-type]
        track=track,
        fold=fold,
        folds=folds,
        method=method,
        variant="",
        label=label or method + suffix,
        seed=seed,
        config=config,
        changed=changed,
        data=data,
        training=training,
        identity=identity,
        code="c" * 16,
        version="0.1.0",
        card=CardFacts(
            f"The {method} method",
            2019,
            "own" if method == "constant" else "paper",
            tuple(PublishedResult(track, m, v, s) for m, v, s in published),
        ),
        environment=MACHINE,
    )
    if status == "completed":
        found = replace(
            found,
            task=TaskFacts("regression" if family == "sentiment" else family, names, family),  # type: ignore[arg-type]
            features={"text": ModalitySpec("text", 300, 50, source="GloVe")},
            selection=Selection(selection, mode, 10 + seed, 0.7),  # type: ignore[arg-type]
            test=dict(test) if test is not None else {"mae": mae, "corr": 0.6, "acc2_non0": 0.8},
            samples={"train": 1284, "valid": 229, "test": 686},
            cost=Cost(1234567, 20 + seed, 30.0, float(seed), seed * 2**20, "process"),
        )
    else:
        found = replace(found, error=Failure("diverged" if status == "diverged" else "ValueError", "it went wrong"))
    return replace(found, **others)


def runs(method: str, maes: Sequence[float | None], **changes: Any) -> list[Record]:
    """Return one record per value, with the seeds 1, 2, ..."""
    return [record(method, seed, mae, **changes) for seed, mae in enumerate(maes, 1)]


def folded(method: str, values: Mapping[tuple[int, int], float], folds: int, **changes: Any) -> list[Record]:
    """Return one record per seed and fold."""
    return [record(method, seed, mae, fold=fold, folds=folds, **changes) for (seed, fold), mae in values.items()]


def reproduced(found: Record, code: str) -> Record:
    """Return a record that some code was shown to give as well."""
    return replace(found, reproduced=Reproduction(code, "2026-01-02", 1e-7, "equal"))


GROUPS, PER_GROUP = 12, 4


def evidence(found: Record) -> Predictions:
    """Return predictions whose mean absolute error is that of a record; items differ, by seed a little otherwise."""
    mae = found.test["mae"]
    assert mae is not None
    items = np.arange(GROUPS * PER_GROUP)
    errors = 1 + 0.3 * np.cos(items) + 0.05 * np.cos(items * found.seed + len(found.method))
    errors = mae * errors / errors.mean()
    names = [str(item) for item in items]
    groups = [f"group{item // PER_GROUP}" for item in items]
    return Predictions(names, groups, found.fold, np.zeros((len(items), 1)), errors[:, None])


def only(
    published: Sequence[Record], own: Sequence[Record] = (), code: Any = None, costs: Any = None, **others: Any
) -> Board:
    """Return the only board of some records."""
    (board,) = boards(published, own, code, costs, **others)
    return board


def by_label(board: Board) -> dict[str, Row]:
    """Return the rows of a board by their labels."""
    return {row.label: row for row in board.rows}


def store(root: Path, records: Sequence[Record]) -> list[Path]:
    """Write records and predictions to where they belong."""
    place = Records(root)
    for found in records:
        place.write(found)
        if found.completed:
            place.path(found).with_suffix(".csv.gz").write_bytes(gzip.compress(b"id,target0,prediction0\n"))
    return [place.path(found) for found in records]


def lines_of(text: str, heading: str) -> list[dict[str, str]]:
    """Return the rows of the first Markdown table under a heading, by column."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")])
    heads = rows[0]
    assert all(len(row) == len(heads) for row in rows)
    return [dict(zip(heads, (cell.replace("\0", "\\|") for cell in row), strict=True)) for row in rows[2:]]
