"""Options of Lightning's Trainer that are otherwise called here: each is answered with what to give instead."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.phases import Phase
from mmbench.methods.config import ConfigError

if TYPE_CHECKING:
    from mmbench.methods.base import FusionMethod

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
"""Scaled gradients of 16-mixed would be clipped at the wrong norm; losses are not made for 16-true and bf16-true."""


def check_options(cls: type[FusionMethod], trainer: Trainer) -> None:
    """Check that a trainer is not asked for what a method does itself, or cannot do.

    Raises:
        ConfigError: When it is; the message says what to give instead.
    """
    name, clip, batches = cls.__name__, trainer.gradient_clip_val, trainer.accumulate_grad_batches
    if clip:
        of = "" if trainer.gradient_clip_algorithm in (None, "norm") else ", the largest norm of the whole gradient,"
        raise ConfigError(
            f"{name} clips its gradients itself: give {name}.Config(gradient_clip={clip:g}){of} instead of "
            f"Trainer(gradient_clip_val={clip:g})."
        )
    if batches != 1:
        own = any(item.name == "accumulate" for item in fields(cls.Config))
        how = (
            f"{name}.Config(accumulate={batches})" if own else f"the data a batch_size that is {batches} times as large"
        )
        raise ConfigError(
            f"{name} takes its steps itself: give {how} instead of Trainer(accumulate_grad_batches={batches})."
        )
    if trainer.precision not in PRECISIONS:
        raise ConfigError(
            f"{name} cannot be trained with Trainer(precision={trainer.precision!r}): give one of "
            f"{', '.join(PRECISIONS)}. Gradients of 16-mixed are scaled, and would be clipped at the wrong norm."
        )
    if getattr(trainer, "overfit_batches", 0):
        raise ConfigError(
            "Trainer(overfit_batches=...) would take other samples in every epoch, whose order the data decide: give "
            "the data `limit`, a number of samples, instead."
        )


def check_phases(cls: type[FusionMethod], phases: tuple[Phase, ...], trainer: Trainer) -> None:
    """Check that a trainer has epochs enough for the phases of a method, and data that know of them.

    Raises:
        ConfigError: When no epoch would count, or nothing gives the batches of several phases.
    """
    name, first = cls.__name__, phases[-1].start
    tried = getattr(trainer, "fast_dev_run", False)  # a few batches of one epoch, whichever it is
    if not tried and 0 < (trainer.max_epochs or 0) <= first:
        raise ConfigError(
            f"{name} prepares for {first} epochs before the first that counts, and max_epochs is "
            f"{trainer.max_epochs}: give more epochs or shorten the preparation."
        )
    own = [phase for phase in phases if not phase.same_batch]
    if len(own) > 1 and not isinstance(getattr(trainer, "datamodule", None), FusionDataModule):
        raise ConfigError(
            f"{name} goes through the samples in {len(own)} phases and takes its batches from a FusionDataModule: call "
            "trainer.fit(method, datamodule=...)."
        )
