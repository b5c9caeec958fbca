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
    """
    check_split(prediction, target, (len(names),), (len(names),))
    return per_name({"ccc": concordance(prediction, target)}, names)
