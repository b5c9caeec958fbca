"""Pre-norm transformer encoders over sequences: one that reads itself and one that reads another sequence.

The blocks of MulT (Tsai et al., ACL 2019, arXiv 1906.00295) in the form of the authors' code. Sequences are
``(B, T, D)``. What is padding is the caller's business and reaches the blocks in two ways: as *positions*, ``(B, T)``
integers from 1 on with 0 for "no position", and as an additive *bias* on the attention scores, 0 or minus infinity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Sequence

_HEAD_MULTIPLE = 8  # fused CUDA kernels take head widths that are multiples of 4 (float32) or 8 (half precision)


def position_vectors(positions: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``(B, T, dim)`` position vectors: sines in the first half of the channels, cosines in the second.

    Channel ``j`` of a half has the frequency ``10000 ** (-j / (dim // 2 - 1))``; an odd last channel is zero, and so
    is the whole vector at position 0.

    Args:
        positions: ``(B, T)`` integers between 0 and ``T``.
        dim: Width of the vectors.
        dtype: Their type; angles are computed in single precision at least.
    """
    half, exact = dim // 2, torch.promote_types(dtype, torch.float32)
    steps = torch.arange(positions.shape[1] + 1, device=positions.device, dtype=exact)
    rates = torch.exp(torch.arange(half, device=positions.device, dtype=exact) * (-math.log(1e4) / max(half - 1, 1)))
    angles = steps[:, None] * rates
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))
    table[0] = 0.0
    return F.embedding(positions, table.to(dtype))


def attention_bias(query_lengths: Tensor, key_lengths: Tensor, queries: int, keys: int, causal: bool) -> Tensor:
    """Return the ``(B, 1, queries, keys)`` bias that hides padding and, if causal, the future of another sequence.

    Query ``i`` sees key ``j`` if ``j < n_k`` and, when causal, ``j <= i + |n_k - n_q|``: MulT's future mask, with the
    lengths of each sample. The first key is always visible, which real queries see anyway and which keeps the softmax
    of rows without any real key finite.

    Args:
        query_lengths: ``(B,)`` true lengths ``n_q``.
        key_lengths: ``(B,)`` true lengths ``n_k``.
        queries: Padded length of the queries.
        keys: Padded length of the keys.
        causal: Whether the future is hidden.
    """
    query, key = (torch.arange(count, device=key_lengths.device) for count in (queries, keys))
    visible = (key < key_lengths[:, None, None]).expand(-1, queries, -1)
    if causal:
        ahead = (key_lengths - query_lengths).abs()
        visible = visible & (key <= query[:, None] + ahead[:, None, None])
    visible = visible | (key == 0)
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -torch.inf)[:, None]


def left_padded(sequence: Sequence, steps: int) -> tuple[Tensor, Tensor]:
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
    """Multi-head scaled dot-product attention on PyTorch's fused kernels.

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
        """Return queries, keys and values by head, ``(B, heads, T, dim / heads)`` each."""
        if query is keys and keys is values:
            parts = self.packed(query).chunk(3, dim=-1)
        else:
            weights, biases = self.packed.weight.chunk(3), self.packed.bias.chunk(3)
            parts = tuple(map(F.linear, (query, keys, values), weights, biases))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Return ``(B, T_q, dim)``, what each query reads.

        Args:
            query: ``(B, T_q, dim)``.
            keys: ``(B, T_k, dim)``.
            values: ``(B, T_k, dim)``.
            bias: ``(B | 1, 1, T_q, T_k)`` added to the scores.
            causal: Whether query ``i`` sees the keys up to ``i`` only; instead of a bias.
        """
        q, k, v = self.project(query, keys, values)
        width = q.shape[-1]
        if missing := -width % _HEAD_MULTIPLE:  # zero channels change neither scores nor the channels that are kept
            q, k, v = (F.pad(part, (0, missing)) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else bias.to(q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal,
            scale=width**-0.5,
        )
        return self.out(mixed[..., :width].transpose(1, 2).flatten(2))


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
        self.network = nn.Sequential(_linear(dim, 4 * dim), nn.ReLU(), nn.Dropout(relu_dropout), _linear(4 * dim, dim))
        self.dropout = nn.Dropout(residual_dropout)

    def forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        bias: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Return ``(B, T, dim)``.

        Args:
            x: ``(B, T, dim)``, the residual stream.
            keys: ``(B, T_k, dim)`` what is read, normalised here by the norm of the queries; ``x`` itself by default.
            values: ``(B, T_k, dim)``, as the keys; the keys by default.
            bias: ``(B | 1, 1, T, T_k)`` added to the scores.
            causal: As in :class:`Attention`.
        """
        query = self.attention_norm(x)
        k = query if keys is None else self.attention_norm(keys)
        v = k if values is None or values is keys else self.attention_norm(values)
        x = x + self.dropout(self.attention(query, k, v, bias, causal))
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
        self.dropout = nn.Dropout(embedding_dropout)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return ``sqrt(dim) x`` plus position vectors, ``(B, T, dim)``, before dropout."""
        return math.sqrt(x.shape[-1]) * x + position_vectors(positions, x.shape[-1], x.dtype)


class TransformerEncoder(_Encoder):
    """Self-attention encoder (E of MulT); arguments as in :class:`_Encoder`."""

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return ``(B, T, dim)``.

        Args:
            x: ``(B, T, dim)``.
            positions: ``(B, T)`` from 1 on, 0 for none.
            bias: ``(B | 1, 1, T, T)`` added to the scores.
            causal: Whether a step sees itself and its past only; with right-padded sequences that also hides the
                padding from every real step.
        """
        x = self.dropout(self.embed(x, positions))
        for layer in self.layers:
            x = layer(x, bias=bias, causal=causal)
        return self.norm(x)


class CrossmodalEncoder(_Encoder):
    """Encoder of a target sequence whose every layer reads the same low-level source (CM of MulT, equations 3 and 4).

    Arguments as in :class:`_Encoder`.
    """

    def forward(
        self,
        target: Tensor,
        target_positions: Tensor,
        source: Tensor,
        source_positions: Tensor,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return ``(B, T, dim)``, the target enriched by the source.

        Args:
            target: ``(B, T, dim)``, the queries.
            target_positions: ``(B, T)`` from 1 on, 0 for none.
            source: ``(B, T_k, dim)``, keys and values of every layer.
            source_positions: ``(B, T_k)`` from 1 on, 0 for none.
            bias: ``(B | 1, 1, T, T_k)`` added to the scores, from :func:`attention_bias`.
        """
        x = self.dropout(self.embed(target, target_positions))
        embedded = self.embed(source, source_positions)
        keys = self.dropout(embedded)
        values = self.dropout(embedded) if self.training and self.dropout.p else keys  # keys and values drop apart
        for layer in self.layers:
            x = layer(x, keys, values, bias)
        return self.norm(x)


class ResidualHead(nn.Module):
    """Output layer after one residual ReLU network of constant width.

    Args:
        dim: Width of the input.
        outputs: Width of the prediction.
        dropout: Dropout on the hidden layer.
    """

    def __init__(self, dim: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.out = nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for ``(B, dim)``."""
        return self.out(x + self.network(x))
