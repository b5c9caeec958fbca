"""The network of BIMHA: vectors of the modalities, tokens of their pairs, attention over the tokens, head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.bimha.config import BIMHAConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import Subnetworks
from mmbench.nn.fusion import LowRankFusion, outer_product
from mmbench.nn.transformer import Attention


class PairFusion(nn.Module):
    """The token of a pair: a product of two vectors, one linear layer, ReLU, dropout.

    Args:
        names: The two modalities.
        width: Width ``d`` of their vectors.
        outputs: Width ``d_p`` of the token.
        operation: ``outer`` (every product of two entries, single entries among them), ``lowrank`` (the same with a
            weight tensor of low rank), ``hadamard`` (products of equal entries) or ``concat`` (no products).
        rank: Rank for ``lowrank``.
        dropout: Dropout on the token.
    """

    def __init__(
        self, names: tuple[str, str], width: int, outputs: int, operation: str, rank: int, dropout: float
    ) -> None:
        super().__init__()
        self.names, self.operation = names, operation
        self.fusion: nn.Module
        if operation == "lowrank":
            self.fusion = LowRankFusion(dict.fromkeys(names, width), outputs, rank)
        else:
            inputs = {"outer": (width + 1) ** 2, "hadamard": width, "concat": 2 * width}
            self.fusion = nn.Linear(inputs[operation], outputs)
        self.dropout = Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, d_p)`` from the vectors ``(B, d)`` by modality."""
        pair = [vectors[name] for name in self.names]
        if self.operation == "lowrank":
            fused = self.fusion(vectors)
        elif self.operation == "outer":
            fused = self.fusion(outer_product(pair))
        else:
            fused = self.fusion(pair[0] * pair[1] if self.operation == "hadamard" else torch.cat(pair, dim=-1))
        return self.dropout(fused.relu())


class PairAttention(nn.Module):
    """Multi-head attention that tells its weights, with residual and LayerNorm: ``LayerNorm(x + attention)``.

    Args:
        width: Width of queries and tokens.
        heads: Number of heads; must divide the width.
        dropout: Dropout on what attention adds.
        weighted: Whether queries weigh the tokens; otherwise every token weighs the same.
        residual: Whether the queries are added to what they read.
    """

    def __init__(self, width: int, heads: int, dropout: float, weighted: bool, residual: bool) -> None:
        super().__init__()
        self.weighted, self.residual = weighted, residual
        self.attention = Attention(width, heads)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what becomes of the queries ``(B, Q, width)`` and the weights ``(B, heads, Q, K)``, one in total.

        Args:
            queries: ``(B, Q, width)``.
            tokens: ``(B, K, width)``, keys and values.
        """
        q, k, v = (part.transpose(1, 2) for part in self.attention.project(queries, tokens, tokens))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = (scores if self.weighted else torch.zeros_like(scores)).softmax(-1)
        read = self.dropout(self.attention.out((weights @ v).transpose(1, 2).flatten(2)))
        return self.norm(queries + read if self.residual else read), weights


@dataclass(kw_only=True)
class BIMHAOutput(Output):
    """The prediction and the attention.

    Attributes:
        attention: ``(B, layers, heads, Q, K)``.
        weight: ``(B,)`` by pair ``<x>_<y>``, its share: the mean over layers, heads and queries; they add up to 1.
    """

    attention: Tensor
    weight: dict[str, Tensor]


class BIMHANetwork(nn.Module):
    """Vectors of the modalities, tokens of their pairs, attention over the tokens, head.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
    """

    def __init__(
        self, modalities: Mapping[str, ModalitySpec], dims: Mapping[str, int], outputs: int, settings: BIMHAConfig
    ) -> None:
        super().__init__()
        c = settings
        self.pairs = {f"{x}_{y}": (x, y) for x, y in combinations(modalities, 2) if getattr(c, f"pair_{x}_{y}")}
        self.from_vectors, self.keep = c.queries == "unimodal", c.keep_unimodal
        # A modality of which nothing would be used has no encoder.
        read = {name for pair in self.pairs.values() for name in pair}
        used = {name: spec for name, spec in modalities.items() if name in read or c.keep_unimodal or self.from_vectors}
        self.subnetworks = Subnetworks(
            used, dims, dict.fromkeys(used, c.width), c.text_hidden, dropout=c.encoder_dropout
        )
        token = partial(
            PairFusion,
            width=c.width,
            outputs=c.pair_width,
            operation=c.pair_op,
            rank=c.rank,
            dropout=c.pair_dropout,
        )
        self.tokens = nn.ModuleDict({name: token(pair) for name, pair in self.pairs.items()})
        self.embedding = nn.Parameter(0.02 * torch.randn(len(self.pairs), c.pair_width)) if c.pair_embedding else None
        self.queries = nn.ModuleDict(
            {name: nn.Linear(c.width, c.pair_width) for name in used} if self.from_vectors else {}
        )
        self.layers = nn.ModuleList(
            PairAttention(c.pair_width, c.heads, c.pair_dropout, c.attention, c.residual) for _ in range(c.layers)
        )
        rows = len(used) if self.from_vectors else len(self.pairs)
        self.head = nn.Sequential(
            Dropout(c.head_dropout),
            nn.Linear(rows * c.pair_width + c.keep_unimodal * len(used) * c.width, c.head_width),
            nn.ReLU(),
            nn.Linear(c.head_width, outputs),
        )

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> BIMHAOutput:
        """Return prediction and attention."""
        vectors = self.subnetworks(inputs)
        tokens = torch.stack([token(vectors) for token in self.tokens.values()], dim=1)
        if self.embedding is not None:
            tokens = tokens + self.embedding
        states = tokens
        if self.from_vectors:
            states = torch.stack([query(vectors[name]) for name, query in self.queries.items()], dim=1)
        maps = []
        for layer in self.layers:
            states, weights = layer(states, tokens if self.from_vectors else states)
            maps.append(weights)
        attention = torch.stack(maps, dim=1)
        weight = dict(zip(self.pairs, attention.mean((1, 2, 3)).unbind(-1), strict=True))
        joined = torch.cat([states.flatten(1), *(vectors.values() if self.keep else ())], dim=-1)
        return BIMHAOutput(self.head(joined), attention=attention, weight=weight)
