"""Linear: ridge or logistic regression on the mean and the deviation of every feature over time.

The classical baseline. Of each modality the mean and the standard deviation of every feature over the real steps are
taken, all are put side by side and standardised by the training split. Regression targets are predicted by ridge
regression, classes by multinomial logistic regression, names that may occur together by one logistic regression each;
of binary targets the first logit of a name is 0, the second that of its logistic regression.

Fitting needs no training loop. The first epoch only collects the features of the training split, and validation at its
end those of the validation split. Then the model is solved for every strength of the L2 penalty in :data:`STRENGTHS`,
and the one whose predictions score best on validation, by the metric that selects epochs in the task, is kept; of equal
ones the strongest. As with the thresholds of multi-label targets, validation decides and the scores of that epoch are
already those of the choice. Training ends there, after one epoch. Where there is no validation the strength is 1.

Samples are pooled in float64 on the CPU by running sums, and solved for in the order of their rows in the store. The
result is the same for every seed, order and size of batches and number of processes, and on every device; the states of
a text encoder may differ in rounding. An encoder is not trained.

Shapes: modalities ``(B, T_m, D_m)``; pooled features ``(B, sum_m 2 D_m)``; prediction ``(B, outputs)``. Loss: the task
loss, which is logged for the solution and not descended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard
from mmbench.methods.config import OF_STEPS, MethodConfig, setting
from mmbench.methods.linear.linear_models import Floats, Model, logistic, ridge
from mmbench.methods.linear.pooling import PooledRows, mean_and_deviation
from mmbench.metrics import fit_thresholds
from mmbench.tasks import Task

STRENGTHS = tuple(10.0**power for power in range(4, -5, -1))
"""Strengths of the L2 penalty, strongest first: ``alpha`` of scikit-learn's ``Ridge``, ``1 / C`` of its
``LogisticRegression``."""
WITHOUT_VALIDATION = 1.0
CONSTANT = 1e-7
"""A feature is constant if it deviates by less, as a part of its mean: that is the rounding of its float32 values."""


@dataclass(kw_only=True)
class LinearOutput(Output):
    """The prediction and the pooled features."""

    features: Tensor


class Linear(FusionMethod):
    """Ridge or logistic regression on pooled features, its penalty chosen on validation.

    ``self.spec`` names only the modality of the settings, where these name one.

    Attributes:
        strength: The chosen strength, 0 before the choice and without validation.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.linear import Linear
        >>> spec = make_spec()  # 7, 5 and 6 features per step
        >>> tuple(Linear(spec)(make_batch(spec)).features.shape)  # mean and deviation of each
        (4, 36)
    """

    card = MethodCard(
        title="Linear model of pooled features", authors="The mmbench developers", year=2026, fidelity="own"
    )
    mean: Tensor
    scale: Tensor
    strength: Tensor

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of the linear model."""

        inert = OF_STEPS | {"text_lr"}

        modality: str = setting("", "the only modality to use; empty for all", choices=("", *MODALITIES))

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        if self.text_encoder is not None:
            self.text_encoder.frozen = True
            self.text_encoder.train().requires_grad_(False)
        width = 2 * sum(self.dims.values())
        self.head = nn.Linear(width, self.task.outputs)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("strength", torch.zeros(()))
        self.training_rows, self.validation_rows = PooledRows(()), PooledRows(())

    @classmethod
    def reads(cls, spec: DataSpec, config: Config) -> tuple[str, ...]:
        """Return the modality that is set, or all."""
        return tuple(spec.select((config.modality,) if config.modality else tuple(spec.modalities)).modalities)

    @classmethod
    def variants(cls, spec: DataSpec) -> dict[str, dict[str, Any]]:
        """Return all modalities together, and each alone where there are several."""
        alone = {name: {"modality": name} for name in spec.modalities}
        return {"": {"modality": ""}, **(alone if len(alone) > 1 else {})}

    def forward(self, batch: Batch) -> LinearOutput:
        """Return the prediction ``(B, outputs)`` and the pooled features."""
        inputs = self.features(batch)
        features = torch.cat([mean_and_deviation(inputs[name]) for name in self.dims], 1)
        return LinearOutput(self._predict(features), features=features)

    def observe(self, output: LinearOutput, batch: Batch) -> None:
        """Collect what the solution needs."""
        self.training_rows.update(output.features, batch.target, batch.index)

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the weights with a learning rate of 0: steps are counted, but only the solution changes them.

        Lightning saves no checkpoint before an optimiser has stepped.
        """
        return {"main": [{"params": list(self.head.parameters()), "lr": 0.0}]}

    # When it is solved

    def on_train_start(self) -> None:
        """Train no further when a run goes on that had chosen before it was interrupted."""
        if self.current_epoch == 0:
            self.strength.zero_()
        elif self.strength > 0:
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """Forget the samples of the last epoch."""
        super().on_train_epoch_start()
        self.training_rows.reset()

    @property
    def _at_end_of_epoch(self) -> bool:
        """Whether validation is that of a training epoch that has seen all its samples."""
        return self.trainer.state.fn == "fit" and self.trainer.is_last_batch and self.training_rows.update_called

    def on_validation_start(self) -> None:
        """Forget the samples of a validation that was interrupted."""
        self.validation_rows.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the features that decide the strength, or predictions when it is decided."""
        if not self._at_end_of_epoch:
            return super().validation_step(batch, batch_idx)
        return self.validation_rows.update(self(batch).features, batch.target, batch.index)

    def on_validation_epoch_end(self) -> None:
        """Solve, choose the strength, and score the choice."""
        if self._at_end_of_epoch:
            self._choose()
            self._note_loss()
            self.trainer.should_stop = True
        super().on_validation_epoch_end()

    def on_train_epoch_end(self) -> None:
        """Solve when there was no validation, and log."""
        if self.strength == 0:
            self._adopt(*self._solutions((WITHOUT_VALIDATION,)))
            self._note_loss()
        self.training_rows.reset()
        super().on_train_epoch_end()

    # How it is solved

    def _choose(self) -> None:
        """Take the strength that is best on validation, and leave its predictions in the metric."""
        features, target, index = self.validation_rows.gathered()
        metric, name = self.valid_metric, self.task.selection
        sign = 1 if metric.higher_is_better_of(name) else -1
        models, values = self._solutions(STRENGTHS), []
        for model in models:
            prediction = self._adopt(model)._predict(features).cpu()
            if self.task.target.kind == "multilabel":
                metric.thresholds = fit_thresholds(prediction, target)
            metric.reset()
            metric.update(prediction, target, index)
            values.append(sign * metric.compute()[name])
        chosen = int(np.argmax(np.nan_to_num(values, nan=-np.inf)))
        metric.reset()
        metric.update(self._adopt(models[chosen])._predict(features), target, index)
        self.strength.fill_(STRENGTHS[chosen])

    def _solutions(self, strengths: tuple[float, ...]) -> list[Model]:
        """Standardise by the training split and return its solution for every strength.

        Raises:
            ValueError: When features are not finite.
        """
        features, target, _ = self.training_rows.gathered()
        self._check(features)
        mean, scale = features.mean(0), features.std(0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > CONSTANT * mean.abs(), scale, 1.0))
        x, y = self._standardised(features).numpy(), target.double().reshape(len(target), -1).numpy()
        if self.task.target.kind == "regression":
            return ridge(x, y, strengths)
        if self.task.target.kind == "multiclass":
            return logistic(x, F.one_hot(target, self.task.outputs).double().numpy(), strengths, exclusive=True)
        models = logistic(x, y, strengths, exclusive=False)
        return models if self.task.target.kind == "multilabel" else [_two_logits(*model) for model in models]

    def _check(self, features: Tensor) -> None:
        """Refuse features that are not finite in some training sample."""
        for name, part in zip(self.dims, features.split([2 * dim for dim in self.dims.values()], 1), strict=True):
            if wrong := int((~part.isfinite().all(0)[: self.dims[name]]).sum()):
                raise ValueError(
                    f"{wrong} of the {self.dims[name]} {name} features of {self.spec.track} are NaN or infinite in "
                    "training samples, for which there is no linear model. Make the store again with `mmbench data "
                    "import`, or leave the modality out with --data.modalities."
                )

    def _adopt(self, model: Model) -> Self:
        """Take the weights of a solution."""
        with torch.no_grad():
            for parameter, values in zip((self.head.weight, self.head.bias), model, strict=True):
                parameter.copy_(torch.from_numpy(values))
        return self

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean.cpu()) / self.scale.cpu()

    def _predict(self, features: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for pooled features: computed where these are, in their precision."""
        weight, bias = (parameter.cpu().double() for parameter in (self.head.weight, self.head.bias))
        return F.linear(self._standardised(features), weight, bias).to(self.head.weight)

    def _note_loss(self) -> None:
        """Let the loss of the epoch be that of the solution: the batches have seen weights of the seed."""
        features, target, index = self.training_rows.gathered()
        with torch.no_grad():
            loss = self.task.loss(self._predict(features).cpu(), Batch({}, target, index))
        self._means.reset()
        self._means.add("task", loss, 1)
        self._means.add("loss", loss, 1)


def _two_logits(weight: Floats, bias: Floats) -> Model:
    """Return the model with a logit of 0 before each of its own."""
    pairs = [np.stack([np.zeros_like(part), part], axis=1) for part in (weight, bias)]
    return pairs[0].reshape(-1, weight.shape[1]), pairs[1].reshape(-1)
