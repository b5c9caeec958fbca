"""The matching loss of COLD Fusion: what uncertainties say against what errors say."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-8  # smallest probability that a divergence sees


def symmetric_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return ``KL(p || q) + KL(q || p)`` of two distributions ``(N,)``, a scalar."""
    p, q = p.clamp(min=_LEAST), q.clamp(min=_LEAST)
    return ((p - q) * (p.log() - q.log())).sum()


def matching(errors: Tensor, scores: Tensor, present: Tensor, temperature: float = 1.0) -> Tensor:
    """Return how far the uncertainty of items is from following their error, a scalar from 0 on.

    Both become distributions over the items that favour the good ones; a constant added to either changes nothing.

    Args:
        errors: ``(N,)``.
        scores: ``(N,)``.
        present: ``(N,)`` bool, the items that count.
        temperature: Divides both.
    """
    p, q = (
        (-values / temperature).masked_fill(~present, torch.finfo(values.dtype).min).softmax(0)
        for values in (errors, scores)
    )
    return symmetric_divergence(p, q)
