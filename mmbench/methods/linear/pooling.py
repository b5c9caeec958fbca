"""What the linear model reads: the mean and the deviation of every feature over time, collected over a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from data_modules.schema import PaddedSequence
from mmbench.metrics import SplitMetric
from mmbench.metrics.info import MetricInfo


def mean_and_deviation(sequence: PaddedSequence) -> Tensor:
    """Return ``(B, 2 D)`` mean and standard deviation of every feature over the real steps, float64 on the CPU.

    Running sums go from step to step, so that more padding does not change a bit.

    Args:
        sequence: Features ``(B, T, D)``.
    """
    padding, steps = ~sequence.mask.cpu()[..., None], sequence.lengths.cpu().clamp(min=1)[:, None].double()
    values = sequence.values.detach().cpu().double().masked_fill(padding, 0.0)
    mean = values.cumsum(1)[:, -1] / steps
    squares = (values - mean[:, None]).masked_fill(padding, 0.0).square().cumsum(1)[:, -1]
    return torch.cat([mean, (squares / steps).sqrt()], 1)


class PooledRows(SplitMetric):
    """Pooled features and targets, collected as a metric collects predictions: of all processes, each sample once."""

    info: ClassVar[Mapping[str, MetricInfo]] = {}

    def update(self, prediction: Tensor, target: Tensor, index: Tensor) -> None:
        """Add ``(B, F)`` features in the place of predictions."""
        self.prediction.append(prediction.detach())
        self.target.append(target)
        self.index.append(index)

    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return nothing: features have no score."""
        return {}
