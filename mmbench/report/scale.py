"""What more devices and more workers buy: figures of ``benchmarks.scale``, as a section of the start page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_modules.files import atomic_path
from mmbench.report.markdown import NONE, code, escape, table

FOLDER = "scale"
"""Beside the records; a file per kind of machine."""
OF_TRIALS = ("method", "devices", "samples / s", "efficiency", "MB", "score", "one device", "inside")
OF_PLANS = ("workers", "per GPU", "trials / h", "beside one")
READING = (
    "A batch of the same size is shared by the devices of a trial. *Efficiency*: how much faster than on one device, "
    "by the number of devices. *MB*: of the first process, or of its GPU. *Score*: on test, mean of the seeds; "
    "*one device*: where the mean of as many other seeds on one device lies with 95 % probability (t)."
)


@dataclass(frozen=True)
class Spread:
    """A method on some devices.

    Attributes:
        method: Key of the method.
        devices: Devices of a trial.
        samples_per_second: Training samples, with the validation of their epochs.
        efficiency: Beside one device, by the number of devices.
        memory: Bytes, None where the system cannot tell.
        metric: Name of the score.
        score: Mean over the seeds.
        low: Where the mean of as many other seeds on one device lies, lower end.
        high: Upper end.
    """

    method: str
    devices: int
    samples_per_second: float
    efficiency: float
    memory: int | None
    metric: str
    score: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the score is one that a single device might have."""
        return self.low <= self.score <= self.high


@dataclass(frozen=True)
class Shared:
    """A plan of many trials with some workers.

    Attributes:
        workers: Workers that share the plan.
        per_gpu: Workers that share a GPU, 0 on a CPU.
        trials_per_hour: From the start of the command to its end.
        gain: Beside one worker.
    """

    workers: int
    per_gpu: int
    trials_per_hour: float
    gain: float


@dataclass(frozen=True)
class Scale:
    """What was measured on a kind of machine.

    Attributes:
        machine: The machine in a line.
        about: What was trained.
        spread: Trials over several devices.
        shared: Plans of several workers.
    """

    machine: str
    about: str
    spread: tuple[Spread, ...]
    shared: tuple[Shared, ...]

    def write(self, path: Path) -> None:
        """Write the figures as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            part.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Scale:
        """Return the figures of a file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        spread = tuple(Spread(**one) for one in content["spread"])
        shared = tuple(Shared(**one) for one in content["shared"])
        return cls(content["machine"], content["about"], spread, shared)


def section(folder: Path) -> list[str]:
    """Return the lines of the start page, none where nothing was measured.

    Args:
        folder: That of the tables.
    """
    lines: list[str] = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            found = Scale.read(path)
        except (OSError, ValueError, KeyError, TypeError):
            lines += ["", f"{code(f'{FOLDER}/{path.name}')} cannot be read: remove it, or measure again."]
            continue
        lines += ["", f"{escape(found.machine)}. {escape(found.about)}", ""]
        lines += table(OF_TRIALS, map(_spread_cells, found.spread))
        lines += ["", *table(OF_PLANS, map(_shared_cells, found.shared), left=0)]
    return ["", "## Scale", "", f"Written by `make scale`. {READING}", *lines] if lines else []


def _spread_cells(row: Spread) -> Sequence[str]:
    memory = NONE if row.memory is None else f"{row.memory / 1e6:,.0f}"
    return (
        code(row.method),
        str(row.devices),
        f"{row.samples_per_second:,.0f}",
        f"{row.efficiency:.2f}",
        memory,
        f"{escape(row.metric)} {row.score:.4f}",
        f"{row.low:.4f} to {row.high:.4f}" if row.devices > 1 else NONE,
        ("yes" if row.inside else "no") if row.devices > 1 else NONE,
    )


def _shared_cells(row: Shared) -> Sequence[str]:
    return (str(row.workers), str(row.per_gpu or NONE), f"{row.trials_per_hour:,.0f}", f"{row.gain:.2f}")
