"""Constant: the best prediction that looks at no input, found in closed form from the training targets.

It minimises the task loss over all constants: the median for regression (L1), log class frequencies for multi-class,
log odds for multi-label, two log frequencies per name for binary targets. A class without training samples counts as
half a sample, so that every logit is finite. A method that does not beat it has learned nothing.

Shapes: no input is read; the constant ``(outputs,)`` is repeated to ``(B, outputs)``. Loss: the task loss, which is
logged and not descended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import OF_STEPS, ConfigError, MethodConfig
from mmbench.tasks import Task


def best_constant(kind: str, target: Tensor, outputs: int) -> Tensor:
    """Return ``(outputs,)`` the constant prediction with the least mean task loss.

    Args:
        kind: Target kind.
        target: ``(N,)`` or ``(N, C)`` training targets.
        outputs: Width of the prediction.
    """
    if kind == "regression":
        return target.reshape(len(target), -1).double().quantile(0.5, dim=0)
    if kind == "multiclass":
        counts = torch.bincount(target, minlength=outputs).double()
        return (counts.clamp(min=0.5) / len(target)).log()
    positive = target.double().sum(0).clamp(0.5, len(target) - 0.5) / len(target)
    if kind == "multilabel":
        return positive.logit()
    return torch.stack([1 - positive, positive], -1).log().flatten()


class Constant(FusionMethod):
    """The best constant under the task loss.

    ``self.spec`` names no modality, because none is read (nor is a text encoder loaded).

    Example:
        >>> from torch import tensor
        >>> from data_modules import Batch
        >>> from data_modules.toy import make_spec
        >>> from mmbench.methods.constant import Constant
        >>> model = Constant(make_spec())
        >>> model.on_training_labels(Batch(inputs={}, target=tensor([-1.0, 0.5, 3.0]), index=tensor([0, 1, 2])))
        >>> model.best.tolist()  # the median
        [0.5]
    """

    card = MethodCard(
        title="Constant prediction",
        authors="The mmbench developers",
        year=2025,
        fidelity="own",
        needs=Needs(at_least=0, kinds=("features", "tokens", "frames", "waveform")),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of the constant; the size of batches decides how much memory it takes, and nothing else does."""

        inert = OF_STEPS | {"text_lr"}  # a text encoder must be named where text is tokens, and is not used

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.constant = nn.Parameter(torch.zeros(self.task.outputs))
        self.best: Tensor | None = None

    @classmethod
    def reads(cls, spec: DataSpec, config: Any) -> tuple[str, ...]:
        """Return no modality."""
        return ()

    def forward(self, batch: Batch) -> Output:
        """Return the constant, ``(B, outputs)``."""
        return Output(self.constant.expand(batch.size, -1))

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the constant with a learning rate of 0: steps are counted, but they do not change it.

        Lightning saves no checkpoint before an optimiser has stepped, and DDP refuses models without parameters.
        """
        return {"main": [{"params": [self.constant], "lr": 0.0}]}

    def on_training_labels(self, labels: Batch) -> None:
        """Find the constant."""
        _, target, _ = self.task.flatten(labels.target, labels)
        self.best = best_constant(self.task.target.kind, target, self.task.outputs)

    def on_fit_start(self) -> None:
        """Check that there were labels."""
        if self.best is None:
            raise ConfigError(
                "Constant is found from the labels of the training split, which a FusionDataModule gives: call "
                "trainer.fit(method, datamodule=...)."
            )

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Take the constant at the end of an epoch, before its validation; the first epoch's loss is that of zero."""
        if self.best is not None and self.trainer.is_last_batch:
            self.constant.data.copy_(self.best)
