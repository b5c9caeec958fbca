"""Error and agreement of real-valued predictions, in float64 whatever the inputs are.

``(N,)`` gives a scalar, ``(N, C)`` one value per column. A constant column is centred to exact zeros, so that its
variance is 0 and not a rounding error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_absolute_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference, in units of the label.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import mean_absolute_error
        >>> mean_absolute_error(tensor([1.0, 2.0]), tensor([0.0, 4.0])).item()
        1.5
    """
    return (prediction.double() - target.double()).abs().mean(0)


def pearson(prediction: Tensor, target: Tensor) -> Tensor:
    """Return Pearson's r in [-1, 1]; NaN if either side is constant.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import pearson
        >>> round(pearson(tensor([1.0, 2.0, 3.0]), tensor([1.0, 3.0, 2.0])).item(), 4)
        0.5
        >>> pearson(tensor([2.0, 2.0, 2.0]), tensor([1.0, 3.0, 2.0])).item()
        nan
    """
    x, y = _centred(prediction), _centred(target)
    return ((x * y).sum(0) / (x.square().sum(0) * y.square().sum(0)).sqrt()).clamp(-1, 1)


def concordance(prediction: Tensor, target: Tensor, correction: int = 0) -> Tensor:
    """Return Lin's concordance correlation coefficient (CCC) in [-1, 1]; 0 for a constant prediction.

    ``2 cov(x, y) / (var x + var y + (mean x - mean y)^2)``, L. Lin, Biometrics 45 (1989) 255-268, equation 2.

    Args:
        prediction: ``(N,)`` or ``(N, C)``.
        target: Same shape.
        correction: 0 for population moments (1/N), 1 for sample moments (1/(N-1)).

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import concordance
        >>> prediction, target = tensor([0.0, 1.0, 2.0]), tensor([1.0, 2.0, 3.0])
        >>> [round(concordance(prediction, target, correction).item(), 4) for correction in (0, 1)]  # 4 / 7 and 2 / 3
        [0.5714, 0.6667]
    """
    x, y = _centred(prediction), _centred(target)
    bias = prediction.double().mean(0) - target.double().mean(0)
    spread = (x.square().sum(0) + y.square().sum(0)) / (len(x) - correction) + bias.square()
    return torch.where(spread > 0, 2 * (x * y).sum(0) / (len(x) - correction) / spread, 0.0)


def _centred(values: Tensor) -> Tensor:
    values = values.double()
    return torch.where((values == values[:1]).all(0), 0.0, values - values.mean(0))
