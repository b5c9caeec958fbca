"""Parts that fuse one vector per modality: outer product, low-rank tensor product, layers after the fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.dropout import Dropout


def with_one(vector: Tensor) -> Tensor:
    """Append a constant 1 to ``(B, D)``, so that products keep the terms of fewer modalities."""
    return F.pad(vector, (0, 1), value=1.0)


def outer_product(vectors: Sequence[Tensor]) -> Tensor:
    """Return the flattened outer product of vectors with a 1 appended (Tensor Fusion Layer, arXiv 1707.07250).

    Args:
        vectors: ``(B, D_m)`` each.

    Returns:
        ``(B, prod(D_m + 1))``: every product of one entry from each modality, the single modalities and a constant
        among them; the last modality varies fastest.
    """
    # As matrix products, whose gradient are matrix products: that of einsum's is a product of every entry, and its sum.
    return reduce(
        lambda left, right: torch.bmm(left.unsqueeze(2), right.unsqueeze(1)).flatten(1), map(with_one, vectors)
    )


class LowRankFusion(nn.Module):
    """The product of :func:`outer_product` with a weight tensor of low rank, without ever building either.

    LMF, arXiv 1806.00064, section 3: ``h = sum_i w_i * prod_m (W_m^(i) [z_m; 1]) + b``. The weights ``w`` over the
    rank and the bias ``b`` are those of the authors' code; the paper sums with ``w_i = 1``.

    Args:
        widths: Width of each modality's vector.
        outputs: Width of the fused vector.
        rank: Number of rank-one terms.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, rank: int) -> None:
        super().__init__()
        self.factors = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(rank, width + 1, outputs)) for name, width in widths.items()}
        )
        self.weights = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for factor in self.factors.values():
            for matrix in factor:
                nn.init.xavier_normal_(matrix)
        nn.init.xavier_normal_(self.weights)

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, outputs)`` from ``(B, D_m)`` each."""
        projected = [
            torch.einsum("bd,rdo->bro", with_one(vectors[name]), factor) for name, factor in self.factors.items()
        ]
        product = reduce(torch.mul, projected)
        return torch.einsum("r,bro->bo", self.weights[0], product) + self.bias


def post_fusion(width: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the layers that TFN and LF-DNN put after the fusion: dropout, two hidden ReLU layers, linear output."""
    return nn.Sequential(
        Dropout(dropout),
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
