"""Sentiment regression: CMU-MOSI and CMU-MOSEI on [-3, 3], CH-SIMS on [-1, 1].

The reference definition is thuiar/MMSA (MIT); :func:`sentiment_legacy_metrics` has what other official code reports
under the same names, so that a published number can be compared with a number of the same meaning.
Classes are found in the dtype of the arrays; means are taken in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmbench.metrics.checks import check_split
from mmbench.metrics.confusion import accuracy, confusion, f1, recall, weighted, weighted_f1
from mmbench.metrics.info import MetricInfo
from mmbench.metrics.regression import mean_absolute_error, pearson

SENTIMENT_INFO = {
    "mae": MetricInfo(False, "mean absolute error of raw predictions"),
    "corr": MetricInfo(True, "Pearson correlation of raw predictions; NaN for a constant prediction"),
    "acc7": MetricInfo(True, "accuracy after clipping to [-3, 3] and rounding half to even"),
    "acc5": MetricInfo(True, "accuracy after clipping to [-2, 2] and rounding half to even"),
    "acc2_has0": MetricInfo(True, "accuracy of negative against non-negative (>= 0), all samples"),
    "f1_has0": MetricInfo(True, "F1 of negative against non-negative, weighted by true class, all samples"),
    "acc2_non0": MetricInfo(True, "accuracy of negative against positive (> 0), samples with label 0 left out"),
    "f1_non0": MetricInfo(True, "F1 of negative against positive, weighted by true class, label 0 left out"),
}

SENTIMENT_LEGACY_INFO = {
    "f1_has0_swapped": MetricInfo(True, "f1_has0 weighted by predicted class (MMSA before 2021-04-28, TFR-Net)"),
    "f1_non0_swapped": MetricInfo(True, "f1_non0 weighted by predicted class (MulT, TFR-Net, old MMSA)"),
    "acc2_positive": MetricInfo(True, "accuracy of positive (> 0) against the rest, all samples (MulT with zeros)"),
    "f1_positive_swapped": MetricInfo(True, "F1 of the same, weighted by predicted class (MulT with zeros)"),
    "mae_non0": MetricInfo(False, "mean absolute error, samples with label 0 left out (MAG, MIB)"),
    "corr_non0": MetricInfo(True, "Pearson correlation, samples with label 0 left out (MAG, MIB)"),
    "acc2_non0_geq": MetricInfo(True, "acc2_non0 with a prediction of exactly 0 counted as positive (MAG, MIB)"),
    "f1_non0_geq": MetricInfo(True, "f1_non0 with a prediction of exactly 0 counted as positive (MAG, MIB)"),
    "precision_has0": MetricInfo(True, "precision of negative against non-negative, weighted by true class (MISA)"),
    "precision_non0": MetricInfo(True, "precision of negative against positive, weighted by true class (MISA)"),
    "f1_non0_binary": MetricInfo(True, "F1 of the positive class alone, label 0 left out"),
    "acc3": MetricInfo(True, "accuracy after clipping to [-1, 1] and rounding half to even"),
    "acc7_half_away": MetricInfo(True, "acc7 with halves rounded away from zero"),
    "acc5_half_away": MetricInfo(True, "acc5 with halves rounded away from zero"),
    "acc7_ceil_away": MetricInfo(True, "acc7 with every fraction rounded away from zero (CMU-MultimodalSDK, MOSEI)"),
}

SIMS_INFO = {
    "mae": MetricInfo(False, "mean absolute error after clipping predictions and labels to [-1, 1]"),
    "corr": MetricInfo(True, "Pearson correlation after clipping to [-1, 1]; NaN for a constant prediction"),
    "acc2": MetricInfo(True, "accuracy of <= 0 against > 0"),
    "acc3": MetricInfo(True, "accuracy of three classes: up to -0.1, up to 0.1, above"),
    "acc5": MetricInfo(True, "accuracy of five classes: up to -0.7, up to -0.1, up to 0.1, up to 0.7, above"),
    "f1": MetricInfo(True, "F1 of <= 0 against > 0, weighted by true class"),
}


def sentiment_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score a whole split of MOSI or MOSEI as MMSA does; keys and conventions are those of :data:`SENTIMENT_INFO`.

    Args:
        prediction: ``(N,)`` raw predictions, neither clipped nor rounded.
        target: ``(N,)`` sentiment in [-3, 3].

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import sentiment_metrics
        >>> prediction, target = tensor([-1.2, 2.5, -0.3, 0.4]), tensor([-0.8, 2.0, 0.0, -0.6])
        >>> scores = sentiment_metrics(prediction, target)
        >>> scores["acc7"]  # 2.5 is rounded to 2; only 0.4 and -0.6 are of different classes
        0.75
        >>> scores["acc2_has0"], round(scores["acc2_non0"], 4)  # -0.3 for a label of 0 is wrong, or left out
        (0.5, 0.6667)
    """
    check_split(prediction, target)
    polar = target != 0
    has0 = confusion(prediction >= 0, target >= 0)
    non0 = confusion(prediction[polar] > 0, target[polar] > 0)
    return {
        "mae": mean_absolute_error(prediction, target).item(),
        "corr": pearson(prediction, target).item(),
        "acc7": _class_accuracy(prediction, target, 3),
        "acc5": _class_accuracy(prediction, target, 2),
        "acc2_has0": accuracy(has0).item(),
        "f1_has0": weighted_f1(has0).item(),
        "acc2_non0": accuracy(non0).item(),
        "f1_non0": weighted_f1(non0).item(),
    }


def sentiment_legacy_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score a whole split by conventions to compare with, not to report; see :data:`SENTIMENT_LEGACY_INFO`.

    Args:
        prediction: ``(N,)`` raw predictions.
        target: ``(N,)`` sentiment in [-3, 3].

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import sentiment_legacy_metrics
        >>> prediction, target = tensor([-1.2, 2.5, -0.3, 0.4]), tensor([-0.8, 2.0, 0.0, -0.6])
        >>> scores = sentiment_legacy_metrics(prediction, target)
        >>> [round(scores[name], 4) for name in ("acc7_half_away", "acc2_positive", "mae_non0")]  # 2.5 is rounded to 3
        [0.5, 0.75, 0.6333]
    """
    check_split(prediction, target)
    polar = target != 0
    has0 = confusion(prediction >= 0, target >= 0)
    non0 = confusion(prediction[polar] > 0, target[polar] > 0)
    non0_geq = confusion(prediction[polar] >= 0, target[polar] >= 0)
    positive = confusion(prediction > 0, target > 0)
    return {
        "f1_has0_swapped": weighted_f1(has0.mT).item(),
        "f1_non0_swapped": weighted_f1(non0.mT).item(),
        "acc2_positive": accuracy(positive).item(),
        "f1_positive_swapped": weighted_f1(positive.mT).item(),
        "mae_non0": mean_absolute_error(prediction[polar], target[polar]).item(),
        "corr_non0": pearson(prediction[polar], target[polar]).item(),
        "acc2_non0_geq": accuracy(non0_geq).item(),
        "f1_non0_geq": weighted_f1(non0_geq).item(),
        "precision_has0": weighted(recall(has0.mT), has0).item(),
        "precision_non0": weighted(recall(non0.mT), non0).item(),
        "f1_non0_binary": f1(non0)[1].nan_to_num().item(),
        "acc3": _class_accuracy(prediction, target, 1),
        "acc7_half_away": _class_accuracy(prediction, target, 3, _half_away),
        "acc5_half_away": _class_accuracy(prediction, target, 2, _half_away),
        "acc7_ceil_away": _class_accuracy(prediction, target, 3, _ceil_away),
    }


def sims_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score a whole split of CH-SIMS or SIMS v2 as MMSA does; keys and conventions are those of :data:`SIMS_INFO`.

    Pass labels in the precision they were published in: 0.1 and -0.7 are on a class edge in float32, but their float32
    values cast to float64 lie just above it and change class.

    Args:
        prediction: ``(N,)`` raw predictions.
        target: ``(N,)`` sentiment in [-1, 1].

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import sims_metrics
        >>> scores = sims_metrics(tensor([0.05, -0.9, 0.6]), tensor([0.0, -0.6, 0.8]))
        >>> [round(scores[name], 4) for name in ("acc2", "acc3", "acc5", "mae")]
        [0.6667, 1.0, 0.3333, 0.1833]
    """
    check_split(prediction, target)
    prediction, target = prediction.clamp(-1, 1), target.clamp(-1, 1)
    two, three, five = (
        confusion(_bin(prediction, edges), _bin(target, edges), len(edges) + 1)
        for edges in ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))
    )
    return {
        "mae": mean_absolute_error(prediction, target).item(),
        "corr": pearson(prediction, target).item(),
        "acc2": accuracy(two).item(),
        "acc3": accuracy(three).item(),
        "acc5": accuracy(five).item(),
        "f1": weighted_f1(two).item(),
    }


def _class_accuracy(
    prediction: Tensor, target: Tensor, limit: int, to_class: Callable[[Tensor], Tensor] = torch.round
) -> float:
    """Return the share of equal classes after clipping to ``[-limit, limit]``; ``torch.round`` is half to even."""
    same = to_class(prediction.clamp(-limit, limit)) == to_class(target.clamp(-limit, limit))
    return same.double().mean().item()


def _half_away(values: Tensor) -> Tensor:
    return values.sign() * (values.abs() + 0.5).floor()


def _ceil_away(values: Tensor) -> Tensor:
    return values.sign() * values.abs().ceil()


def _bin(values: Tensor, edges: tuple[float, ...]) -> Tensor:
    """Number right-closed bins from 0, with the edges in the dtype of the values."""
    return (values[:, None] > values.new_tensor(edges)).sum(1)
