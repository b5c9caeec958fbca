"""What a model asks of its batches: which modalities it reads, and the phases that an epoch of its training has."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Phase:
    """One kind of training step within an epoch, and when it is taken.

    Attributes:
        name: What its batches are named by; empty where there is only one phase and nothing to tell apart.
        optimizer: Key of the parameter groups that step; the data do not look at it.
        fraction: Part of the batches that the phase uses, in (0, 1].
        start: First epoch that has the phase.
        stop: First epoch that no longer has it; ``None`` for no end.
        same_batch: Whether the phase takes each batch right after the phase before it, instead of going through the
            training samples itself.
    """

    name: str
    optimizer: str = "main"
    _: KW_ONLY
    fraction: float = 1.0
    start: int = 0
    stop: int | None = None
    same_batch: bool = False

    def active(self, epoch: int) -> bool:
        """Return whether an epoch has the phase."""
        return self.start <= epoch and (self.stop is None or epoch < self.stop)


@dataclass(frozen=True)
class Demand:
    """What a model asks of its batches.

    A :class:`lightning.pytorch.LightningModule` that has one, as its attribute ``demand``, gets its batches by it.

    Attributes:
        modalities: The modalities that batches must hold; ``None`` for all. The spec of the data, the order of samples
            and what goes missing do not depend on it.
        phases: The phases of training, in order.
    """

    modalities: tuple[str, ...] | None = None
    phases: tuple[Phase, ...] = (Phase(""),)
