"""The test predictions of a trial, as a table that anybody can read."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.budget import check_size

Array = npt.NDArray[Any]
KEYS = ("id", "group", "fold")
"""The columns before the numbers."""
_TIMES = 100
"""A table that is read takes about as many times the memory of its text."""


class PredictionsError(ValueError):
    """A table of predictions cannot be read; the message says why."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was predicted of the test samples, in the order of the store.

    Attributes:
        ids: ``(N,)`` names of the samples.
        groups: ``(N,)`` video, dialogue or actor of each; empty where the data name none.
        fold: Fold of the split protocol in which the samples were tested.
        target: ``(N, C)`` true values or classes.
        prediction: ``(N, outputs)`` raw predictions: values or logits.
    """

    ids: list[str]
    groups: list[str]
    fold: int
    target: Array
    prediction: Array

    def to_csv(self) -> bytes:
        """Return the table as CSV (UTF-8): same content, same bytes; nine digits tell every float32 from the next."""
        names = [f"{kind}{n}" for kind in ("target", "prediction") for n in range(getattr(self, kind).shape[1])]
        lines = [",".join([*KEYS, *names])]
        for name, group, *rows in zip(self.ids, self.groups, self.target, self.prediction, strict=True):
            numbers = [f"{value:.9g}" for row in rows for value in row]
            lines.append(",".join([_quoted(name), _quoted(group), str(self.fold), *numbers]))
        return ("\n".join(lines) + "\n").encode()

    def write(self, path: Path) -> str:
        """Write the table, packed, and return the SHA-256 of its text."""
        content = self.to_csv()
        with path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
            shutil.copyfileobj(io.BytesIO(content), packed)
        return hashlib.sha256(content).hexdigest()


def as_stored(values: Array) -> Array:
    """Return numbers as a table has them: with nine digits."""
    return np.asarray([float(f"{value:.9g}") for value in values.flat]).reshape(values.shape)


def _quoted(text: str) -> str:
    """Return a cell of CSV; which ones Python's own writer quotes depends on its version."""
    return '"' + text.replace('"', '""') + '"' if any(letter in text for letter in ',"\r\n') else text


def _unpacked(path: Path) -> bytes:
    """Return the text of a table, unless it is larger than a file may be: a packed one does not say."""
    if not path.is_file():  # a pipe would keep the reader waiting
        raise OSError(f"{path} is no file")
    pieces, size = [], 0
    with gzip.open(path) as file:
        while piece := file.read(1 << 20):
            size += len(piece)
            check_size(path, "a table of predictions", _TIMES * size)
            pieces.append(piece)
    return b"".join(pieces)


def read_predictions(path: Path) -> tuple[Predictions, str]:
    """Return a table of predictions, and the SHA-256 of its text.

    Raises:
        PredictionsError: When the file is missing, cut off, no such table, or larger than memory may be.
    """
    try:
        content = _unpacked(path)
        text = content.decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise PredictionsError(f"its predictions cannot be read ({error})") from error
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        heads = next(rows, [])
        table = list(rows)
        if tuple(heads[: len(KEYS)]) != KEYS:
            raise PredictionsError(f"its predictions begin with the columns {', '.join(heads[: len(KEYS)])}")
        names = [head.rstrip("0123456789") for head in heads[len(KEYS) :]]
        if set(names) != {"target", "prediction"} or any(len(row) != len(heads) for row in table) or not table:
            raise PredictionsError("its predictions are no whole table of targets and predictions")
        values = np.asarray([row[len(KEYS) :] for row in table], dtype=np.float64)
        folds = {int(row[2]) for row in table}
    except (csv.Error, ValueError) as error:
        if isinstance(error, PredictionsError):
            raise
        raise PredictionsError(f"its predictions are no table of numbers ({error})") from error
    if len(folds) != 1:
        raise PredictionsError("its predictions are of several folds")
    target = values[:, [n for n, name in enumerate(names) if name == "target"]]
    prediction = values[:, [n for n, name in enumerate(names) if name == "prediction"]]
    ids, groups = ([row[place] for row in table] for place in (0, 1))
    return Predictions(ids, groups, folds.pop(), target, prediction), hashlib.sha256(content).hexdigest()
