"""Where records lie: ``<root>/<track>/<method>/<trial id>.json``, with the test predictions beside it (``.csv.gz``).

Files are written atomically, the predictions first, and never changed by hand; a record that cannot be read is named
and skipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from data_modules.files import atomic_path
from mmbench.runner.plan import Trial
from mmbench.runner.predictions import Predictions
from mmbench.runner.reading import MOST_JSON, ReadingError, read_bytes
from mmbench.runner.record import Record, RecordError

PREDICTIONS = ".csv.gz"


class Records:
    """The records under one folder.

    Args:
        root: The folder, such as ``leaderboard/records``.
        tracks: Only the records of these tracks; of all when empty.
    """

    def __init__(self, root: Path, tracks: Collection[str] = ()) -> None:
        self.root, self.tracks = root, tracks

    def path(self, trial: Trial | Record) -> Path:
        """Return where the record of a trial lies."""
        return self.root / trial.track / trial.method / f"{trial.id}.json"

    def write(self, record: Record, predictions: Predictions | None = None) -> Record:
        """Write a record and its predictions: both whole, then both in their places, the predictions first.

        So a record never lacks its predictions, and a disk that fills leaves an earlier record as it was.

        Args:
            record: The content; it also decides the place.
            predictions: What was predicted, for a trial that is completed.

        Returns:
            The record as it was written, with its digests.
        """
        path = self.path(record)
        with ExitStack() as stack:  # the last one in is the first one in its place
            part = stack.enter_context(atomic_path(path))
            if predictions is not None:
                beside = stack.enter_context(atomic_path(predictions_path(path)))
                record = dataclasses.replace(record, predictions=predictions.write(beside))
            record = dataclasses.replace(record, digest=record.own_digest)
            part.write_text(record.to_json(), encoding="utf-8")
        return record

    def paths(self) -> list[Path]:
        """Return the files of all records, in order."""
        return self.files(".json")

    def files(self, ending: str) -> list[Path]:
        """Return the files with an ending, in order."""
        return sorted(path for track in self.tracks or (".",) for path in (self.root / track).glob(f"**/*{ending}"))

    def load(self) -> tuple[list[Record], list[str]]:
        """Return every readable record, in the order of their paths, and one line per file that is not one."""
        records, problems = [], []
        for path in self.paths():
            try:
                records.append(self.placed(path, read_record(path)))
            except RecordError as error:
                problems.append(f"{path}: {error}; skipped. Remove the file and run the trial again.")
        return records, problems

    def placed(self, path: Path, record: Record) -> Record:
        """Return a record that was read from a file below the folder, if it belongs there.

        Raises:
            RecordError: When its place is another.
        """
        if path != self.path(record):
            raise RecordError(f"its place would be {self.path(record)}")
        return record


def predictions_path(path: Path) -> Path:
    """Return where the predictions of a record lie, from where the record lies."""
    return path.with_suffix(PREDICTIONS)


def read_record(path: Path) -> Record:
    """Return the record in a file.

    Raises:
        RecordError: When it is none, lies in another place than its content says, or lacks its predictions.
    """
    try:
        record = Record.from_json(read_bytes(path, MOST_JSON))
    except ReadingError as error:
        raise RecordError(str(error)) from error
    expected = Path(record.track, record.method, f"{record.id}.json").parts
    if path.parts[-len(expected) :] != expected:
        raise RecordError(f"its place does not fit its content, which says {'/'.join(expected)}")
    if record.completed and not predictions_path(path).is_file():
        raise RecordError("its predictions are missing")
    return record
