"""Continuous affect: arousal, valence and other dimensions over all frames of a partition (AVEC, SEWA)."""

from __future__ import annotations

from torch import Tensor

from mmbench.metrics.binary import per_name
from mmbench.metrics.checks import check_split
from mmbench.metrics.info import MetricInfo
from mmbench.metrics.regression import concordance

AFFECT_INFO = {
    "ccc": MetricInfo(True, "concordance correlation with population moments over the whole split; 0 for a constant"),
}


def affect_metrics(prediction: Tensor, target: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Score a whole split of continuous affect: ``ccc/<name>`` per dimension and their mean ``ccc``.

    Args:
        prediction: ``(N, C)`` raw predictions.
        target: ``(N, C)`` labels.
        names: Names of the C dimensions.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import affect_metrics
        >>> prediction = tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
        >>> target = tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])  # valence is too low by 1, and correlated
        >>> scores = affect_metrics(prediction, target, ("arousal", "valence"))
        >>> {name: round(value, 4) for name, value in scores.items()}
        {'ccc': 0.7857, 'ccc/arousal': 1.0, 'ccc/valence': 0.5714}
    """
    check_split(prediction, target, (len(names),), (len(names),))
    return per_name({"ccc": concordance(prediction, target)}, names)
