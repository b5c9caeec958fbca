"""From what is predicted to how: head size, task loss, metric set and the metric that selects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import Batch, DataSpec, MetricFamily, TargetSpec
from mmbench.metrics import SplitMetric, build_metric

SELECTION: dict[MetricFamily, str] = {
    "sentiment": "mae",
    "sims": "mae",
    "affect": "ccc",
    "multiclass": "f1_weighted",
    "multilabel": "f1_pos",
    "binary": "f1_weighted",
}
"""The validation metric by which epochs are chosen and tables are ranked, per metric family."""


@dataclass(frozen=True)
class Task:
    """What follows from a target: the shape of predictions, their loss and their scores.

    Predictions are raw: values for regression, logits otherwise. For ``binary`` targets the ``2 C`` logits of a
    sample are read as ``(C, 2)``, one two-way problem per name (MulT's reading of IEMOCAP).
    """

    target: TargetSpec

    @classmethod
    def of(cls, spec: DataSpec) -> Task:
        """Return the task that a data set poses."""
        return cls(spec.target)

    @property
    def outputs(self) -> int:
        """Width of the prediction."""
        return len(self.target.names) * (2 if self.target.kind == "binary" else 1)

    @property
    def selection(self) -> str:
        """Name of the metric that selects epochs and ranks methods."""
        return SELECTION[self.target.metric_family]

    def metric(self) -> SplitMetric:
        """Return the metric set as a ``torchmetrics.Metric``."""
        return build_metric(self.target.metric_family, self.target.names)

    def loss(self, prediction: Tensor, batch: Batch, reduction: Literal["mean", "none"] = "mean") -> Tensor:
        """Return the task loss of the batch.

        L1 for regression (the field's usual choice for sentiment), cross-entropy for multi-class, binary
        cross-entropy for multi-label, cross-entropy over the ``B C`` two-way problems for binary targets.

        Args:
            prediction: ``(B, outputs)``, or ``(B, T, outputs)`` for dialogues.
            batch: The batch that was predicted.
            reduction: ``mean`` for the mean over all labels, a scalar; ``none`` for the loss of each, in the shape of
                ``batch.target``, where that of a padded utterance means nothing.
        """
        target = batch.target
        if reduction == "mean":
            prediction, target, _ = self.flatten(prediction, batch)
        if self.target.kind == "regression":
            return F.l1_loss(prediction.reshape(target.shape), target, reduction=reduction)
        if self.target.kind == "multilabel":
            return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype), reduction=reduction)
        classes = self.outputs if self.target.kind == "multiclass" else 2
        losses = F.cross_entropy(prediction.reshape(-1, classes), target.reshape(-1), reduction=reduction)
        return losses if reduction == "mean" else losses.view_as(target)

    def flatten(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return prediction, target and index with one row per scored unit: dialogues lose their padding."""
        if batch.target_mask is None:
            return prediction, batch.target, batch.index
        return prediction[batch.target_mask], batch.target[batch.target_mask], batch.index[batch.target_mask]

    def groups(self, batch: Batch) -> Tensor:
        """Return ``(B,)`` the class that a label-conditional term sees, -1 for samples that belong to none.

        The sign for regression (zero belongs to none), the class for multi-class, and the only positive label for
        multi-label and binary targets (samples with none or several belong to none).
        """
        target = batch.target
        if self.target.kind == "multiclass":
            return target
        if self.target.kind == "regression":
            value = target.reshape(target.shape[0], -1)[:, 0]
            return torch.where(value > 0, 1, torch.where(value < 0, 0, -1))
        return torch.where(target.sum(-1) == 1, target.argmax(-1), -1)

    @property
    def group_count(self) -> int:
        """Number of groups that :meth:`groups` distinguishes."""
        return 2 if self.target.kind == "regression" else len(self.target.names)
