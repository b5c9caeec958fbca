"""An upper bound of mutual information by sampling: vCLUB, and the running standardisation of what it conditions on.

Cheng et al., "CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information", ICML 2020, arXiv 2006.12013:
``I(X; H) <= E_p(x,h)[log q(h | x)] - E_p(x) E_p(h)[log q(h | x)]``, where ``q`` is a network that is fitted by its
log-likelihood at the same time. It bounds as far as ``q`` fits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbench.nn.precision import at_least_single


def club(h: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Return vCLUB of a batch, a scalar, for the Gaussian ``q(h | x)`` with the given moments.

    ``mean_i log q(h_i | x_i) - mean_{i,j} log q(h_j | x_i)`` over all ``B^2`` pairs. The variance terms of the two
    means are equal and drop out; ``mean_j (h_j - mean_i)^2`` is the variance of ``h`` around ``mean_i``, so no
    ``B x B`` tensor is needed. It is 0 for a batch of one. The pairs are those of the given rows: under DDP nothing
    is gathered here. Half precision is left for single: the bound is a small difference of large sums.

    Args:
        h: ``(B, D)``.
        mean: ``(B, D)`` mean of ``h`` given each ``x``.
        logvar: ``(B, D)`` its log-variance.
    """
    h, mean, logvar = at_least_single(h), at_least_single(mean), at_least_single(logvar)
    centre = h.mean(0)
    matched = (h - mean) ** 2
    any_pair = ((h - centre) ** 2).mean(0) + (centre - mean) ** 2
    return ((any_pair - matched) / (2 * logvar.exp())).sum(-1).mean()


class RunningStandard(nn.Module):
    """Standardisation by the mean and the variance of all training rows seen so far.

    The moments are merged batch by batch (Chan et al., 1979) and live in buffers, so that a resumed run continues with
    them. Under DDP they are those of the rows that a process is given, and all begin an epoch with the first one's.

    Args:
        dim: Number of features.
        epsilon: Added to the variance.
    """

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, dim: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take ``(B, dim)`` further rows into account."""
        rows = rows.to(self.mean.dtype)
        total = self.count + len(rows)
        share = len(rows) / total
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        apart = (mean - self.mean) ** 2 * share * (1 - share)
        self.variance.copy_((1 - share) * self.variance + share * variance + apart)
        self.mean.lerp_(mean, share)
        self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """Return ``(B, dim)`` standardised rows."""
        return (rows - self.mean) * torch.rsqrt(self.variance + self.epsilon)
