"""How far confidences and predicted values can be trusted: calibration error, Brier score, log loss, intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from mmbench.metrics.info import MetricInfo

BINS = 15
"""Bins of confidence."""
TEMPERATURES = (0.05, 20.0)
"""The lowest and the highest temperature that is tried."""
LEVEL = 0.9
"""Share of new samples that an interval around a predicted value is to cover."""

CALIBRATION_INFO = {
    "ece": MetricInfo(False, "expected calibration error of the top class, 15 equal-width right-closed bins"),
    "mce": MetricInfo(False, "largest calibration error of the 15 bins of ece"),
    "brier": MetricInfo(False, "squared error of the probability vector, summed over classes"),
    "nll": MetricInfo(False, "negative log-likelihood of the true class, in nats"),
}


@dataclass(frozen=True)
class Bin:
    """The samples of one bin of confidence.

    Attributes:
        count: How many there are.
        confidence: Their mean probability of the predicted class; 0 where there are none.
        accuracy: Share of them whose predicted class is the true one; likewise.
    """

    count: int
    confidence: float
    accuracy: float


def reliability(prediction: Tensor, target: Tensor) -> list[Bin]:
    """Return the reliability diagram of a split: equal-width right-closed bins of the confidence on (0, 1].

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N,)`` class numbers.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.calibration import reliability
        >>> logits = tensor([[0.75, 0.25], [0.75, 0.25]]).log()
        >>> diagram = reliability(logits, tensor([0, 1]))
        >>> diagram[11].count, diagram[11].accuracy  # 0.75 lies above 11 / 15, up to 12 / 15
        (2, 0.5)
    """
    confidence, correct = top_class(prediction, target)
    bin_of = bins_of(confidence)
    counts, *sums = (torch.bincount(bin_of, part, BINS) for part in (torch.ones_like(confidence), confidence, correct))
    means = [(part / counts).nan_to_num().tolist() for part in sums]
    return [Bin(int(count), *values) for count, *values in zip(counts.tolist(), *means, strict=True)]


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[float, float]:
    """Return expected and maximum calibration error over equal-width right-closed bins on (0, 1].

    ECE is ``sum_b |b|/N |accuracy_b - confidence_b|``, MCE the largest gap; empty bins have none.
    C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 3 and 5.

    Args:
        confidence: ``(N,)`` probability of the predicted class.
        correct: ``(N,)`` whether the predicted class is the true one.
        bins: Number of bins.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import calibration_error
        >>> confidence, correct = tensor([0.75, 0.75, 0.95]), tensor([True, False, True])
        >>> errors = calibration_error(confidence, correct, bins=10)
        >>> [round(value, 4) for value in errors]  # (2 * 0.25 + 0.05) / 3, and 0.25
        [0.1833, 0.25]
    """
    bin_of = bins_of(confidence, bins)
    excess = torch.bincount(bin_of, correct.double() - confidence.double(), minlength=bins).abs()
    counts = torch.bincount(bin_of, minlength=bins)
    return (excess.sum() / len(confidence)).item(), (excess / counts).nan_to_num().max().item()


def expected_error(confidence: Tensor) -> float:
    """Return the mean ECE of samples of these confidences when every confidence is the true probability.

    What a perfectly calibrated classifier would be charged with, only because a bin holds so few samples, if samples
    were right or wrong independently of each other; where those of one video go together it is higher. In each bin the
    number of right predictions has a Poisson binomial distribution; its mean distance to its mean is computed from the
    distribution itself.

    Args:
        confidence: ``(N,)`` probability of the predicted class.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.calibration import expected_error
        >>> round(expected_error(tensor([0.8])), 4)  # 0.2 off in 80 of 100 cases, 0.8 off in the other 20
        0.32
    """
    bin_of, total = bins_of(confidence), 0.0
    for number in bin_of.unique():
        chances = confidence[bin_of == number].double().numpy()
        right = np.zeros(len(chances) + 1)  # by number of right predictions its probability
        right[0] = 1
        for count, chance in enumerate(chances, 1):
            right[1 : count + 1] = right[1 : count + 1] * (1 - chance) + right[:count] * chance
            right[0] *= 1 - chance
        total += float(right @ np.abs(np.arange(len(right)) - chances.sum()))
    return total / len(confidence)


def fit_temperature(prediction: Tensor, target: Tensor) -> float:
    """Return the number by which to divide logits so that their log loss is lowest (Guo et al. 2017, section 4.2).

    Fit on the validation split only. It is between :data:`TEMPERATURES`, and 1 where logits say nothing.

    Args:
        prediction: ``(N, C)`` logits of the validation split.
        target: ``(N,)`` class numbers.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.calibration import fit_temperature
        >>> logits = tensor([[9.0, 1.0]] * 4).log()  # sure by 9 to 1, and right by 3 to 1: log 9 = 2 log 3
        >>> round(fit_temperature(logits, tensor([0, 0, 0, 1])), 3)
        2.0
    """
    logits, target = prediction.double(), target.long()
    if torch.equal(logits, logits[:, :1].expand_as(logits)):
        return 1.0

    def loss(log: float) -> float:  # it falls, then it rises: log loss is convex in the inverse of the temperature
        return F.cross_entropy(logits / math.exp(log), target).item()

    bounds = tuple(math.log(value) for value in TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def fit_half_width(prediction: Tensor, target: Tensor, level: float = LEVEL) -> float:
    """Return half the width of the interval around predictions that covers a share of new samples: split conformal.

    The ``ceil((N + 1) level)``-th smallest distance of a validation sample from its prediction; infinite where there
    are too few samples. On average over validation splits it covers at least that share of new samples, where they are
    exchangeable with the validation samples and these had no part in choosing the model; where they selected its epoch
    it covers a little less. J. Lei et al., Distribution-Free Predictive Inference for Regression, JASA 2018,
    algorithm 2.

    Args:
        prediction: ``(N,)`` values predicted of the validation split.
        target: ``(N,)`` true values.
        level: The share.

    Example:
        >>> from torch import arange, zeros
        >>> from mmbench.metrics.calibration import fit_half_width
        >>> fit_half_width(zeros(9), arange(1, 10)), fit_half_width(zeros(8), arange(1, 9))  # eight are too few for 0.9
        (9.0, inf)
    """
    distances = (prediction.double() - target.double()).abs().sort().values
    place = math.ceil((len(distances) + 1) * level)
    return distances[place - 1].item() if place <= len(distances) else math.inf


def top_class(prediction: Tensor, target: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return ``(N,)`` the probability of the predicted class, and whether it is the true one, as numbers.

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N,)`` class numbers.
        temperature: What logits are divided by.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.calibration import top_class
        >>> confidence, correct = top_class(tensor([[0.75, 0.25], [0.2, 0.8]]).log(), tensor([0, 0]))
        >>> confidence.round(decimals=4).tolist(), correct.tolist()
        ([0.75, 0.8], [1.0, 0.0])
    """
    confidence, guess = (prediction.double() / temperature).softmax(1).max(1)
    return confidence, (guess == target).double()


def bins_of(confidence: Tensor, bins: int = BINS) -> Tensor:
    """Return ``(N,)`` the bin of each confidence: equal widths on (0, 1], closed on the right.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.calibration import bins_of
        >>> bins_of(tensor([0.25, 0.26, 1.0]), bins=4).tolist()
        [0, 1, 3]
    """
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    return torch.bucketize(confidence.double(), edges)


def calibration_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score the softmax probabilities of a split; keys and conventions are those of :data:`CALIBRATION_INFO`.

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N,)`` class numbers.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import calibration_metrics
        >>> scores = calibration_metrics(tensor([[0.75, 0.25], [0.75, 0.25]]).log(), tensor([0, 1]))
        >>> {name: round(value, 4) for name, value in scores.items()}
        {'ece': 0.25, 'mce': 0.25, 'brier': 0.625, 'nll': 0.837}
    """
    logits, target = prediction.double(), target.long()
    probability = logits.softmax(1)
    ece, mce = calibration_error(*top_class(prediction, target))
    truth = F.one_hot(target, logits.shape[1])
    return {
        "ece": ece,
        "mce": mce,
        "brier": (probability - truth).square().sum(1).mean().item(),
        "nll": F.cross_entropy(logits, target).item(),
    }
