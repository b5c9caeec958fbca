"""The record: what a trial leaves behind, as one typed object. Its JSON has the names of these attributes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from data_modules.schema import ModalitySpec
from mmbench.methods.config import shown
from mmbench.runner.facts import Calibration, CardFacts, Cost, Environment, Failure, Reproduction, Selection, TaskFacts
from mmbench.runner.plan import label, title
from mmbench.runner.reading import ReadingError, parse_json

SCHEMA = 2
Status = Literal["completed", "diverged", "failed"]


class RecordError(ValueError):
    """A record is not what it should be; the message says what is wrong with it."""


@dataclass(frozen=True)
class Record:
    """What a trial leaves behind.

    Attributes:
        schema: Version of this layout.
        id: Hash of everything a person can set that decides the result.
        status: ``completed``, ``diverged`` (a loss or the selecting metric was no number) or ``failed`` (the method
            raised an error).
        track: ``<data set>/<feature set>/<split protocol>``.
        fold: Fold of the split protocol.
        folds: Number of its folds.
        method: Key of the method.
        variant: Which of its variants.
        label: Name of its row: method, variant and changed settings.
        seed: Seed of the trial.
        config: All settings of the method.
        changed: Those that the command changed from the shipped ones.
        data: Settings of the data module that are not its defaults.
        training: What all methods of a table share: epochs, patience, precision.
        identity: Which data: sources, recipe, samples, labels, groups, splits.
        content: Digest of the store's bytes, empty where nobody noted it.
        libraries: Versions of the libraries that computed the features.
        code: Hash of the code that decides the result, empty where nobody noted it.
        version: Version of mmbench.
        card: What a table says of the method.
        environment: Where and when.
        task: What was predicted, from here on for completed trials only.
        features: The inputs, by modality.
        aligned: Whether they share one time axis.
        instead: By modality the kind that the data have and the one that the method was built for, where they differ.
        selection: Which epoch was chosen.
        test: The test metrics; None is undefined.
        curve: Per epoch the terms of the training loss and the validation metrics.
        samples: Number of samples per split.
        calibration: What validation says of confidences or intervals, and how confidences on test meet accuracy; None
            where nobody noted it.
        cost: What it cost.
        error: Why there is no result.
        reproduced: The last time that other code gave the same result.
        predictions: SHA-256 of the file of test predictions, unpacked.
        digest: SHA-256 of all the rest of the record.
    """

    # Types are meant as written, nothing is left over, and a number is a number.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: str
    status: Status
    track: str
    fold: int
    folds: int
    method: str
    variant: str
    label: str
    seed: int
    config: dict[str, Any]
    changed: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    identity: str
    code: str
    version: str
    card: CardFacts
    environment: Environment
    content: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    task: TaskFacts | None = None
    features: dict[str, ModalitySpec] = field(default_factory=dict)
    aligned: bool = False
    instead: dict[str, tuple[str, str]] = field(default_factory=dict)
    selection: Selection | None = None
    test: dict[str, float | None] = field(default_factory=dict)
    curve: list[dict[str, int | float | None]] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    calibration: Calibration | None = None
    cost: Cost | None = None
    error: Failure | None = None
    reproduced: Reproduction | None = None
    predictions: str = ""
    digest: str = ""
    schema: int = SCHEMA

    @property
    def completed(self) -> bool:
        """Whether there is a result."""
        return self.status == "completed"

    @property
    def value(self) -> float | None:
        """The selecting metric on test, None where there is none."""
        return self.test.get(self.selection.metric) if self.selection else None

    @property
    def title(self) -> str:
        """Short name of the trial: row, fold where there are several, seed."""
        return title(self.label, self.fold, self.folds, self.seed)

    @property
    def dataset(self) -> str:
        """Key of the data set."""
        return self.track.split("/")[0]

    @property
    def cell(self) -> tuple[int, int]:
        """Seed and fold."""
        return self.seed, self.fold

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Return the record of a JSON text.

        Raises:
            RecordError: When it is not one, or says what no record can say.
        """
        try:
            record = _ADAPTER.validate_json(text)
        except ValidationError as error:
            if (schema := _schema(text)) not in (None, SCHEMA):
                raise RecordError(f"it has schema {shown(schema)}, this program reads {SCHEMA}") from error
            raise RecordError(_first(error)) from error
        try:
            parse_json(text)
        except ReadingError as error:  # what no type forbids: a name twice, an infinite setting
            raise RecordError(str(error)) from error
        record.check()
        return record

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of plain containers, as :meth:`to_dict` gives them.

        Raises:
            RecordError: As :meth:`from_json`.
        """
        return cls.from_json(json.dumps(plain(values)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers: what is not finite, such as the correlation of a constant, is None."""
        values: dict[str, Any] = plain(dataclasses.asdict(self))
        if self.calibration is None:  # as in records that were written before it was noted, whose digests hold
            del values["calibration"]
        return values

    def to_json(self) -> str:
        """Return the text of the file: same content, same bytes."""
        return json.dumps(self.to_dict(), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @property
    def own_digest(self) -> str:
        """What :attr:`digest` should be."""
        return digest_of(self.to_dict())

    def check(self) -> None:
        """Check what types cannot say.

        Raises:
            RecordError: When parts contradict each other.
        """
        if self.schema != SCHEMA:
            raise RecordError(f"it has schema {self.schema}, this program reads {SCHEMA}")
        if not 0 <= self.fold < self.folds:
            raise RecordError(f"it is of fold {self.fold} of {self.folds}")
        if self.label != label(self.method, self.variant, self.changed):
            raise RecordError(f"its label {self.label!r} is not that of its settings")
        if wrong := [key for key, value in self.changed.items() if {**self.config, **self.training}.get(key) != value]:
            raise RecordError(f"it says that {wrong[0]} was changed to what it is not")
        if self.environment.date and not _is_date(self.environment.date):
            raise RecordError(f"its date {self.environment.date!r} is none")
        if not self.completed:
            if self.error is None:
                raise RecordError(f"it is {self.status} and does not say why")
            if self.test or self.selection or self.predictions:
                raise RecordError(f"it is {self.status} and has results")
            return
        if self.error is not None:
            raise RecordError("it is completed and has an error")
        for name in ("task", "selection", "cost"):
            if getattr(self, name) is None:
                raise RecordError(f"it is completed and has no {name!r}")
        assert self.selection is not None
        if self.value is None:
            raise RecordError("it is completed without a test value of the selecting metric")
        for split in ("train", "valid", "test"):
            if split not in self.samples:
                raise RecordError(f"it does not say how many {split} samples there were")
        if self.calibration is not None:
            assert self.task is not None
            _check_calibration(self.calibration, self.task)
        for name in ("max_epochs", "patience"):
            if type(self.training.get(name)) is not int:
                raise RecordError(f"its training has no {name!r}")


def _check_calibration(found: Calibration, task: TaskFacts) -> None:
    """Check that it is one of such a task."""
    classes, values = task.kind == "multiclass", task.kind == "regression"
    there = (found.temperature is not None, bool(found.reliability), bool(found.half_widths))
    if there != (classes, classes, values):
        raise RecordError(f"its calibration is not one of {task.kind} targets")
    if found.temperature is not None and found.temperature <= 0:
        raise RecordError(f"its temperature is {found.temperature}")
    halves = found.half_widths
    if values and (len(halves) != len(task.names) or any(half is not None and half < 0 for half in halves)):
        raise RecordError(f"its intervals have the half widths {halves}")


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the digest of a record's plain containers, whatever digest they claim."""
    text = json.dumps({**values, "digest": ""}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return plain JSON values: numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_date(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _schema(text: str | bytes) -> Any:
    """Return what a text that is no record says of its layout, None where it says nothing."""
    try:
        values = parse_json(text)
    except ReadingError:
        return None
    return values.get("schema") if isinstance(values, dict) else None


def _first(error: ValidationError) -> str:
    """Return the first complaint in words."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field_name = ".".join(map(str, found["loc"]))
    return f"{field_name!r}: {found['msg']}" if field_name else str(found["msg"])


_ADAPTER: TypeAdapter[Record] = TypeAdapter(Record)
