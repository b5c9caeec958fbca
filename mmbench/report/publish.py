"""From one's own records to the published ones: verified, compared, copied."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from data_modules.files import atomic_path
from mmbench.report.equality import compare_trials, largest, worst
from mmbench.runner.costs import Costs, MethodCost
from mmbench.runner.facts import Reproduction
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import Records, predictions_path
from mmbench.runner.verify import verify, verify_file

REPLACE = "--replace puts this one in its place"
Step = Literal["added", "replaced", "reproduced", "there already", "refused"]


@dataclass(frozen=True)
class Published:
    """What became of one record.

    Attributes:
        record: One's own record.
        step: ``added``: its trial was not published; ``reproduced``: the published record says now that this code gives
            it too; ``there already``: nothing to do; ``refused``: another result is published; ``replaced``: it was.
        why: More about it.
    """

    record: Record
    step: Step
    why: str = ""


def publish(own: Iterable[Record], source: Records, target: Records, *, replace: bool = False) -> list[Published]:
    """Copy verified records to the published ones, and note what was reproduced.

    Args:
        own: Verified records of ``source``.
        source: Where they are.
        target: The published records.
        replace: Whether a result takes the place of another one of the same trial.
    """
    everything, _ = verify(target)
    return [_one(record, source, target, everything, replace) for record in own]


def _one(record: Record, source: Records, target: Records, everything: list[Record], replace: bool) -> Published:
    destination = target.path(record)
    if not destination.is_file():
        _copy(record, source, target)
        return Published(record, "added")
    try:
        theirs = verify_file(destination)
    except RecordError as error:
        if replace:
            _copy(record, source, target)
            return Published(record, "replaced", f"the published record did not hold: {error}")
        return Published(record, "refused", f"the published record does not hold: {error}; {REPLACE}")
    if (theirs.digest, theirs.predictions) == (record.digest, record.predictions):
        return Published(record, "there already")
    differences = compare_trials(record, theirs, row_of(theirs, everything))
    found = worst(differences)
    if found == "equal" or found == "within rounding":
        if record.code == (theirs.reproduced.code if theirs.reproduced else theirs.code):
            return Published(record, "there already")
        apart = largest(differences)
        note = Reproduction(record.code, record.environment.date, apart, found)
        target.write(dataclasses.replace(theirs, reproduced=note))
        return Published(record, "reproduced", f"{found}, largest difference {apart:.2g}")
    if replace:
        _copy(record, source, target)
        return Published(record, "replaced", found)
    return Published(record, "refused", f"another result is published ({found}); {REPLACE}")


def row_of(record: Record, records: Iterable[Record]) -> list[Record]:
    """Return the records of the same configuration on the same data: over seeds and folds, the record included."""

    def configuration(one: Record) -> tuple[object, ...]:
        return one.track, one.identity, one.method, one.config, one.data, one.training

    return [one for one in records if configuration(one) == configuration(record)]


def _copy(record: Record, source: Records, target: Records) -> None:
    """Copy the predictions first, so that a record never lacks them."""
    path, destination = source.path(record), target.path(record)
    if record.completed:
        with atomic_path(predictions_path(destination)) as part:
            shutil.copyfile(predictions_path(path), part)
    with atomic_path(destination) as part:
        shutil.copyfile(path, part)


def publish_costs(source: Costs, target: Costs, wanted: Callable[[MethodCost], bool]) -> list[MethodCost]:
    """Copy costs that are wanted and were measured alone, in the place of earlier ones; return those copied.

    Args:
        source: One's own.
        target: The published ones.
        wanted: Whether a cost is to be published.
    """
    there, _ = target.load()
    found, _ = source.load()
    chosen = [cost for key, cost in found.items() if wanted(cost) and cost.alone and there.get(key) != cost]
    for cost in chosen:
        target.write(cost)
    return chosen
