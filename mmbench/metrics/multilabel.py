"""Multi-label emotion recognition: any of C emotions per utterance, one logit each (CMU-MOSEI, IEMOCAP).

Thresholds are part of the model: they are fitted on the validation split and applied to the test split, as
wenliangdai/Multimodal-End2end-Sparse (CC BY 4.0) does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbench.metrics.binary import decision_metrics
from mmbench.metrics.checks import check_split
from mmbench.metrics.confusion import confusion, f1


def multilabel_metrics(
    prediction: Tensor, target: Tensor, names: tuple[str, ...], thresholds: Tensor
) -> dict[str, float]:
    """Score a whole split of multi-label predictions; keys and conventions are those of :data:`BINARY_INFO`.

    Args:
        prediction: ``(N, C)`` logits.
        target: ``(N, C)`` in {0, 1}.
        names: Names of the C emotions.
        thresholds: ``(C,)`` in (0, 1); an emotion is present where its sigmoid score is greater.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import multilabel_metrics
        >>> logits, target = tensor([[0.0], [2.0]]), tensor([[1], [1]])  # a logit of 0 is a score of 0.5, not above 0.5
        >>> [round(multilabel_metrics(logits, target, ("happy",), tensor([t]))["f1_pos"], 4) for t in (0.5, 0.4)]
        [0.6667, 1.0]
    """
    check_split(prediction, target, (len(names),), (len(names),))
    if thresholds.shape != (len(names),):
        raise ValueError(f"expected thresholds ({len(names)},), got {tuple(thresholds.shape)}")
    scores = prediction.sigmoid()
    return decision_metrics(scores > thresholds.to(scores), target, names)


def fit_thresholds(prediction: Tensor, target: Tensor) -> Tensor:
    """Return for each emotion the threshold of 0.05, 0.10, ..., 0.95 with the highest F1 of its presence.

    The lowest of equally good thresholds is taken. Fit on the validation split only.

    Args:
        prediction: ``(N, C)`` logits of the validation split.
        target: ``(N, C)`` in {0, 1}.

    Returns:
        ``(C,)`` thresholds on sigmoid scores, in the dtype of the prediction.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import fit_thresholds
        >>> logits = tensor([[0.12], [0.33], [0.81]]).logit()
        >>> fit_thresholds(logits, tensor([[0], [1], [1]]))  # 0.15 to 0.30 are equally good
        tensor([0.1500])
    """
    check_split(prediction, target, prediction.shape[1:], prediction.shape[1:])
    scores = prediction.sigmoid()
    grid = (torch.arange(1, 20, dtype=torch.float64) / 20).to(scores)
    f1_pos = torch.stack([f1(confusion(scores > threshold, target))[:, 1] for threshold in grid])
    return grid[f1_pos.nan_to_num().argmax(0)]
