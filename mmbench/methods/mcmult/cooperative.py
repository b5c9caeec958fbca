"""Crossmodal blocks that read several levels of their source, where those of MulT read its input alone.

The mechanism of MCMulT (Ma, Yao, Liang, Liu, arXiv 2206.07981) on the blocks of :mod:`mmbench.nn.transformer`. A
*level* of a source is what it looks like after that many of its own blocks; level 0 is its input. Levels are kept
un-normalised, and each block normalises what it reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbench.nn.attention import AttentionPlan
from mmbench.nn.transformer import Attention, TransformerLayer

Level = tuple[Tensor, Tensor]
"""A level of a source as keys and values, ``(N_k, D)`` each; usually the same tensor twice."""

FUSIONS = ("gated_sum", "mean", "concat", "last", "low")
"""How a block reads levels: by a learned or a plain mean of what it reads of each, by one attention over the steps of
all of them, or only the highest or the lowest one."""


def levels_read(block: int, fusion: str, window: int = 0) -> range:
    """Return the levels that a block reads, of those that its source has when it is built.

    Args:
        block: Number of the block, from 1 on; there are the levels ``0 ... block - 1``.
        fusion: One of :data:`FUSIONS`.
        window: How many of the highest levels may be read; 0 for all.
    """
    if fusion == "low":
        return range(1)
    return range(max(0, block - (1 if fusion == "last" else window or block)), block)


class LevelEncoder(nn.Module):
    """Runs a transformer layer whose keys and values are several levels of a source.

    With one level this is the layer itself, but for the mark of ``concat``. With several, ``gated_sum`` adds what the
    layer's attention reads of each level, weighted by a softmax over one learned number per level, equal at first;
    ``mean`` keeps the weights equal; ``concat`` reads all levels at once, told apart by a learned vector per level,
    zero at first.

    Args:
        layer: The layer whose settings further attentions take over.
        levels: Number of levels.
        fusion: One of :data:`FUSIONS`.
        shared: Whether one attention reads all levels; otherwise the layer's own reads the lowest, and each of the
            others has one of its own.
    """

    def __init__(self, layer: TransformerLayer, levels: int, fusion: str, shared: bool = True) -> None:
        super().__init__()
        dim, own = layer.attention.out.out_features, layer.attention
        self.gates = nn.Parameter(torch.zeros(levels)) if fusion == "gated_sum" else None
        self.marks = nn.Parameter(torch.zeros(levels, dim)) if fusion == "concat" else None
        self.others = nn.ModuleList(Attention(dim, own.heads, own.dropout) for _ in range(0 if shared else levels - 1))

    def forward(self, layer: TransformerLayer, x: Tensor, levels: list[Level], plan: AttentionPlan) -> Tensor:
        """Return ``(N, D)``, the residual stream after the layer.

        Args:
            layer: The layer; its weights are its owner's business.
            x: ``(N, D)``, the residual stream before it, whose norm gives the queries.
            levels: The levels to read, un-normalised, each ``(N_k, D)``.
            plan: Which query sees which steps, the same of every level.
        """
        query = layer.attention_norm(x)
        keys = layer.attention_norm(torch.stack([k for k, _ in levels], 1))  # (N_k, levels, D)
        apart = any(v is not k for k, v in levels)
        values = layer.attention_norm(torch.stack([v for _, v in levels], 1)) if apart else keys
        if self.marks is None:
            read = self._mean(layer.attention, query, keys, values, plan)
        else:
            read = layer.attention(query, keys + self.marks, values + self.marks, plan)
        return layer.proceed(x, read)

    def _mean(self, own: Attention, query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
        """Return ``(N, D)``, the weighted mean of what is read of each level.

        The levels are read in one go, as if each were some further heads.
        """
        count = keys.shape[1]
        shares = keys.new_full((count,), 1 / count) if self.gates is None else self.gates.softmax(0)
        if len(self.others):
            attentions = [own, *self.others]
            levels = zip(attentions, keys.unbind(1), values.unbind(1), strict=True)
            parts = [attention.project(query, k, v) for attention, k, v in levels]
            q, k, v = (torch.cat(side, 1) for side in zip(*parts, strict=True))
        else:
            q, k, v = own.project(query, keys, values)
            q, k, v = q.repeat(1, count, 1), k.flatten(1, 2), v.flatten(1, 2)
        read = plan(q, k, v, own.dropout if own.training else 0.0).unflatten(1, (count, -1))
        if len(self.others):
            read = torch.stack([a.out(part) for a, part in zip(attentions, read.unbind(1), strict=True)], 1)
            return shares.to(read.dtype) @ read
        return own.out(shares.to(read.dtype) @ read)  # shares sum to 1, so the layer may come after the mean
