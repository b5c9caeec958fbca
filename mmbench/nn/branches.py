"""Bottleneck branches of variational distillation: from a view to an observation, a representation and two heads.

The networks of VSD (Tian et al., CVPR 2021, arXiv 2104.02862) and of its successor MV2D (Tian et al., TPAMI 2024, arXiv
2206.09548). An *observation* ``v`` is a normalised feature vector, a *representation* ``z = B(v)`` what a
deterministic bottleneck keeps of it; a head on each gives logits ``p`` and ``q`` of the label. What the logits say and
how two of them differ: :mod:`mmbench.methods.vsd.labels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmbench.nn.dropout import Dropout
from mmbench.nn.norms import BatchNorm
from mmbench.nn.recurrence import gru
from mmbench.nn.steps import Layout


def bottleneck(dim: int, hidden: Sequence[int], out: int, normed: bool = False) -> nn.Sequential:
    """Return linear, norm, ReLU per hidden layer and a linear layer, drawn as in the official code.

    Args:
        dim: Width of the observation.
        hidden: Widths of the hidden layers.
        out: Width of the representation.
        normed: Whether a norm ends it, as in the point-cloud code of MV2D.
    """
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(dim, width), BatchNorm(width), nn.ReLU()]
        dim = width
    layers += [nn.Linear(dim, out), *([BatchNorm(out)] if normed else [])]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
    return nn.Sequential(*layers)


def _head(*layers: nn.Module) -> nn.Sequential:
    """Return the layers with linear ones drawn near zero, so that every label starts equally likely."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class ViewOutput(NamedTuple):
    """What a branch says of a view.

    Attributes:
        v: ``(B, dim)`` observation.
        p: ``(B, logits)`` logits of the label given ``v``.
        z: ``(B, z_dim)`` representation.
        q: ``(B, logits)`` logits of the label given ``z``.
    """

    v: Tensor
    p: Tensor
    z: Tensor
    q: Tensor


class Branch(nn.Module):
    """Norm, bottleneck and the two heads of a view.

    With ``form="reid"`` (person re-identification code, both papers) a norm whose bias stays 0 gives the observation,
    the bottleneck has two hidden layers and the head of the representation one, normalised, of half its width. With
    ``form="points"`` (point-cloud code of MV2D) the observation is the vector itself, the bottleneck has the first
    hidden layer only and ends with a norm, and the head is linear.

    Args:
        dim: Width of the vector of a view.
        hidden: Widths of the two hidden layers of the bottleneck.
        z_dim: Width of the representation.
        logits: Width of both heads.
        dropout: Dropout probability inside the head of the representation.
        form: ``reid`` or ``points``.
    """

    def __init__(
        self, dim: int, hidden: tuple[int, int], z_dim: int, logits: int, dropout: float = 0.5, form: str = "reid"
    ) -> None:
        super().__init__()
        points, half = form == "points", max(1, z_dim // 2)
        self.neck: nn.Module = nn.Identity()
        if not points:
            self.neck = BatchNorm(dim)
            self.neck.bias.requires_grad_(False)
        self.bottleneck = bottleneck(dim, hidden[:1] if points else hidden, z_dim, normed=points)
        self.observation_head = _head(nn.Linear(dim, logits))
        self.representation_head = (
            _head(nn.Linear(z_dim, logits))
            if points
            else _head(
                nn.Linear(z_dim, half),
                BatchNorm(half),
                nn.LeakyReLU(0.1),
                Dropout(dropout),
                nn.Linear(half, logits),
            )
        )

    def forward(self, vector: Tensor) -> ViewOutput:
        """Read a vector ``(B, dim)``."""
        v = self.neck(vector)
        z = self.bottleneck(v)
        return ViewOutput(v, self.observation_head(v), z, self.representation_head(z))


class GRUMean(nn.Module):
    """A bidirectional GRU of one layer and the mean of its states over real steps.

    Args:
        dim: Features per step and width of the vector, an even number.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.forwards = nn.GRU(dim, dim // 2, batch_first=True)
        self.backwards = nn.GRU(dim, dim // 2, batch_first=True)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """Return ``(B, dim)``, zero for a sample without any real step.

        Args:
            rows: ``(N, dim)``.
            layout: Where they belong.
        """
        return layout.mean(
            torch.cat([gru(self.forwards, rows, layout), gru(self.backwards, rows, layout, backwards=True)], -1)
        )


def fusion_head(width: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """Return the layers from the joined vectors of all views to the prediction."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, outputs))
