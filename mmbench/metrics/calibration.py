"""How far softmax confidences can be trusted: calibration error, Brier score and log loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.metrics.info import MetricInfo

CALIBRATION_INFO = {
    "ece": MetricInfo(False, "expected calibration error of the top class, 15 equal-width right-closed bins"),
    "mce": MetricInfo(False, "largest calibration error of the 15 bins of ece"),
    "brier": MetricInfo(False, "squared error of the probability vector, summed over classes"),
    "nll": MetricInfo(False, "negative log-likelihood of the true class, in nats"),
}


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> tuple[float, float]:
    """Return expected and maximum calibration error over equal-width right-closed bins on (0, 1].

    ECE is ``sum_b |b|/N |accuracy_b - confidence_b|``, MCE the largest gap; empty bins have none.
    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 3 and 5.

    Args:
        confidence: ``(N,)`` probability of the predicted class.
        correct: ``(N,)`` whether the predicted class is the true one.
        bins: Number of bins.
    """
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    bin_of = torch.bucketize(confidence.double(), edges)
    excess = torch.bincount(bin_of, correct.double() - confidence.double(), minlength=bins).abs()
    counts = torch.bincount(bin_of, minlength=bins)
    return (excess.sum() / len(confidence)).item(), (excess / counts).nan_to_num().max().item()


def calibration_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score the softmax probabilities of a split; keys and conventions are those of :data:`CALIBRATION_INFO`.

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N,)`` class numbers.
    """
    logits, target = prediction.double(), target.long()
    probability = logits.softmax(1)
    confidence, guess = probability.max(1)
    ece, mce = calibration_error(confidence, guess == target)
    truth = F.one_hot(target, logits.shape[1])
    return {
        "ece": ece,
        "mce": mce,
        "brier": (probability - truth).square().sum(1).mean().item(),
        "nll": F.cross_entropy(logits, target).item(),
    }
