"""Pre-norm transformer encoders over sequences: one that reads itself and one that reads another sequence.

The blocks of MulT (Tsai et al., ACL 2019, arXiv 1906.00295) in the form of the authors' code. Sequences are
rows ``(N, D)`` of a :class:`~mmbench.nn.steps.Layout`, which says what takes part; *positions* are ``(N,)`` integers
from 1 on with 0 for "no position".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.attention import AttentionPlan
from mmbench.nn.dropout import Dropout
from mmbench.nn.steps import Layout


def position_vectors(positions: Tensor, dim: int, dtype: torch.dtype = torch.float32, steps: int = 0) -> Tensor:
    """Return ``(..., dim)`` position vectors: sines in the first half of the channels, cosines in the second.

    Channel ``j`` of a half has the frequency ``10000 ** (-j / (dim // 2 - 1))``; an odd last channel is zero, and so
    is the whole vector at position 0.

    Args:
        positions: ``(..., T)`` integers between 0 and ``steps``.
        dim: Width of the vectors.
        dtype: Their type; angles are computed in single precision at least.
        steps: The largest position there can be; ``T`` by default.
    """
    half, exact = dim // 2, torch.promote_types(dtype, torch.float32)
    places = torch.arange((steps or positions.shape[-1]) + 1, device=positions.device, dtype=exact)
    rates = torch.exp(torch.arange(half, device=positions.device, dtype=exact) * (-math.log(1e4) / max(half - 1, 1)))
    angles = places[:, None] * rates
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))
    table[0] = 0.0
    return F.embedding(positions, table.to(dtype))


def position_rows(like: Tensor, layout: Layout, positions: Tensor | None = None) -> Tensor:
    """Return position vectors ``(N, D)`` for rows ``(N, D)``, of their type.

    Args:
        like: The rows.
        layout: Where they belong.
        positions: ``(N,)``; by default those of the layout.
    """
    positions = layout.positions if positions is None else positions
    return position_vectors(positions, like.shape[-1], like.dtype, layout.steps)


def official_positions(rows: Tensor, layout: Layout) -> Tensor:
    """Return ``(N,)`` positions as MulT's code counts them: it takes a first channel of exactly 0 for padding.

    Args:
        rows: ``(N, D)``.
        layout: Where they belong.
    """
    return (layout.step + 1) * (rows[:, 0] != 0)


def left_padded(sequence: PaddedSequence, steps: int) -> tuple[Tensor, Tensor]:
    """Return values ``(B, steps, D)`` and mask ``(B, steps)`` with the real steps moved to the end."""
    lengths = sequence.lengths.to(sequence.values.device)
    origin = torch.arange(steps, device=lengths.device) - (steps - lengths)[:, None]
    values = sequence.values.gather(1, origin.clamp(min=0)[..., None].expand(-1, -1, sequence.values.shape[2]))
    return values, origin >= 0


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer as MulT's encoders have it: Xavier-uniform weights, zero biases."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class Attention(nn.Module):
    """Multi-head scaled dot-product attention.

    Args:
        dim: Width of queries, keys, values and output.
        heads: Number of heads; must divide ``dim``.
        dropout: Dropout on the attention weights.

    Raises:
        ValueError: When ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} attention heads do not divide a width of {dim}.")
        self.heads, self.dropout = heads, dropout
        self.packed = _linear(dim, 3 * dim)  # rows: query, key, value
        self.out = _linear(dim, dim)

    def project(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values by head, ``(..., heads, dim / heads)`` each."""
        if query is keys and keys is values:
            parts = self.packed(query).chunk(3, dim=-1)
        else:
            weights, bias = self.packed.weight.chunk(3), self.packed.bias
            biases = (None, None, None) if bias is None else bias.chunk(3)
            parts = tuple(map(F.linear, (query, keys, values), weights, biases))
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in parts)
        return q, k, v

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
        """Return ``(N_q, dim)``, what each query reads.

        Args:
            query: ``(N_q, dim)``.
            keys: ``(N_k, dim)``.
            values: ``(N_k, dim)``.
            plan: Which query sees which keys.
        """
        return self.out(plan(*self.project(query, keys, values), self.dropout if self.training else 0.0))


class TransformerLayer(nn.Module):
    """Pre-norm block: attention, then a ReLU network of four times the width, each around a residual.

    Args:
        dim: Width.
        heads: Number of heads.
        attention_dropout: Dropout on the attention weights.
        relu_dropout: Dropout on the hidden layer of the network.
        residual_dropout: Dropout on what is added to the residual stream.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, attention_dropout)
        self.network_norm = nn.LayerNorm(dim)
        self.network = nn.Sequential(_linear(dim, 4 * dim), nn.ReLU(), Dropout(relu_dropout), _linear(4 * dim, dim))
        self.dropout = Dropout(residual_dropout)

    def forward(
        self, x: Tensor, plan: AttentionPlan, keys: Tensor | None = None, values: Tensor | None = None
    ) -> Tensor:
        """Return ``(N, dim)``.

        Args:
            x: ``(N, dim)``, the residual stream.
            plan: Which row of it sees which keys.
            keys: ``(N_k, dim)`` what is read, normalised here by the norm of the queries; ``x`` itself by default.
            values: ``(N_k, dim)``, as the keys; the keys by default.
        """
        query = self.attention_norm(x)
        k = query if keys is None else self.attention_norm(keys)
        v = k if values is None or values is keys else self.attention_norm(values)
        return self.proceed(x, self.attention(query, k, v, plan))

    def proceed(self, x: Tensor, read: Tensor) -> Tensor:
        """Return ``(N, dim)``, the residual stream after what attention has read and after the network."""
        x = x + self.dropout(read)
        return x + self.dropout(self.network(self.network_norm(x)))


class _Encoder(nn.Module):
    """What both encoders share: scaling, positions, layers and the final norm.

    Args:
        dim: Width.
        heads: Number of heads.
        layers: Number of layers.
        attention_dropout: Dropout on the attention weights.
        relu_dropout: Dropout on the hidden layer of the feed-forward networks.
        residual_dropout: Dropout on what layers add to the residual stream.
        embedding_dropout: Dropout on the input after positions are added.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        layers: int,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(dim, heads, attention_dropout, relu_dropout, residual_dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(embedding_dropout)

    def embed(self, x: Tensor, layout: Layout, positions: Tensor | None = None) -> Tensor:
        """Return ``sqrt(dim) x`` plus position vectors, ``(N, dim)``, before dropout."""
        return math.sqrt(x.shape[-1]) * x + position_rows(x, layout, positions)


class TransformerEncoder(_Encoder):
    """Self-attention encoder (E of MulT); arguments as in :class:`_Encoder`."""

    def forward(
        self, x: Tensor, layout: Layout, positions: Tensor | None = None, causal: bool = False, last: bool = False
    ) -> Tensor:
        """Return ``(N, dim)``, or ``(B, dim)``.

        Args:
            x: ``(N, dim)``.
            layout: Where the rows belong.
            positions: ``(N,)`` from 1 on, 0 for none; those of the layout by default.
            causal: Whether a step sees itself and its past only.
            last: Whether only the last step of each sample is wanted; then the last layer computes no other.
        """
        x = self.dropout(self.embed(x, layout, positions))
        for number, layer in enumerate(self.layers, 1):
            if last and number == len(self.layers):
                x = layer(layout.last(x), layout.one_each().reads(layout, causal), x)
            else:
                x = layer(x, layout.reads(causal=causal))
        return self.norm(x if self.layers or not last else layout.last(x))


class CrossmodalEncoder(_Encoder):
    """Encoder of a target sequence whose every layer reads the same low-level source (CM of MulT, equations 3 and 4).

    Arguments as in :class:`_Encoder`.
    """

    def forward(
        self,
        target: Tensor,
        target_layout: Layout,
        source: Tensor,
        source_layout: Layout,
        causal: bool = False,
        target_positions: Tensor | None = None,
        source_positions: Tensor | None = None,
    ) -> Tensor:
        """Return ``(N, dim)``, the target enriched by the source.

        Args:
            target: ``(N, dim)``, the queries.
            target_layout: Where they belong.
            source: ``(N_k, dim)``, keys and values of every layer.
            source_layout: Where they belong.
            causal: Whether the future of the source is hidden; see :class:`~mmbench.nn.attention.AttentionPlan`.
            target_positions: ``(N,)`` from 1 on, 0 for none; those of the layout by default.
            source_positions: ``(N_k,)``, likewise.
        """
        x = self.dropout(self.embed(target, target_layout, target_positions))
        keys, values = self.sides(self.embed(source, source_layout, source_positions))
        plan = target_layout.reads(source_layout, causal)
        for layer in self.layers:
            x = layer(x, plan, keys, values)
        return self.norm(x)

    def sides(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Return an embedded source as keys and values, which drop apart."""
        keys = self.dropout(embedded)
        return keys, self.dropout(embedded) if self.training and self.dropout.p else keys


class ResidualHead(nn.Module):
    """Output layer after one residual ReLU network of constant width.

    Args:
        dim: Width of the input.
        outputs: Width of the prediction.
        dropout: Dropout on the hidden layer.
    """

    def __init__(self, dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), Dropout(dropout), nn.Linear(dim, dim))
        self.out = nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for ``(B, dim)``."""
        return self.out(x + self.network(x))
