"""Stages of training: kinds of training steps, each in a pass over the batches or right after another one."""

from __future__ import annotations

from dataclasses import dataclass, field

from lightning.pytorch import Trainer

from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.loading import Pass
from mmbench.methods.config import ConfigError


@dataclass(frozen=True)
class Stage(Pass):
    """One kind of training step, and when it is taken: in a pass over the batches, in all or some epochs.

    Attributes:
        name: Name in logs.
        optimizer: Key of the parameter groups that step.
        follows: Whether the stage takes each batch right after the stage before it, instead of a pass of its own.
    """

    name: str
    optimizer: str = "main"
    follows: bool = field(default=False, kw_only=True)


def announce(stages: tuple[Stage, ...], trainer: Trainer, name: str) -> None:
    """Tell the data module of a trainer which passes an epoch has.

    Args:
        stages: The stages of a method, in order.
        trainer: Fits the method.
        name: Name of the method, for messages.

    Raises:
        ConfigError: When the stages leave no epoch that counts, or no data module can make their passes.
    """
    tried = getattr(trainer, "fast_dev_run", False)  # a few batches of one epoch, whichever it is
    first = stages[-1].start
    if not tried and 0 < (trainer.max_epochs or 0) <= first:
        raise ConfigError(
            f"{name} prepares for {first} epochs before the first that counts, and max_epochs is "
            f"{trainer.max_epochs}: give more epochs or shorten the preparation."
        )
    passes: dict[int, Pass] = {number: item for number, item in enumerate(stages) if not item.follows}
    datamodule = getattr(trainer, "datamodule", None)
    if isinstance(datamodule, FusionDataModule):
        datamodule.passes = passes
    elif len(passes) > 1:
        raise ConfigError(
            f"{name} trains in {len(passes)} passes and takes its batches from a FusionDataModule: call "
            "trainer.fit(method, datamodule=...)."
        )
