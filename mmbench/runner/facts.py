"""The parts of a record: one kind of fact each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_modules.schema import MetricFamily, TargetKind
from mmbench.methods.card import Fidelity, PublishedResult


@dataclass(frozen=True)
class CardFacts:
    """What a table says of the method beside its numbers.

    Attributes:
        title: Full name.
        year: Year of publication.
        fidelity: What our version rests on.
        published: Numbers that others report on the track.
    """

    title: str
    year: int
    fidelity: Fidelity
    published: tuple[PublishedResult, ...] = ()


@dataclass(frozen=True)
class TaskFacts:
    """What was predicted.

    Attributes:
        kind: Kind of target.
        names: Outputs or classes.
        family: Metric family that scored it.
        thresholds: Decision thresholds, one per name (multi-label only).
    """

    kind: TargetKind
    names: tuple[str, ...]
    family: MetricFamily
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which epoch was chosen.

    Attributes:
        metric: The validation metric that chose it.
        mode: ``min`` or ``max``.
        epoch: The epoch, counted from 0.
        value: Its value on validation.
    """

    metric: str
    mode: Literal["min", "max"]
    epoch: int
    value: float


@dataclass(frozen=True)
class Calibration:
    """What was fitted on validation to correct confidences or to give intervals, and how confidences meet accuracy.

    Attributes:
        temperature: What logits are to be divided by (multi-class only).
        half_widths: By output half the width of the interval around predictions that covers 90 % of new samples, None
            where validation has too few samples (regression only).
        reliability: Bins of the confidence in test predictions as they are: samples, mean confidence, accuracy
            (multi-class only).
    """

    temperature: float | None = None
    half_widths: tuple[float | None, ...] = ()
    reliability: tuple[tuple[int, float, float], ...] = ()


@dataclass(frozen=True)
class Cost:
    """What the trial cost.

    Attributes:
        parameters: Trained parameters.
        epochs: Epochs trained.
        seconds: Training and validation together.
        seconds_per_epoch: Their mean over epochs.
        peak_memory: Bytes, None where the system cannot tell.
        peak_memory_of: ``cuda`` tensors or the ``process`` as a whole.
    """

    parameters: int
    epochs: int
    seconds: float
    seconds_per_epoch: float
    peak_memory: int | None
    peak_memory_of: Literal["cuda", "process"]


@dataclass(frozen=True)
class Environment:
    """Where and when a trial ran; an empty text is unknown.

    Attributes:
        python: Version of Python.
        torch: Version of the library, as the next three.
        lightning: Likewise.
        torchmetrics: Likewise.
        numpy: Likewise.
        processor: Model of the CPU.
        simd: Instructions that torch uses on it, such as ``AVX2``.
        gpu: Model of the GPU that trained, empty for none.
        threads: Threads of torch.
        date: When the trial ended, ISO 8601 in UTC.
        commit: Commit of the repository.
        clean: Whether the code was that of the commit; None where there is no repository.
    """

    python: str
    torch: str
    lightning: str
    torchmetrics: str
    numpy: str
    processor: str
    threads: int
    simd: str = ""
    gpu: str = ""
    date: str = ""
    commit: str = ""
    clean: bool | None = None

    @property
    def device(self) -> str:
        """What computed: the GPU, or else the processor."""
        return self.gpu or self.processor

    @property
    def rounding(self) -> tuple[str | int, ...]:
        """What two trainings must share for rounding to explain their difference; unknown where a part is empty."""
        libraries = (self.torch, self.lightning, self.torchmetrics, self.numpy)
        return (*libraries, self.gpu or self.simd, self.threads)


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result.

    Attributes:
        type: Name of the exception, or ``diverged``.
        message: What it said.
        trace: Its last lines.
    """

    type: str
    message: str
    trace: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduction:
    """That the trial was trained again by other code, and came out the same.

    Attributes:
        code: Hash of that code.
        date: When.
        difference: Largest relative difference of a test value.
        word: ``equal`` or ``within rounding``.
    """

    code: str
    date: str
    difference: float
    word: Literal["equal", "within rounding"]
