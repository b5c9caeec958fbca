"""How long a plan will take, from measured costs and from trials that are recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mmbench.runner.costs import MethodCost, cost_key
from mmbench.runner.plan import Trial
from mmbench.runner.record import Record, plain

Key = tuple[str, str, str]
"""What the cost of a row is found by."""


@dataclass(frozen=True)
class RowEstimate:
    """What is left of one row of a plan.

    Attributes:
        label: Name of the row.
        trials: Trials that are left.
        seconds_per_epoch: As `mmbench cost` measured it, or else the median of recorded trials; None for neither.
        measured: Whether it was measured alone.
        epochs: Median of the epochs of recorded trials, None without any.
        most: Largest number of epochs.
    """

    label: str
    trials: int
    seconds_per_epoch: float | None
    measured: bool
    epochs: float | None
    most: int

    @property
    def expected(self) -> float | None:
        """Seconds that the row takes if its trials stop as those that are recorded did."""
        return self._seconds(self.most if self.epochs is None else self.epochs)

    @property
    def limit(self) -> float | None:
        """Seconds that it takes if no trial stops early."""
        return self._seconds(self.most)

    def _seconds(self, epochs: float) -> float | None:
        return None if self.seconds_per_epoch is None else self.trials * epochs * self.seconds_per_epoch


def estimate(trials: Sequence[Trial], costs: Mapping[Key, MethodCost], records: Iterable[Record]) -> list[RowEstimate]:
    """Return what each row of a plan takes, in its order.

    Args:
        trials: What is left to be run.
        costs: Measured costs by key.
        records: Trials that are recorded, of any track.
    """
    done: dict[Key, list[Record]] = {}
    for record in records:
        if record.cost is not None:
            key = cost_key(record.track, record.method, record.config, record.training["precision"])
            done.setdefault(key, []).append(record)
    rows: dict[Key, list[Trial]] = {}
    for trial in trials:
        key = cost_key(trial.track, trial.method, plain(trial.config), trial.training["precision"])
        rows.setdefault(key, []).append(trial)
    found = []
    for key, planned in rows.items():
        spent = [record.cost for record in done.get(key, []) if record.cost]
        cost, most = costs.get(key), planned[0].training["max_epochs"]
        seconds = cost.seconds_per_epoch if cost else median(one.seconds_per_epoch for one in spent) if spent else None
        epochs = min(median(one.epochs for one in spent), most) if spent else None
        found.append(RowEstimate(planned[0].label, len(planned), seconds, cost is not None, epochs, most))
    return found
