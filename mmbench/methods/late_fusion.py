"""Late fusion: one small Transformer per modality, their mean states concatenated, one hidden layer on top.

No modality sees another before the head, and nothing in the loss speaks of modalities. Studies that give every method
the same care find that such a model is seldom beaten ("Fusion or Confusion? Multimodal Complexity Is Not All You
Need", arXiv 2512.22991), so a table without it says little. The sizes and the details here are this suite's own.

Shapes: modalities ``(B, T_m, D_m)`` with their own lengths; branch vectors ``(B, width)``; prediction
``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard
from mmbench.methods.config import MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import SequenceEncoder
from mmbench.tasks import Task


class LateFusionNetwork(nn.Module):
    """Branches, concatenation and head.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        width: Width of every branch and of the head's hidden layer.
        layers: Layers of every branch.
        heads: Attention heads of every branch.
        dropout: Dropout probability.
    """

    def __init__(
        self, dims: Mapping[str, int], outputs: int, width: int, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {name: SequenceEncoder(dim, width, layers, heads, dropout) for name, dim in dims.items()}
        )
        self.head = nn.Sequential(
            Dropout(dropout),
            nn.Linear(width * len(dims), width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(width, outputs),
        )

    def forward(self, features: Mapping[str, PaddedSequence]) -> Tensor:
        """Return ``(B, outputs)``."""
        return self.head(torch.cat([branch(features[name]) for name, branch in self.branches.items()], -1))


class LateFusion(FusionMethod):
    """A Transformer encoder per modality, fused by concatenation.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.late_fusion import LateFusion
        >>> spec = make_spec("multiclass")
        >>> model = LateFusion(spec, config=LateFusion.Config(width=32, heads=2))
        >>> output = model(make_batch(spec))
        >>> tuple(output.prediction.shape)  # four samples, three classes
        (4, 3)
    """

    card = MethodCard(title="Late-fusion Transformer", authors="The mmbench developers", year=2025, fidelity="own")

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of the late-fusion Transformer."""

        lr: float = setting(5e-4, "learning rate", low=0.0)
        width: int = setting(64, "width of the branches and of the head's hidden layer", low=1)
        layers: int = setting(2, "Transformer layers per branch", low=1)
        heads: int = setting(4, "attention heads, a divisor of width", low=1, divides="width")
        dropout: float = setting(0.1, "dropout probability", low=0.0, high=1.0)

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = LateFusionNetwork(self.dims, self.task.outputs, c.width, c.layers, c.heads, c.dropout)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``."""
        return Output(self.network(self.features(batch)))
