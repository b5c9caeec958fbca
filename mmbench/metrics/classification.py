"""Multi-class emotion recognition: one of C classes per utterance (IEMOCAP, MELD, RAVDESS)."""

from __future__ import annotations

from torch import Tensor

from mmbench.metrics.calibration import CALIBRATION_INFO, calibration_metrics
from mmbench.metrics.checks import check_split
from mmbench.metrics.confusion import accuracy, confusion, f1, recall, weighted_f1
from mmbench.metrics.info import MetricInfo

MULTICLASS_INFO = {
    "wa": MetricInfo(True, "weighted accuracy in the field's sense: plain accuracy over utterances"),
    "ua": MetricInfo(True, "unweighted accuracy: mean recall over the classes present in the truth"),
    "f1_weighted": MetricInfo(True, "F1 weighted by true class"),
    "f1_macro": MetricInfo(True, "mean F1 over the classes that are true or predicted somewhere"),
    "recall": MetricInfo(True, "recall of one class; NaN if it is absent from the truth"),
    "f1": MetricInfo(True, "F1 of one class; NaN if it is neither true nor predicted anywhere"),
    **CALIBRATION_INFO,
}


def multiclass_metrics(prediction: Tensor, target: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Score a whole split of utterances; keys and conventions are those of :data:`MULTICLASS_INFO`.

    The predicted class is the largest logit, the first of equal ones. Per-class values have keys like ``f1/happy``.

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N,)`` class numbers, in the order of names.
        names: Names of the C classes.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import multiclass_metrics
        >>> logits = tensor([[1.0, 0.0, 0.0]] * 4)  # always angry
        >>> scores = multiclass_metrics(logits, tensor([0, 0, 0, 1]), ("angry", "happy", "sad"))
        >>> [round(scores[name], 4) for name in ("wa", "ua", "f1_weighted", "f1_macro")]  # of two: nobody is sad
        [0.75, 0.5, 0.6429, 0.4286]
    """
    check_split(prediction, target, (len(names),))
    matrix = confusion(prediction.argmax(1), target, len(names))
    recalls, f1s = recall(matrix), f1(matrix)
    return {
        "wa": accuracy(matrix).item(),
        "ua": recalls.nanmean().item(),
        "f1_weighted": weighted_f1(matrix).item(),
        "f1_macro": f1s.nanmean().item(),
        **calibration_metrics(prediction, target),
        **{f"recall/{name}": value for name, value in zip(names, recalls.tolist(), strict=True)},
        **{f"f1/{name}": value for name, value in zip(names, f1s.tolist(), strict=True)},
    }
