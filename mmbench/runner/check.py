"""The regression check: small runs of all methods against committed numbers, seed by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from data_modules.files import atomic_path
from mmbench.methods import ConfigError
from mmbench.runner.facts import Environment
from mmbench.runner.reading import MOST_JSON, ReadingError, parse_json, read_bytes
from mmbench.runner.record import Record

SPREADS = 3.0
"""Allowed distance of means on another processor, in standard deviations over the seeds."""
SHARE = 0.05
"""And relative to the value: two or three seeds say little of their deviation, and there are thousands of numbers."""
FLOOR, SMALLEST = 1e-3, 1e-4
"""Allowed distance relative to the value, and the smallest allowed: what rounding may move."""

PARTS = ("torch", "lightning", "torchmetrics", "numpy", "processor", "threads")
"""What :attr:`~mmbench.runner.facts.Environment.rounding` consists of."""

Numbers = dict[str, dict[str, dict[str, float]]]
"""By row, by metric or term of the loss, by seed and fold the value."""


class _File(TypedDict):
    rounding: list[str | int]
    rows: Numbers


_FILE: TypeAdapter[_File] = TypeAdapter(_File)


@dataclass(frozen=True)
class Baseline:
    """Committed numbers, and where they were made.

    Attributes:
        rows: The numbers.
        rounding: What decides the last digits: versions of the libraries, instructions of the processor, threads
            (:attr:`~mmbench.runner.facts.Environment.rounding`).
    """

    rows: Numbers
    rounding: tuple[str | int, ...]

    def apart(self, here: Environment) -> str:
        """Return in words what is not alike between the place of the baseline and this one."""
        pairs = zip(PARTS, self.rounding, here.rounding, strict=False)
        other = [f"{name} {then or 'unknown'}, here {now or 'unknown'}" for name, then, now in pairs if then != now]
        return f"the baseline was made with {'; '.join(other) or 'what is not known'}"

    def exact(self, here: Environment) -> bool:
        """Return whether single runs can be compared: the same digits are to be expected."""
        return all(self.rounding) and self.rounding == here.rounding


@dataclass(frozen=True)
class Deviation:
    """A number that is not where the baseline has it.

    Attributes:
        row: Method and variant.
        name: Metric or term of the loss.
        run: Seed and fold, empty for the mean over them.
        baseline: The committed value, None when there is none.
        found: The value now, None when there is none.
        tolerance: Allowed distance.
    """

    row: str
    name: str
    run: str
    baseline: float | None
    found: float | None
    tolerance: float = 0.0


def numbers(records: Iterable[Record]) -> Numbers:
    """Return by row, name and run what the runs found.

    The names are the test metrics and the terms of the training loss in the first and in the last epoch that has them,
    so that a term that is switched off shows even when it hardly moves a score, and what differs early shows before
    rounding has grown. A run that did not complete has the single name of its status.
    """
    values: Numbers = {}
    for record in records:
        row = values.setdefault(record.label, {})
        found = {f"test/{key}": value for key, value in record.test.items()} | {f"status/{record.status}": 1.0}
        for epoch in record.curve or []:
            for key, value in epoch.items():
                if key.startswith("train/") and value is not None:
                    found.setdefault(f"{key}, first", value)
                    found[f"{key}, last"] = value
        for name, value in sorted(found.items()):
            if value is not None:
                row.setdefault(name, {})[f"seed {record.seed}, fold {record.fold}"] = float(value)
    return dict(sorted(values.items()))


def compare(found: Numbers, baseline: Numbers, *, exact: bool) -> list[Deviation]:
    """Return every number that moved, appeared or disappeared.

    Args:
        found: The numbers now.
        baseline: Those that are committed.
        exact: Whether every run is to give its number again, up to what rounding moves; else means over the runs are to
            lie within :data:`SPREADS` deviations or a :data:`SHARE` of the value.
    """
    moved = []
    for row in sorted({*found, *baseline}):
        ours, theirs = found.get(row, {}), baseline.get(row, {})
        for name in sorted({*ours, *theirs}):
            now, then = ours.get(name, {}), theirs.get(name, {})
            moved += (_runs if exact or not now or not then else _means)(row, name, now, then)
    return moved


def _runs(row: str, name: str, now: Mapping[str, float], then: Mapping[str, float]) -> list[Deviation]:
    pairs = [(run, then.get(run), now.get(run)) for run in sorted({*now, *then})]
    return [
        Deviation(row, name, run, old, new, 0.0 if old is None else _floor(old))
        for run, old, new in pairs
        if old is None or new is None or not abs(new - old) <= _floor(old)
    ]


def _means(row: str, name: str, now: Mapping[str, float], then: Mapping[str, float]) -> list[Deviation]:
    old, new = statistics.fmean(then.values()), statistics.fmean(now.values())
    spread = statistics.stdev(then.values()) if len(then) > 1 else 0.0
    tolerance = max(SPREADS * spread, SHARE * abs(old), _floor(old))
    return [] if abs(new - old) <= tolerance else [Deviation(row, name, "", old, new, tolerance)]


def _floor(value: float) -> float:
    return max(FLOOR * abs(value), SMALLEST)


def load_baseline(path: Path) -> Baseline:
    """Return the committed numbers.

    Raises:
        ConfigError: When there are none, or other things.
    """
    if not path.exists():
        raise ConfigError(
            f"There is no baseline at {path}. Make one with `mmbench check --suite {path.stem} --accept`."
        )
    try:
        found: Any = parse_json(read_bytes(path, MOST_JSON))
        file = _FILE.validate_python(found, strict=True)
        return Baseline(file["rows"], tuple(file["rounding"]))
    except ReadingError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'the whole'!r}: {first['msg']}"
    raise ConfigError(
        f"{path} is no baseline: {reason}. Get it from the repository, or `mmbench check --suite {path.stem} --accept`."
    )


def save_baseline(path: Path, found: Numbers, here: Environment, replaced: Iterable[str] | None = None) -> None:
    """Write the committed numbers.

    Args:
        path: The file.
        found: The new rows.
        here: Where they were made.
        replaced: The methods whose rows give way to the new ones; by default all.

    Raises:
        ConfigError: When a trial did not complete, or the rows that stay were made where other digits are to be
            expected.
    """
    if bad := [row for row, names in found.items() if {"status/failed", "status/diverged"} & set(names)]:
        raise ConfigError(f"Nothing is accepted, for these did not complete: {', '.join(bad)}.")
    if odd := [row for row, names in found.items() if not all(map(math.isfinite, _values(names)))]:
        raise ConfigError(f"Nothing is accepted, for these have numbers that are not finite: {', '.join(odd)}.")
    if replaced is not None and path.is_file():
        old = load_baseline(path)
        kept = {row: names for row, names in old.rows.items() if row.split(" ")[0] not in set(replaced)}
        if kept and not old.exact(here):
            raise ConfigError(f"{path}: {old.apart(here)}. Accept all its rows at once: leave --method away.")
        found = {**kept, **found}
    text = json.dumps({"rounding": here.rounding, "rows": found}, indent=1, sort_keys=True)
    with atomic_path(path) as part:
        part.write_text(text + "\n")


def _values(names: Mapping[str, Mapping[str, float]]) -> list[float]:
    return [value for runs in names.values() for value in runs.values()]
