"""Records: what a trial leaves behind, one JSON file each, with the test predictions beside it.

``<root>/<track>/<method>/<trial id>.json`` and ``<trial id>.csv.gz``. Files are written atomically and never changed by
hand; a record that cannot be read is named and skipped.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from data_modules.files import atomic_path
from mmbench.runner.plan import Trial

SCHEMA = 1
STATUSES = ("completed", "diverged", "failed")
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "id": str,
    "status": str,
    "track": str,
    "fold": int,
    "folds": int,
    "method": str,
    "variant": str,
    "label": str,
    "seed": int,
    "config": dict,
    "changed": dict,
    "data": dict,
    "training": dict,
    "fingerprint": str,
    "version": str,
    "card": dict,
    "task": dict,
    "features": dict,
    "aligned": bool,
    "selection": dict,
    "test": dict,
    "curve": list,
    "cost": dict,
    "environment": dict,
    "samples": dict,
}

COMPLETED: dict[str, tuple[str, ...]] = {
    "card": ("title", "year", "fidelity", "published"),
    "task": ("kind", "names", "family"),
    "selection": ("metric", "mode", "epoch", "value"),
    "cost": ("parameters", "epochs", "seconds_per_epoch", "peak_memory", "peak_memory_of"),
    "samples": ("train", "valid", "test"),
    "training": ("max_epochs", "patience"),
}
"""What a completed record must say."""

RecordDict = dict[str, Any]


def problem(record: Any, path: Path) -> str | None:
    """Return what is wrong with a record, or None.

    Args:
        record: Parsed JSON.
        path: Where it lies: ``<track>/<method>/<id>.json`` must agree with the content.
    """
    if not isinstance(record, dict):
        return "it is not an object"
    for key, kind in REQUIRED.items():
        if not isinstance(record.get(key), kind):
            return f"{key!r} is missing or not of type {getattr(kind, '__name__', kind)}"
    if record["schema"] != SCHEMA:
        return f"it has schema {record['schema']}, this program reads {SCHEMA}"
    if record["status"] not in STATUSES:
        return f"its status {record['status']!r} is none of {', '.join(STATUSES)}"
    expected = Path(record["track"], record["method"], f"{record['id']}.json").parts
    if path.parts[-len(expected) :] != expected:
        return f"its place does not fit its content, which says {'/'.join(expected)}"
    if record["status"] == "completed":
        for key, names in COMPLETED.items():
            if missing := [name for name in names if name not in record[key]]:
                return f"{key!r} has no {missing[0]!r}"
        if not all(value is None or isinstance(value, int | float) for value in record["test"].values()):
            return "a test value is not a number"
        if record["test"].get(record["selection"]["metric"]) is None:
            return "it is completed without a test value of the selecting metric"
        if not path.with_suffix("").with_suffix(".csv.gz").is_file():
            return "its predictions are missing"
    return None


class Records:
    """The records under one folder.

    Args:
        root: The folder, usually ``leaderboard/records``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, trial: Trial) -> Path:
        """Return where the record of a trial lies."""
        return self.root / trial.track / trial.method / f"{trial.id}.json"

    def find(self, trial: Trial) -> RecordDict | None:
        """Return the record of a trial, if there is a readable one."""
        path = self.path(trial)
        return self._read(path)[0] if path.is_file() else None

    def write(self, trial: Trial, record: RecordDict, predictions: Mapping[str, Any] | None = None) -> Path:
        """Write a record, and its predictions first, so that a record never lacks them.

        Args:
            trial: Decides the place.
            record: The content.
            predictions: ``ids`` (N,), ``target`` (N,) or (N, C) and ``prediction`` (N, outputs).
        """
        path = self.path(trial)
        if predictions is not None:
            write_predictions(path.with_suffix(".csv.gz"), **predictions)
        with atomic_path(path) as part:
            part.write_text(json.dumps(_jsonable(record), indent=1, sort_keys=True, allow_nan=False) + "\n")
        return path

    def load(self) -> tuple[list[RecordDict], list[str]]:
        """Return every readable record, in the order of their paths, and one line per file that is not one."""
        records, problems = [], []
        for path in sorted(self.root.glob("**/*.json")):
            record, wrong = self._read(path)
            if record is None:
                problems.append(f"{path}: {wrong}; skipped. Remove the file and run the trial again.")
            else:
                records.append(record)
        return records, problems

    def _read(self, path: Path) -> tuple[RecordDict | None, str | None]:
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            return None, f"it cannot be read ({error})"
        wrong = problem(record, path)
        return (None, wrong) if wrong else (record, None)


def write_predictions(path: Path, ids: npt.NDArray[Any], target: Tensor, prediction: Tensor) -> None:
    """Write the test predictions as gzipped CSV (id, targets, raw predictions): same content, same bytes."""
    columns = [np.asarray(values, dtype=float).reshape(len(ids), -1) for values in (target, prediction)]
    names = [
        f"{kind}{i}"
        for kind, values in zip(("target", "prediction"), columns, strict=True)
        for i in range(values.shape[1])
    ]
    text = io.StringIO()
    text.write(",".join(["id", *names]) + "\n")
    for name, *rows in zip(ids, *columns, strict=True):
        text.write(",".join([json.dumps(name), *(f"{value:.9g}" for row in rows for value in row)]) + "\n")
    with atomic_path(path) as part, part.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
        shutil.copyfileobj(io.BytesIO(text.getvalue().encode()), packed)


def _jsonable(value: Any) -> Any:
    """Return plain JSON values: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
