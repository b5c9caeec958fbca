"""The fusion block of EMT: a few context tokens and every modality's steps promote each other, layer by layer.

Sun, Lian, Liu, Tao, "Efficient Multimodal Transformer with Dual-Level Feature Restoration for Robust Multimodal
Sentiment Analysis", IEEE Transactions on Affective Computing 2023, arXiv 2208.07589. The context ``G (B, M, D)`` has
one token per modality; modality ``m`` has steps ``H_m``, rows ``(N_m, D)``. Modalities meet in the context alone, so a
layer costs ``O(M T^2)`` and not ``O(M^2 T^2)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.dropout import Dropout
from mmbench.nn.steps import Layout, Steps
from mmbench.nn.transformer import Attention

Direction = Literal["local", "context"]
"""Which of the two a unit promotes."""


def interleaved_positions(steps: int, dim: int, like: Tensor) -> Tensor:
    """Return ``(steps, dim)`` position vectors: sine and cosine of a frequency side by side, positions from 0 on.

    Channels ``2 i`` and ``2 i + 1`` have the frequency ``10000 ** (-2 i / dim)``.

    Args:
        steps: Number of positions.
        dim: Width.
        like: Gives device and type; angles are computed in single precision.
    """
    rates = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) * (-math.log(1e4) / dim))
    angles = torch.arange(steps, device=like.device, dtype=torch.float32)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim].to(like.dtype)


class UnbiasedAttention(Attention):
    """Attention whose queries, keys and values have no bias, with the initial weights of ``nn.Linear``.

    Args:
        dim: Width of queries, keys, values and output.
        heads: Number of heads; must divide ``dim``.
        dropout: Dropout on the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout)
        self.packed = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)


class GatedNetwork(nn.Module):
    """Feed-forward network whose hidden units are gated, ``W_2 (u * GELU(w))`` with ``[u, w] = W_1 z`` (GEGLU).

    Args:
        dim: Width of input and output.
        expansion: Hidden units as a multiple of the width.
        dropout: Dropout on the output.
    """

    def __init__(self, dim: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, 2 * expansion * dim)
        self.outer = nn.Linear(expansion * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, dim)`` for ``(N, dim)``."""
        value, gate = self.inner(x).chunk(2, dim=-1)
        return self.dropout(self.outer(value * F.gelu(gate)))


class PromotionUnit(nn.Module):
    """Half of a mutual promotion unit: a target reads a context, then itself, then passes a gated network.

    ``x1 = x + A(LN(x), LN(c))``, ``x2 = x1 + A(LN(x1), LN(x1))``, ``x3 = x2 + F(LN(x2))``.

    Args:
        dim: Width.
        heads: Number of heads.
        expansion: Hidden units of the network as a multiple of the width.
        attention_dropout: Dropout on the attention weights.
        network_dropout: Dropout on the output of the network.
    """

    def __init__(
        self, dim: int, heads: int, expansion: int, attention_dropout: float = 0.0, network_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.cross_norm, self.context_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.cross = UnbiasedAttention(dim, heads, attention_dropout)
        self.self_norm = nn.LayerNorm(dim)
        self.itself = UnbiasedAttention(dim, heads, attention_dropout)
        self.network_norm = nn.LayerNorm(dim)
        self.network = GatedNetwork(dim, expansion, network_dropout)

    def forward(self, target: Steps, context: Steps) -> Steps:
        """Return the promoted target, ``(N, dim)``.

        Args:
            target: ``(N, dim)``.
            context: ``(N_c, dim)``, what the target reads.
        """
        (x, layout), keys = target, self.context_norm(context.rows)
        x = x + self.cross(self.cross_norm(x), keys, keys, layout.reads(context.layout))
        own = self.self_norm(x)
        x = x + self.itself(own, own, own, layout.reads())
        return Steps(x + self.network(self.network_norm(x)), layout)


class ContextPooling(nn.Module):
    """Attention over the contexts that the modalities give back, each as one flat vector.

    ``s_m = w tanh(W g_m + b) + b'``, ``a = softmax(s)``, ``g = sum_m a_m g_m``.

    Args:
        width: Width of a flat context.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled context ``(B, width)`` and the weights ``(B, M)`` for contexts ``(B, M, width)``."""
        weights = self.score(contexts).softmax(dim=1)
        return (weights * contexts).sum(1), weights.squeeze(-1)


class MutualPromotion(nn.Module):
    """The stack: in each layer every modality and the context promote each other, and the contexts are pooled.

    Both promotions of a layer read what the layer before left, so within a layer no modality depends on another.

    Args:
        names: The modalities.
        dim: Width ``D``.
        layers: Number of layers.
        heads: Number of attention heads.
        expansion: Hidden units of the feed-forward networks as a multiple of the width.
        embedding_dropout: Dropout on the steps after positions are added.
        attention_dropout: Dropout on the attention weights.
        network_dropout: Dropout on the output of the feed-forward networks.
        share_directions: Whether one unit promotes the steps by the context and the context by the steps.
        share_modalities: Whether all modalities have the same units.
        share_layers: Whether all layers have the same units and the same pooling.
    """

    def __init__(
        self,
        names: Sequence[str],
        dim: int,
        layers: int,
        heads: int,
        expansion: int = 4,
        embedding_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        network_dropout: float = 0.0,
        *,
        share_directions: bool = True,
        share_modalities: bool = True,
        share_layers: bool = True,
    ) -> None:
        super().__init__()
        self.names, self.layers = tuple(names), layers
        self.share_directions, self.share_modalities, self.share_layers = (
            share_directions,
            share_modalities,
            share_layers,
        )
        self.dropout = Dropout(embedding_dropout)
        directions: tuple[Direction, ...] = ("local", "context")
        keys = {self.unit_of(i, name, way): None for i in range(layers) for name in names for way in directions}
        self.units = nn.ModuleDict(
            {key: PromotionUnit(dim, heads, expansion, attention_dropout, network_dropout) for key in keys}
        )
        self.poolings = nn.ModuleList(ContextPooling(len(names) * dim) for _ in range(1 if share_layers else layers))

    def unit_of(self, layer: int, name: str, direction: Direction) -> str:
        """Return the key in ``units`` of the unit that a layer uses for a modality and a direction."""
        layer_key = "layers" if self.share_layers else f"layer{layer}"
        return "-".join(
            [
                layer_key,
                "modalities" if self.share_modalities else name,
                "both" if self.share_directions else direction,
            ]
        )

    @property
    def idle(self) -> list[PromotionUnit]:
        """The units that make the steps of the last layer and nothing else: without ``local`` no loss reaches them."""
        last = {self.unit_of(self.layers - 1, name, "local") for name in self.names}
        last -= {self.unit_of(i, name, "local") for i in range(self.layers - 1) for name in self.names}
        last -= {self.unit_of(i, name, "context") for i in range(self.layers) for name in self.names}
        return [cast(PromotionUnit, self.units[key]) for key in sorted(last)]

    def embed(self, steps: Steps) -> Steps:
        """Return steps ``(N, D)`` with their positions added, before the first layer."""
        rows, layout = steps
        places = interleaved_positions(layout.steps, rows.shape[1], rows)
        return Steps(self.dropout(rows + F.embedding(layout.step, places)), layout)

    def layer(
        self, number: int, context: Steps, steps: Mapping[str, Steps], local: bool
    ) -> tuple[Steps, dict[str, Steps], Tensor]:
        """Return what one layer makes of the context and the steps, and the weights ``(B, M)`` of its pooling.

        Args:
            number: Which layer.
            context: ``(B M, D)``.
            steps: By modality ``(N_m, D)``.
            local: Whether the steps are wanted too; without them the returned ones are empty.
        """

        def unit(name: str, direction: Direction) -> PromotionUnit:
            return cast(PromotionUnit, self.units[self.unit_of(number, name, direction)])

        promoted = [unit(name, "context")(context, x).padded() for name, x in steps.items()]
        steps = {name: unit(name, "local")(x, context) for name, x in steps.items()} if local else {}
        pooling = self.poolings[0 if self.share_layers else number]
        pooled, weights = pooling(torch.stack(promoted, dim=1).flatten(2))
        return Steps(pooled.view_as(context.rows), context.layout), dict(steps), weights

    def forward(
        self, context: Tensor, steps: Mapping[str, Steps], local: bool = True
    ) -> tuple[Tensor, dict[str, Steps]]:
        """Return the context ``(B, M, D)`` and the steps ``(N_m, D)`` by modality after the last layer.

        Args:
            context: ``(B, M, D)``, tokens in the order of the modalities.
            steps: By modality ``(N_m, D)``.
            local: Whether the steps of the last layer are wanted, which the context does not need.
        """
        tokens = self.tokens(context)
        current = {name: self.embed(x) for name, x in steps.items()}
        for number in range(self.layers):
            tokens, current, _ = self.layer(number, tokens, current, local or number + 1 < self.layers)
        return tokens.padded(), current

    @staticmethod
    def tokens(context: Tensor) -> Steps:
        """Return a context ``(B, M, D)`` as rows ``(B M, D)``."""
        return Steps(context.flatten(0, 1), Layout.of_all(context))
