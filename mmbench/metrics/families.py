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
    """MOSI and MOSEI sentiment: prediction and target ``(B,)``. See :func:`sentiment_metrics`.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.families import SentimentMetric
        >>> metric = SentimentMetric(("sentiment",))
        >>> metric.update(tensor([1.5, -0.5, 0.2]), tensor([2.0, -1.0, 0.0]), index=tensor([0, 1, 2]))
        >>> round(metric.compute()["acc7"], 4)  # 1.5 is rounded to 2, -0.5 to 0
        0.6667
    """

    info = SENTIMENT_INFO
    prediction_columns = 0
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`sentiment_metrics` of the split."""
        return sentiment_metrics(prediction, target)


class SimsMetric(SplitMetric):
    """CH-SIMS sentiment: prediction and target ``(B,)``. See :func:`sims_metrics`.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.families import SimsMetric
        >>> metric = SimsMetric(("sentiment",))
        >>> metric.update(tensor([0.05, -0.3]), tensor([0.0, -0.2]), index=tensor([0, 1]))
        >>> scores = metric.compute()
        >>> scores["acc2"], scores["acc3"]  # 0.05 is above 0, and both 0.05 and 0 are between -0.1 and 0.1
        (0.5, 1.0)
    """

    info = SIMS_INFO
    prediction_columns = 0
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`sims_metrics` of the split."""
        return sims_metrics(prediction, target)


class MulticlassMetric(SplitMetric):
    """One of C classes: logits ``(B, C)``, target ``(B,)``. See :func:`multiclass_metrics`.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.families import MulticlassMetric
        >>> metric = MulticlassMetric(("angry", "happy"))
        >>> metric.update(tensor([[2.0, 1.0], [1.0, 0.0], [0.0, 3.0]]), tensor([0, 1, 1]), index=tensor([0, 1, 2]))
        >>> scores = metric.compute()
        >>> round(scores["wa"], 4), scores["ua"]
        (0.6667, 0.75)
    """

    info = MULTICLASS_INFO
    target_columns = 0

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`multiclass_metrics` of the split."""
        return multiclass_metrics(prediction, target, self.names)


class MultilabelMetric(SplitMetric):
    """Any of C emotions: logits ``(B, C)``, target ``(B, C)``. See :func:`multilabel_metrics`.

    Attributes:
        thresholds: ``(C,)`` on sigmoid scores; set them to what :func:`fit_thresholds` found on validation data.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import MultilabelMetric
        >>> metric = MultilabelMetric(("happy",))
        >>> metric.update(tensor([[0.0], [2.0]]), tensor([[1], [1]]), index=tensor([0, 1]))  # scores 0.5, 0.88
        >>> before = metric.compute()["acc"]
        >>> metric.thresholds = tensor([0.4])
        >>> before, metric.compute()["acc"]
        (0.5, 1.0)
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
    """C two-way problems: logits ``(B, 2 C)``, target ``(B, C)``. See :func:`binary_metrics`.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.families import BinaryMetric
        >>> metric = BinaryMetric(("happy", "sad"))
        >>> logits = tensor([[0.0, 1.0, 2.0, 0.0], [3.0, 0.0, 1.0, 0.0]])  # no and yes of happy, no and yes of sad
        >>> metric.update(logits, tensor([[1, 0], [0, 1]]), index=tensor([0, 1]))
        >>> scores = metric.compute()
        >>> scores["acc"], scores["acc/happy"], scores["acc/sad"]
        (0.75, 1.0, 0.5)
    """

    info = BINARY_INFO
    prediction_columns = 2

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return :func:`binary_metrics` of the split."""
        return binary_metrics(prediction, target, self.names)


class AffectMetric(SplitMetric):
    """C continuous dimensions: prediction and target ``(B, C)``. See :func:`affect_metrics`.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.families import AffectMetric
        >>> metric = AffectMetric(("arousal", "valence"))
        >>> metric.update(tensor([[0.0, 0.5], [1.0, 0.5]]), tensor([[0.0, 0.0], [1.0, 1.0]]), index=tensor([0, 1]))
        >>> metric.compute()  # a constant prediction has 0
        {'ccc': 0.5, 'ccc/arousal': 1.0, 'ccc/valence': 0.0}
    """

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

    Example:
        >>> from mmbench.metrics import build_metric
        >>> metric = build_metric("multiclass", ("angry", "happy", "sad"))
        >>> metric.higher_is_better_of("ua"), metric.higher_is_better_of("ece")
        (True, False)
    """
    if family not in METRICS:
        raise ValueError(f"no metric family {family!r}; there are {', '.join(METRICS)}")
    return METRICS[family](names)
