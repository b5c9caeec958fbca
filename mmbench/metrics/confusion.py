"""Every class-count metric from one confusion matrix.

A matrix is ``(..., C, C)`` float64 counts, rows the truth and columns the prediction; leading dimensions are
independent problems. Its transpose swaps truth and prediction: precision is ``recall(matrix.mT)``, and
``weighted_f1(matrix.mT)`` is the "swapped" F1 of some official code.
Ratios of nothing are NaN, so that a mean over classes can leave them out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def confusion(prediction: Tensor, target: Tensor, classes: int = 2) -> Tensor:
    """Count pairs of true and predicted class.

    Args:
        prediction: ``(N,)`` or ``(N, K)`` class numbers (or booleans), K independent problems.
        target: True class numbers, same shape.
        classes: Number of classes C.

    Returns:
        ``(C, C)`` or ``(K, C, C)`` float64 counts, ``[..., truth, prediction]``.

    Raises:
        ValueError: If a target is not a whole number in 0..C-1 (a padding label such as -1 must be removed first).

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.confusion import confusion
        >>> confusion(prediction=tensor([0, 1, 1, 1]), target=tensor([0, 0, 1, 1])).tolist()
        [[1.0, 1.0], [0.0, 2.0]]
    """
    if ((target < 0) | (target >= classes) | (target.long() != target)).any():
        raise ValueError(f"targets must be class numbers 0..{classes - 1}, got values {target.unique().tolist()[:10]}")
    truth, guess = (F.one_hot(values.long(), classes).double() for values in (target, prediction))
    return torch.einsum("n...t,n...p->...tp", truth, guess)


def accuracy(matrix: Tensor) -> Tensor:
    """Return ``(...)`` the share of samples on the diagonal; NaN without samples.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.confusion import accuracy
        >>> accuracy(tensor([[1.0, 1.0], [0.0, 2.0]])).item()
        0.75
    """
    return _hits(matrix).sum(-1) / matrix.sum((-2, -1))


def recall(matrix: Tensor) -> Tensor:
    """Return ``(..., C)`` recall per class; NaN for a class without true members.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.confusion import recall
        >>> matrix = tensor([[1.0, 1.0], [0.0, 2.0]])
        >>> recall(matrix), recall(matrix.mT)  # and precision
        (tensor([0.5000, 1.0000]), tensor([1.0000, 0.6667]))
    """
    return _hits(matrix) / matrix.sum(-1)


def f1(matrix: Tensor) -> Tensor:
    """Return ``(..., C)`` F1 per class; NaN for a class that is neither true nor predicted anywhere.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.confusion import f1
        >>> f1(tensor([[1.0, 1.0], [0.0, 2.0]]))
        tensor([0.6667, 0.8000])
    """
    return 2 * _hits(matrix) / (matrix.sum(-1) + matrix.sum(-2))


def weighted(per_class: Tensor, matrix: Tensor) -> Tensor:
    """Return ``(...)`` the mean of ``(..., C)`` values, weighted by true class frequency; NaN counts as 0.

    Example:
        >>> from torch import nan, tensor
        >>> from mmbench.metrics.confusion import weighted
        >>> matrix = tensor([[1.0, 1.0], [0.0, 6.0]])  # two samples of the first class, six of the second
        >>> weighted(tensor([0.5, 1.0]), matrix).item(), weighted(tensor([nan, 1.0]), matrix).item()
        (0.875, 0.75)
    """
    return (per_class.nan_to_num() * matrix.sum(-1)).sum(-1) / matrix.sum((-2, -1))


def weighted_f1(matrix: Tensor) -> Tensor:
    """Return ``(...)`` F1 weighted by true class frequency, scikit-learn's ``average="weighted"``.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics.confusion import weighted_f1
        >>> matrix = tensor([[1.0, 1.0], [0.0, 2.0]])
        >>> weighted_f1(matrix), weighted_f1(matrix.mT)  # by true class, and "swapped": by predicted class
        (tensor(0.7333), tensor(0.7667))
    """
    return weighted(f1(matrix), matrix)


def _hits(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)
