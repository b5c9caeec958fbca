"""The metric families by name: one thin class per family over its pure function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmbench.metrics.affect import AFFECT_INFO, affect_metrics
from mmbench.metrics.base import SplitMetric
from mmbench.metrics.binary import BINARY_INFO, binary_metrics
from mmbench.metrics.classification import MULTICLASS_INFO, multiclass_metrics
from mmbench.metrics.info import MetricInfo
from mmbench.metrics.multilabel import multilabel_metrics
from mmbench.metrics.sentiment import SENTIMENT_INFO, SIMS_INFO, sentiment_metrics, sims_metrics


class SentimentMetric(SplitMetric):
    """MOSI and MOSEI sentiment: prediction and target ``(B,)``. See :func:`sentiment_metrics`."""

    info = SENTIMENT_INFO
    prediction_columns = 0
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`sentiment_metrics` of the split."""
        return sentiment_metrics(prediction, target)


class SimsMetric(SplitMetric):
    """CH-SIMS sentiment: prediction and target ``(B,)``. See :func:`sims_metrics`."""

    info = SIMS_INFO
    prediction_columns = 0
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`sims_metrics` of the split."""
        return sims_metrics(prediction, target)


class MulticlassMetric(SplitMetric):
    """One of C classes: logits ``(B, C)``, target ``(B,)``. See :func:`multiclass_metrics`."""

    info = MULTICLASS_INFO
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`multiclass_metrics` of the split."""
        return multiclass_metrics(prediction, target, self.names)


class MultilabelMetric(SplitMetric):
    """Any of C emotions: logits ``(B, C)``, target ``(B, C)``. See :func:`multilabel_metrics`.

    Attributes:
        thresholds: ``(C,)`` on sigmoid scores; set them to what :func:`fit_thresholds` found on validation data.
    """

    info = BINARY_INFO

    def __init__(self, names: tuple[str, ...]) -> None:
        """Start empty, with every threshold at 0.5."""
        super().__init__(names)
        self.thresholds = torch.full((len(names),), 0.5)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`multilabel_metrics` of the split at the current thresholds."""
        return multilabel_metrics(prediction, target, self.names, self.thresholds)


class BinaryMetric(SplitMetric):
    """C two-way problems: logits ``(B, 2 C)``, target ``(B, C)``. See :func:`binary_metrics`."""

    info = BINARY_INFO
    prediction_columns = 2

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`binary_metrics` of the split."""
        return binary_metrics(prediction, target, self.names)


class AffectMetric(SplitMetric):
    """C continuous dimensions: prediction and target ``(B, C)``. See :func:`affect_metrics`."""

    info = AFFECT_INFO

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`affect_metrics` of the split."""
        return affect_metrics(prediction, target, self.names)


METRICS: dict[str, type[SplitMetric]] = {
    "sentiment": SentimentMetric,
    "sims": SimsMetric,
    "multiclass": MulticlassMetric,
    "multilabel": MultilabelMetric,
    "binary": BinaryMetric,
    "affect": AffectMetric,
}
"""Metric class by family."""

DESCRIPTIONS: dict[str, Mapping[str, MetricInfo]] = {family: metric.info for family, metric in METRICS.items()}
"""Direction and convention of each metric, by family and metric name (without the ``/<name>`` of per-name values)."""


def build_metric(family: str, names: tuple[str, ...]) -> SplitMetric:
    """Return a fresh metric of a family for the given outputs or classes.

    Raises:
        ValueError: If there is no such family; the message lists those that exist.
    """
    if family not in METRICS:
        raise ValueError(f"no metric family {family!r}; there are {', '.join(METRICS)}")
    return METRICS[family](names)
