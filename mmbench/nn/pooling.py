"""From a sequence to one vector, over real steps only."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the real steps, zero where a sample has none.

    Args:
        values: ``(B, T, D)``; whatever stands beyond the mask is ignored.
        mask: ``(B, T)`` bool, ``True`` = real.

    Returns:
        ``(B, D)``.
    """
    total = values.masked_fill(~mask.unsqueeze(-1), 0.0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1).to(values.dtype)
