"""Means of losses by weights, and the weights that balance classes."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of ``(B, U)`` losses by their weights, a scalar; of ``(B, U, C)`` the mean over ``C`` of them.

    It is zero where all weights are, and counts padding, whose weight is zero, nowhere.
    """
    total = weights.sum((0, 1)).clamp(min=torch.finfo(weights.dtype).tiny)
    return ((losses * weights).sum((0, 1)) / total).mean()


def inverse_frequencies(counts: Tensor) -> Tensor:
    """Return ``(..., K)`` one over the share of each class among ``(..., K)`` counts, zero for a class without any."""
    weights = counts.sum(-1, keepdim=True) / counts.clamp(min=1)
    return weights.masked_fill(counts == 0, 0.0)
