"""Emotions as independent yes/no problems, scored per emotion and averaged.

:func:`binary_metrics` is MulT's reading of IEMOCAP (two logits per emotion); :mod:`mmbench.metrics.multilabel` makes
the same scores from one thresholded logit per emotion.
"""

from __future__ import annotations

from torch import Tensor

from mmbench.metrics.checks import check_split
from mmbench.metrics.confusion import accuracy, confusion, f1, recall, weighted_f1
from mmbench.metrics.info import MetricInfo

BINARY_INFO = {
    "acc": MetricInfo(True, "plain accuracy of one emotion against its absence"),
    "wacc": MetricInfo(True, "balanced accuracy (TPR + TNR) / 2 of one emotion; NaN unless both classes are present"),
    "f1_weighted": MetricInfo(True, "F1 of presence and absence of one emotion, weighted by true class"),
    "f1_pos": MetricInfo(True, "F1 of the presence of one emotion"),
}


def decision_metrics(decision: Tensor, target: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Score yes/no decisions; keys and conventions are those of :data:`BINARY_INFO`.

    Per-emotion values have keys like ``f1_pos/anger``; ``f1_pos`` is their mean over the emotions where it is defined.

    Args:
        decision: ``(N, C)`` booleans.
        target: ``(N, C)`` in {0, 1}.
        names: Names of the C emotions.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import decision_metrics
        >>> never, target = tensor([[False]] * 4), tensor([[1], [0], [0], [0]])
        >>> scores = decision_metrics(never, target, ("happy",))
        >>> [round(scores[name], 4) for name in ("acc", "wacc", "f1_weighted", "f1_pos")]
        [0.75, 0.5, 0.6429, 0.0]
    """
    check_split(decision, target, (len(names),), (len(names),))
    matrix = confusion(decision, target)
    scores = {
        "acc": accuracy(matrix),
        "wacc": recall(matrix).mean(-1),
        "f1_weighted": weighted_f1(matrix),
        "f1_pos": f1(matrix)[:, 1].nan_to_num(),
    }
    return per_name(scores, names)


def per_name(scores: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, float]:
    """Return the mean over defined values of each ``(C,)`` score as ``score``, then its values as ``score/name``.

    Example:
        >>> from torch import nan, tensor
        >>> from mmbench.metrics.binary import per_name
        >>> per_name({"acc": tensor([0.5, nan])}, ("happy", "sad"))
        {'acc': 0.5, 'acc/happy': 0.5, 'acc/sad': nan}
    """
    means = {score: values.nanmean().item() for score, values in scores.items()}
    values = {
        f"{score}/{name}": value
        for score, values in scores.items()
        for name, value in zip(names, values.tolist(), strict=True)
    }
    return means | values


def binary_metrics(prediction: Tensor, target: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Score a whole split of two-logit problems as yaohungt/Multimodal-Transformer (MIT) does for IEMOCAP.

    The larger logit decides; a tie is a no.

    Args:
        prediction: ``(N, 2 C)`` logits, read as ``(N, C, 2)`` with the logits of no and yes.
        target: ``(N, C)`` in {0, 1}.
        names: Names of the C emotions.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import binary_metrics
        >>> logits = tensor([[0.0, 0.0], [0.0, 1.0]])  # a tie, and a yes
        >>> scores = binary_metrics(logits, tensor([[1], [1]]), ("happy",))
        >>> scores["acc/happy"], scores["wacc/happy"]  # nobody is not happy: half of wacc is not defined
        (0.5, nan)
    """
    check_split(prediction, target, (2 * len(names),), (len(names),))
    no, yes = prediction.unflatten(1, (-1, 2)).unbind(2)
    return decision_metrics(yes > no, target, names)
