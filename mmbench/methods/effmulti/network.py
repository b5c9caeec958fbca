"""The network of EffMulti: vectors, three views, what weighs them, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.effmulti.config import EffMultiConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.three_view import ModalityVectors, ThreeViewDecomposition, Views


class ModalityAttention(nn.Module):
    """The first level: a weight per modality from what its vector says, ``softmax(q^T tanh(W x_m + b))``.

    Args:
        width: Width of the vectors.
        hidden: Width of ``q``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return ``(B, k)``, rows that sum to 1, from ``(B, k, width)``."""
        return self.score(vectors).squeeze(-1).softmax(-1)


class KindGate(nn.Module):
    """The second level: a weight per kind of representation from all of them, ``softmax(W [x_1; ...; x_n] + b)``.

    Args:
        kinds: Number of kinds, ``n``.
        width: Width of the representations.
    """

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(kinds * width, kinds)

    def forward(self, kinds: Tensor) -> Tensor:
        """Return ``(..., n)``, which sum to 1, from ``(..., n, width)``."""
        return self.linear(kinds.flatten(-2)).softmax(-1)


class Fused(NamedTuple):
    """What the fusion makes of the views.

    Attributes:
        z: ``(B, width)``.
        modality_weights: ``(B, k)``, where modalities are weighed.
        kind_weights: ``(B, n)``, in the semantic order ``(B, k, n)``, unless everything is concatenated.
    """

    z: Tensor
    modality_weights: Tensor | None = None
    kind_weights: Tensor | None = None


@dataclass(kw_only=True)
class EffMultiOutput(Output):
    """The prediction, the views it is made of, and the parts of :class:`Fused`."""

    views: Views
    z: Tensor
    modality_weights: Tensor | None
    kind_weights: Tensor | None


class ModalitySemanticFusion(nn.Module):
    """From the views to one representation.

    Args:
        modalities: Number of modalities.
        settings: The method's settings.
    """

    def __init__(self, modalities: int, settings: EffMultiConfig) -> None:
        super().__init__()
        c = settings
        self.semantic_first = c.fusion == "semantic_first"
        concat, parts = c.fusion == "concat", c.full + c.shared + modalities * c.specific
        self.concat = nn.Linear(parts * c.width, c.width) if concat else None
        attends = c.level1 and (self.semantic_first or (c.specific and not concat))
        self.attention = ModalityAttention(c.width, c.attention) if attends else None
        self.gate = KindGate(len(c.views), c.width) if c.level2 and not concat else None
        self.norm = nn.LayerNorm(c.width)

    def forward(self, views: Views, parts_of_full: Mapping[str, Tensor]) -> Fused:
        """Return the fused ``z (B, width)``, and the weights that made it.

        Args:
            views: The three views.
            parts_of_full: What each modality adds to the full view, ``(B, width)`` each; for the semantic order.
        """
        if self.concat is not None:
            return Fused(self.norm(self.concat(torch.cat([*views.joint, *views.specific.values()], -1))))
        modality_weights: Tensor | None = None
        if self.semantic_first:
            kinds = [torch.stack(list(k.values()), 1) for k in (parts_of_full, views.shared, views.specific) if k]
            mixed, kind_weights = _average(torch.stack(kinds, 2), self.gate)  # (B, k, n, width)
            fused, modality_weights = _average(mixed, self.attention)
        else:
            kinds = views.joint
            if views.specific:
                specific = torch.stack(list(views.specific.values()), 1)
                own, modality_weights = _average(specific, self.attention)
                kinds = [*kinds, own]
            fused, kind_weights = _average(torch.stack(kinds, 1), self.gate)
        if views.full is not None:
            fused = fused + views.full
        return Fused(self.norm(fused), modality_weights, kind_weights)


def _average(vectors: Tensor, level: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return the average ``(..., width)`` of ``(..., n, width)`` and the weights ``(..., n)``, alike with no level."""
    weights = vectors.new_full(vectors.shape[:-1], 1 / vectors.shape[-2]) if level is None else level(vectors)
    return (weights.unsqueeze(-1) * vectors).sum(-2), weights


class EffMultiNetwork(nn.Module):
    """Vectors, views, fusion and head.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        dims: Mapping[str, int],
        outputs: int,
        settings: EffMultiConfig,
    ) -> None:
        super().__init__()
        c = settings
        self.vectors = ModalityVectors(modalities, dims, c.width, "gru", c.text_reader, c.hidden)
        self.views = ThreeViewDecomposition(modalities, c.width, nn.ReLU, full_layers=1, views=c.views)
        self.fusion = ModalitySemanticFusion(len(modalities), c)
        self.head = nn.Sequential(
            nn.Linear(c.width, c.head_width), nn.ReLU(), Dropout(c.dropout), nn.Linear(c.head_width, outputs)
        )

    def forward(self, features: Mapping[str, PaddedSequence]) -> EffMultiOutput:
        """Return prediction and representations of a batch."""
        vectors = self.vectors(features)
        views: Views = self.views(vectors)
        parts = self.views.parts_of_full(vectors) if self.fusion.semantic_first else {}
        fused: Fused = self.fusion(views, parts)
        return EffMultiOutput(self.head(fused.z), views.named(), views=views, **fused._asdict())
