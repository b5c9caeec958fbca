"""Timing in turn: warm up, then ours, theirs, ours, theirs; medians and the spread of the ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.mosi import SAMPLES

MB = 1e6


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        samples: Samples per split of the generated data.
        quick: Repetitions of what takes well under a second.
        slow: Repetitions of what takes seconds.
        mult: At most this many samples of each split where whole epochs of ``mult`` are timed.
        late_fusion: The same for ``late_fusion``.
        attention: Batches of an epoch over which the two forms of attention are compared.
        methods: Training samples of the data on which every method is measured.
        raw: Repetitions of methods on raw media and dialogues.
        clips: Clips of the smaller of the two sets over which memory is compared.
        source: Size in bytes of the file whose import is measured.
        epochs: At most this many epochs of whole trainings.
    """

    samples: Mapping[str, int] = field(default_factory=lambda: SAMPLES)
    quick: int = 11
    slow: int = 5
    mult: int = 96
    late_fusion: int = 320
    attention: int = 3
    methods: int = 64
    raw: int = 2
    clips: int = 400
    source: int = 200_000_000
    epochs: int = 20

    def limited(self, samples: Mapping[str, int]) -> dict[str, int]:
        """Return samples per split, no more than there are of MOSI."""
        return {name: min(count, self.samples[name]) for name, count in samples.items()}


FULL = Sizes()
QUICK = Sizes(
    {"train": 48, "valid": 8, "test": 8},
    quick=2,
    slow=1,
    mult=32,
    late_fusion=48,
    attention=1,
    methods=32,
    raw=1,
    clips=20,
    source=4_000_000,
    epochs=2,
)


@dataclass(frozen=True)
class Setting:
    """Where a measurement runs.

    Attributes:
        store: A store in the shape of MOSI.
        folder: An empty folder for what the measurement writes.
        sizes: How much is measured.
        device: ``cpu`` or ``cuda``.
        methods: Only these methods; all of them when there are none.
        threads: With how many threads processes of their own compute on a CPU; 0 for as many as PyTorch takes.
    """

    store: Path
    folder: Path
    sizes: Sizes
    device: str = "cpu"
    methods: tuple[str, ...] = ()
    threads: int = 0

    @property
    def place(self) -> str:
        """What the table calls the device."""
        return self.device if not self.threads else f"{self.device}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of processes that measure."""
        # Without devices peak_memory counts the process.
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        return hidden | ({"OMP_NUM_THREADS": str(self.threads)} if self.threads else {})

    @property
    def accelerator(self) -> str:
        """The device as Lightning's ``Trainer`` calls it."""
        return "gpu" if self.device == "cuda" else "cpu"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        measurement: What is measured, and beside what.
        device: Where.
        unit: Unit of ``ours`` and ``reference``.
        ours: Median of ours.
        reference: Median of the other.
        ratio: Median over the repetitions of what is required of.
        low: Lower quartile of the same.
        high: Upper quartile of the same.
        repetitions: How many.
        required: The bound, if there is one.
        at_most: Whether the bound is the largest allowed ratio instead of the smallest.
        method: The method whose line in the table of methods this is a part of, if any.
    """

    measurement: str
    device: str
    unit: str
    ours: float
    reference: float
    ratio: float
    low: float
    high: float
    repetitions: int
    required: float | None = None
    at_most: bool = False
    method: str = ""

    def keeps(self, ratio: float) -> bool | None:
        """Return whether a ratio keeps the bound; None without one."""
        if self.required is None:
            return None
        return ratio <= self.required if self.at_most else ratio >= self.required

    @property
    def met(self) -> bool | None:
        """Whether the measured ratio keeps the bound; None without one."""
        return self.keeps(self.ratio)

    @property
    def clear(self) -> bool:
        """Whether both quartiles say the same of the bound, so that noise did not decide."""
        return self.keeps(self.low) == self.keeps(self.high)


@dataclass
class Times:
    """Seconds of two things that were run in turn, one pair per repetition."""

    ours: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    def faster(self, measurement: str, device: str, amount: float, unit: str, required: float | None = None) -> Row:
        """Return how many times faster ours is, with ``amount / seconds`` as its speed."""
        ratio = np.divide(self.reference, self.ours)
        speeds = amount / np.median(self.ours), amount / np.median(self.reference)
        return _row(measurement, device, unit, *speeds, ratio, required)

    def slower(self, measurement: str, device: str, amount: float, unit: str) -> Row:
        """Return how many times longer ours takes, with ``amount / seconds`` as its speed."""
        ratio = np.divide(self.ours, self.reference)
        return _row(measurement, device, unit, amount / np.median(self.ours), amount / np.median(self.reference), ratio)

    def gain(self, measurement: str, device: str, required: float | None = None) -> Row:
        """Return how many times less time ours takes, in seconds."""
        ratio = np.divide(self.reference, self.ours)
        return _row(measurement, device, "s", np.median(self.ours), np.median(self.reference), ratio, required)

    def dearer(self, measurement: str, device: str, required: float | None = None, unit: str = "s") -> Row:
        """Return how many times longer ours takes."""
        ratio = np.divide(self.ours, self.reference)
        medians = np.median(self.ours), np.median(self.reference)
        return _row(measurement, device, unit, *medians, ratio, required, at_most=True)


def _row(
    measurement: str,
    device: str,
    unit: str,
    ours: float,
    reference: float,
    ratio: np.ndarray,
    required: float | None = None,
    at_most: bool = False,
) -> Row:
    low, middle, high = (float(value) for value in np.quantile(ratio, (0.25, 0.5, 0.75)))
    return Row(
        measurement,
        device,
        unit,
        float(ours),
        float(reference),
        middle,
        low,
        high,
        len(ratio),
        required,
        at_most,
    )


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Return how long a call takes until the device is done with it."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Let the device finish what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def in_turn(
    ours: Callable[[], object], reference: Callable[[], object], repetitions: int, device: str = "cpu"
) -> Times:
    """Run each once unmeasured, then both in turn.

    A machine that is busy with other things is so for seconds on end: neighbours in time share its mood, and the ratio
    is taken between neighbours.
    """
    times = Times()
    ours()
    reference()
    for _ in range(repetitions):
        times.ours.append(seconds(ours, device))
        times.reference.append(seconds(reference, device))
    return times
