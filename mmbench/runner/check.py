"""The regression check: small runs of all methods against committed numbers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from data_modules.files import atomic_path
from mmbench.methods import ConfigError
from mmbench.runner.reading import MOST_JSON, ReadingError, parse_json, read_bytes
from mmbench.runner.record import Record

SPREADS = 3.0
"""Allowed distance from the baseline, in standard deviations over the seeds."""
FLOOR = 1e-3
"""Smallest allowed distance, relative to the value: what another processor's rounding may move."""


class Number(TypedDict):
    """Mean and standard deviation over the seeds."""

    mean: float
    std: float


Numbers = dict[str, dict[str, Number]]
_ROWS: TypeAdapter[Numbers] = TypeAdapter(Numbers)


@dataclass(frozen=True)
class Moved:
    """A number that is not where the baseline has it.

    Attributes:
        row: Method and variant.
        name: Metric or term of the loss.
        baseline: The committed mean over seeds, None when there is none.
        found: The mean over seeds now, None when there is none.
        tolerance: Allowed distance.
    """

    row: str
    name: str
    baseline: float | None
    found: float | None
    tolerance: float = 0.0


def numbers(records: Iterable[Record]) -> Numbers:
    """Return by row and name the mean and the standard deviation over seeds.

    The names are the test metrics and the terms of the training loss in the last epoch, so that a term that is switched
    off shows even when it hardly moves a score. A row that did not complete has the single name of its status.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        row = values.setdefault(record.label, {})
        terms = {key: value for key, value in (record.curve or [{}])[-1].items() if key.startswith("train/")}
        tests = {f"test/{key}": value for key, value in record.test.items()}
        for name, value in {**tests, **terms, f"status/{record.status}": 1.0}.items():
            if value is not None:
                row.setdefault(name, []).append(float(value))
    return {
        row: {
            name: {"mean": statistics.fmean(items), "std": statistics.stdev(items) if len(items) > 1 else 0.0}
            for name, items in sorted(names.items())
        }
        for row, names in sorted(values.items())
    }


def compare(found: Numbers, baseline: Numbers) -> list[Moved]:
    """Return every number that moved, appeared or disappeared."""
    moved = []
    for row in sorted({*found, *baseline}):
        ours, theirs = found.get(row, {}), baseline.get(row, {})
        for name in sorted({*ours, *theirs}):
            now, then = ours.get(name), theirs.get(name)
            if now is None or then is None:
                moved.append(Moved(row, name, then["mean"] if then else None, now["mean"] if now else None))
                continue
            tolerance = max(SPREADS * then["std"], FLOOR * abs(then["mean"]), FLOOR)
            if not abs(now["mean"] - then["mean"]) <= tolerance:
                moved.append(Moved(row, name, then["mean"], now["mean"], tolerance))
    return moved


def load_baseline(path: Path) -> Numbers:
    """Return the committed numbers.

    Raises:
        ConfigError: When there are none, or other things.
    """
    if not path.exists():
        raise ConfigError(f"There is no baseline at {path}. Make one with `mmbench check --accept`.")
    try:
        content = parse_json(read_bytes(path, MOST_JSON))
        found: Any = content.get("rows") if isinstance(content, dict) else None
        return _ROWS.validate_python(found, strict=True)
    except ReadingError as error:
        reason = str(error)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, ('rows', *first['loc'])))!r}: {first['msg']}"
    raise ConfigError(f"{path} is no baseline: {reason}. Get it from the repository, or `mmbench check --accept`.")


def save_baseline(path: Path, found: Numbers, replaced: Iterable[str] | None = None) -> None:
    """Write the committed numbers.

    Args:
        path: The file.
        found: The new rows.
        replaced: The methods whose rows give way to the new ones; by default all.

    Raises:
        ConfigError: When a trial did not complete.
    """
    if bad := [row for row, names in found.items() if {"status/failed", "status/diverged"} & set(names)]:
        raise ConfigError(f"Nothing is accepted, for these did not complete: {', '.join(bad)}.")
    if replaced is not None and path.is_file():
        old = {row: names for row, names in load_baseline(path).items() if row.split(" ")[0] not in set(replaced)}
        found = {**old, **found}
    text = json.dumps({"spreads": SPREADS, "floor": FLOOR, "rows": found}, indent=1, sort_keys=True)
    with atomic_path(path) as part:
        part.write_text(text + "\n")
