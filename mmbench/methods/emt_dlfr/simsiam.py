"""Two views of a sample pulled together without negatives (SimSiam, Chen and He, CVPR 2021, arXiv 2011.10566)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.norms import BatchNorm


class SimSiam(nn.Module):
    """Projector ``p``, predictor ``q`` and the loss of two views ``x``, ``y``.

    ``-1/2 [cos(q(p(y)), sg(p(x))) + cos(q(p(x)), sg(p(y)))]``, the mean over samples, where ``sg`` stops the gradient:
    a view learns to predict the other one and is no moving target itself. Projector and predictor are those of
    EMT-DLFR, with one linear layer less than SimSiam's own. No samples
    are compared but in the norms (see :class:`~mmbench.nn.norms.BatchNorm`).

    Args:
        width: Width of the representations.
        bottleneck: Width of the predictor's hidden layer.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(width, width), BatchNorm(width, affine=False))
        self.predictor = nn.Sequential(
            nn.Linear(width, bottleneck, bias=False), BatchNorm(bottleneck), nn.ReLU(), nn.Linear(bottleneck, width)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss, a scalar in [-1, 1]; running statistics see ``x`` first.

        Args:
            x: ``(B, width)``.
            y: ``(B, width)``, the same samples in another view.
        """
        z_x, z_y = self.projector(x), self.projector(y)
        q_x, q_y = self.predictor(z_x), self.predictor(z_y)
        return (attraction(q_y, z_x) + attraction(q_x, z_y)) / 2


def attraction(predicted: Tensor, target: Tensor) -> Tensor:
    """Return minus the mean cosine between rows of ``(B, D)``, a scalar; no gradient reaches the target."""
    return -F.cosine_similarity(predicted, target.detach(), dim=-1).mean()
