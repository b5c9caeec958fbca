"""Training of a method: whose optimiser steps on a batch, when, and what is logged of an epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from data_modules.batches.phases import Phase
from data_modules.schema import Batch
from mmbench.methods.epoch_means import EpochMeans
from mmbench.methods.groups import without
from mmbench.methods.scoring import Scored
from mmbench.nn.gathering import agree_on_buffers
from mmbench.nn.text import PretrainedText


class Trained(Scored):
    """A module that takes its optimiser steps itself: each batch names its phase, and the phase names its optimiser.

    Attributes:
        config: Hyper-parameters.
        text_encoder: What reads text tokens, if they are read.
    """

    config: Any
    text_encoder: PretrainedText | None

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._pending = 0  # batches whose gradients wait for a step
        self._means = EpochMeans()

    def objective(self, output: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the named terms of the loss, scalars whose sum is minimised, from what ``forward`` returned."""
        return {"task": self.task.loss(output.prediction, batch)}

    def observe(self, output: Any, batch: Batch) -> None:
        """Keep what training is to know of a batch beside its gradient: what is watched, or counted over an epoch.

        Called after each :meth:`objective` of training. Values come from the output, of which the objective may
        have set a field: ``forward`` and ``objective`` keep none themselves, so that they are functions of weights,
        buffers and batch, which ``torch.func`` can compute for several seeds at once.
        """

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return Adam's parameter groups by optimiser; the default has one optimiser for everything."""
        return {"main": self.main_groups(self.parameters())}

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of training, in order; ``batch.phase`` names the one that a batch is for.

        The last one trains what predicts: epochs before its start are preparation, whose scores select nothing. The
        phases of every epoch must add up to the same number of batches.
        """
        return (Phase("main"),)

    def main_groups(self, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
        """Return the given parameters as groups: a pretrained text encoder learns at its own rate."""
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        rest = without(learning, self.text_encoder.parameters() if self.text_encoder else ())
        groups = [{"params": without(learning, rest), "lr": self.config.text_lr}, {"params": rest}]
        return [group for group in groups if group["params"]]

    @property
    def unused_parameters(self) -> bool:
        """Whether a step may leave parameters without a gradient, which DDP has to be told; so it is with phases."""
        return len(self.phases) > 1

    @property
    def accumulate(self) -> int:
        """Number of batches whose gradients are added up before a step: the setting of this name, or one."""
        return getattr(self.config, "accumulate", 1)

    @property
    def first_epoch(self) -> int:
        """The first epoch whose validation scores count; earlier ones prepare."""
        return self.phases[-1].start

    def phase_of(self, batch: Batch) -> Phase:
        """Return the phase that a batch is for; the first one where the batch names none.

        Raises:
            ValueError: When the method has no phase of that name.
        """
        named = [phase for phase in self.phases if batch.phase in ("", phase.name)]
        if not named:
            names = ", ".join(phase.name for phase in self.phases)
            raise ValueError(f"{type(self).__name__} has no phase {batch.phase!r}; it has: {names}.")
        return named[0]

    def configure_optimizers(self) -> Any:
        """Return one Adam per optimiser name and, if asked for, a learning-rate drop on plateaus of the main one."""
        groups = {name: group for name, group in self.parameter_groups().items() if group}
        self._order = list(groups)
        optimizers = [
            torch.optim.Adam(group, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True)
            for group in groups.values()
        ]
        if not (optimizers and self.config.plateau_patience):
            return optimizers
        main = optimizers[self._order.index("main")]
        plateau = ReduceLROnPlateau(
            main,
            mode="max" if self.valid_metric.higher_is_better_of(self.task.selection) else "min",
            factor=self.config.plateau_factor,
            patience=self.config.plateau_patience,
        )
        return optimizers, [plateau]

    def _optimizer(self, name: str) -> LightningOptimizer:
        optimizers = self.optimizers()
        return optimizers[self._order.index(name)] if isinstance(optimizers, list) else optimizers

    def on_train_epoch_start(self) -> None:
        """Forget the terms of the last epoch, and let all processes begin with the memories of the first one."""
        self._pending = 0
        self._means.reset()
        agree_on_buffers(self)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Take the optimiser step of the batch's phase, and those of the phases that take the same batch."""
        loss = self._descend(batch)
        later = self.phases[self.phases.index(self.phase_of(batch)) + 1 :]
        for phase in takewhile(lambda phase: phase.same_batch, later):
            if phase.active(self.current_epoch):
                loss = self._descend(replace(batch, phase=phase.name))
        return loss

    def _descend(self, batch: Batch) -> Tensor:
        """Add the gradient of a batch, and step when enough are added up or the batch is the last of its epoch."""
        terms = self._terms(batch)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        if not self._pending:
            self.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self._pending += 1
        phase = self.phase_of(batch)
        if self._pending >= self.accumulate or self.trainer.is_last_batch:
            if self.config.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip)
            self._optimizer(phase.optimizer).step()
            self._pending = 0
        if phase is self.phases[-1]:  # earlier phases have terms, but the loss of an epoch is that of its last
            terms = {**terms, "loss": loss}
        for name, term in terms.items():
            self._means.add(name, term.detach() * batch.size, batch.size)
        return loss.detach()

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss of a batch, after a look at what they are made of."""
        output = self(batch)
        terms = self.objective(output, batch)
        self.observe(output, batch)
        return terms

    def watch(self, name: str, values: Tensor) -> None:
        """Log the mean of values over an epoch of training, beside the terms of the loss; in evaluation do nothing.

        The place to call it is :meth:`observe`.

        Args:
            name: Logged as ``train/<name>``.
            values: A value per sample, ``(B,)``, or a single one, ``()``.
        """
        if self.training:
            self._means.add(name, values.detach().sum(), values.numel())

    def terms(self) -> dict[str, float]:
        """Return the mean of every term of the loss and of what is watched, over the samples of this epoch so far."""
        return self._means.means()

    def on_train_epoch_end(self) -> None:
        """Log the mean of every term and let the learning rate follow the validation metric."""
        for name, value in self.terms().items():
            self.log(f"train/{name}", value, sync_dist=True)
        scheduler = self.lr_schedulers()
        selected = self.trainer.callback_metrics.get(f"valid/{self.task.selection}")
        if isinstance(scheduler, ReduceLROnPlateau) and selected is not None and self.current_epoch >= self.first_epoch:
            scheduler.step(selected)
