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
        track: Name of the track.
        label: Name of the row.
        trials: Trials that are left.
        seconds_per_epoch: As `mmbench cost` measured it, or else the median of recorded trials; None for neither.
        measured: Whether it was measured with nothing else running, on such a device as will train.
        epochs: Median of the epochs of recorded trials with the same limits, None without any.
        most: Largest number of epochs.
    """

    track: str
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


def estimate(
    trials: Sequence[Trial], costs: Mapping[Key, MethodCost], records: Sequence[Iterable[Record]], device: str
) -> list[RowEstimate]:
    """Return what each row of a plan takes, in its order.

    Args:
        trials: What is left to be run.
        costs: Measured costs by key.
        records: Recorded trials of several sources; of a row only those of the first that has some count.
        device: What will train, as in the environment of a record.
    """
    done: dict[Key, list[Record]] = {}
    for source in reversed(records):
        found: dict[Key, list[Record]] = {}
        for record in source:
            if record.cost is not None:
                key = cost_key(record.track, record.method, record.config, record.training)
                found.setdefault(key, []).append(record)
        done |= found
    rows: dict[Key, list[Trial]] = {}
    for trial in trials:
        key = cost_key(trial.track, trial.method, plain(trial.config), trial.training)
        rows.setdefault(key, []).append(trial)
    return [_row(planned, costs.get(key), done.get(key, []), device) for key, planned in rows.items()]


def _row(planned: Sequence[Trial], cost: MethodCost | None, done: Iterable[Record], device: str) -> RowEstimate:
    trial = planned[0]
    spent = [(record.cost, record.training == trial.training) for record in done if record.cost]
    paces = [one.seconds_per_epoch for one, _ in spent]
    lengths = [one.epochs for one, alike in spent if alike]
    return RowEstimate(
        track=trial.track,
        label=trial.label,
        trials=len(planned),
        seconds_per_epoch=cost.seconds_per_epoch if cost else median(paces) if paces else None,
        measured=cost is not None and cost.alone and cost.environment.device == device,
        epochs=median(lengths) if lengths else None,
        most=trial.training["max_epochs"],
    )
