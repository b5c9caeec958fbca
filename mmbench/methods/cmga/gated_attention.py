"""Attention of one modality to another behind a forget gate, and self-attention over what several pairs gave.

The parts of CMGA (Jiang, Ji, arXiv 2208.11893); its equations are in :mod:`mmbench.methods.cmga`. Sequences are rows
``(N, d)`` of a :class:`~mmbench.nn.steps.Layout`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmbench.nn.attention import AttentionPlan
from mmbench.nn.dropout import Dropout
from mmbench.nn.steps import Layout


class Interaction(NamedTuple):
    """What a receiver makes of a sender; every tensor ``(N_j, d)``.

    Attributes:
        read: ``A``, what it reads.
        gate: ``f``, how much of the message passes, in ``(0, 1)``; ones without a gate.
        message: ``m``, what would be added to the residual with an open gate.
        fused: ``h``, the result.
    """

    read: Tensor
    gate: Tensor
    message: Tensor
    fused: Tensor


class GatedCrossAttention(nn.Module):
    """Single-head attention of a receiver to a sender, whose result passes a forget gate.

    Of a sender without any real step zeros are read.

    Args:
        dim: Width ``d`` of both modalities.
        dropout: Dropout on the attention weights.
        use_gate: Whether there is a gate; without one everything passes.
        value: ``projected`` (``z_i W_v``) or ``raw`` (``z_i``).
        residual: To what the message is added: ``receiver`` (``z_j``) or ``source`` (``z_i``, of the same lengths).
        activation: ``relu`` or ``identity``, on the sum.
    """

    def __init__(
        self,
        dim: int,
        dropout: float = 0.0,
        *,
        use_gate: bool = True,
        value: str = "projected",
        residual: str = "receiver",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.dropout, self.from_source = dropout, residual == "source"
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False) if value == "projected" else nn.Identity()
        self.gate = nn.Linear(2 * dim, dim) if use_gate else None
        self.message = nn.Linear(dim, dim)
        self.activation = nn.ReLU() if activation == "relu" else nn.Identity()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, sender: Tensor, receiver: Tensor, plan: AttentionPlan) -> Interaction:
        """Return the interaction.

        Args:
            sender: ``z_i``, ``(N_i, d)``.
            receiver: ``z_j``, ``(N_j, d)``.
            plan: By which the receiver reads the sender.
        """
        query, keys, values = self.query(receiver), self.key(sender), plan.keys.clean(self.value(sender))
        read = plan(query[:, None], keys[:, None], values[:, None], self.dropout if self.training else 0.0)
        gate = torch.ones_like(read) if self.gate is None else self.gate(torch.cat([read, receiver], dim=-1)).sigmoid()
        message = self.message(read)
        fused = self.activation((sender if self.from_source else receiver) + message * gate)
        return Interaction(read, gate, message, fused)


class FusionAttention(nn.Module):
    """Multi-head self-attention over the steps of all pairs, without a residual unless asked for.

    Args:
        dim: Width ``d``.
        heads: Number of heads, a divisor of ``dim``.
        dropout: Dropout on the attention weights and on the result.
        residual: Whether to add the input and normalise the sum.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, residual: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.packed = nn.Linear(dim, 3 * dim, bias=False)  # rows: query, key, value
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(dim) if residual else None
        for weight in (self.packed.weight, self.out.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """Return ``(N, d)`` for rows ``(N, d)``."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.packed(rows).chunk(3, -1))
        mixed = layout.reads()(q, k, v, self.dropout.p if self.training else 0.0)
        result: Tensor = self.dropout(self.out(mixed))
        return result if self.norm is None else self.norm(rows + result)
