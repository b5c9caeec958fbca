"""The network of CMGA: encoders, gated attention in every pair of modalities, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cmga.config import CMGAConfig
from mmbench.methods.cmga.gated_attention import FusionAttention, GatedCrossAttention
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout, Steps


def average_steps(sequence: PaddedSequence, factor: int) -> PaddedSequence:
    """Return the sequence ``(B, ceil(T / factor), D)`` of the means over ``factor`` steps, real ones only."""
    steps = -(-sequence.values.shape[1] // factor)
    values = sequence.values.masked_fill(~sequence.mask[..., None], 0.0)
    values = F.pad(values, (0, 0, 0, steps * factor - values.shape[1])).unflatten(1, (steps, factor)).sum(2)
    lengths = sequence.lengths.to(values.device)
    count = (lengths[:, None] - factor * torch.arange(steps, device=values.device)).clamp(1, factor)
    return PaddedSequence(values / count[..., None].to(values.dtype), (sequence.lengths + factor - 1) // factor)


class UnimodalEncoder(nn.Module):
    """Brings a modality to width ``d``: one linear layer, or a bidirectional LSTM; then layer normalisation.

    Args:
        dim: Features per step.
        width: ``d``, even.
        layer: ``linear`` or ``lstm``.
        dropout: Dropout on the features.
        normalize: Whether to normalise the result.
    """

    def __init__(self, dim: int, width: int, layer: str, dropout: float = 0.0, normalize: bool = True) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(dim, width) if layer == "linear" else None
        self.lstm = LSTMEncoder(dim, width // 2, bidirectional=True) if layer == "lstm" else None
        self.norm = nn.LayerNorm(width) if normalize else nn.Identity()

    def forward(self, sequence: PaddedSequence) -> tuple[Tensor, Layout]:
        """Return rows ``(N, d)`` and where they belong, for ``(B, T, D)``."""
        layout = Layout.of(sequence)
        if self.lstm is not None:
            values = self.dropout(sequence.values)
            rows = layout.rows(self.lstm(PaddedSequence(values, sequence.lengths))[0].values)
        else:
            rows = self.dropout(layout.rows(sequence.values))
        return self.norm(rows if self.linear is None else self.linear(rows)), layout


@dataclass(kw_only=True)
class CMGAOutput(Output):
    """The prediction and what it is made of.

    Attributes:
        states: What the head reads.
        gate: ``(B,)`` mean gate by pair ``<sender>_to_<receiver>``.
    """

    states: Tensor
    gate: dict[str, Tensor]


class CMGANetwork(nn.Module):
    """Encoders, one block per pair, fusion and head.

    Args:
        dims: Features per step by modality, in the order text, audio, vision.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: CMGAConfig) -> None:
        super().__init__()
        c = settings
        self.fusion_kind = c.fusion
        self.factors = {name: 1 if name == "text" else c.pool for name in dims}
        chosen = [pair for pair in c.chosen() if set(pair) <= set(dims)]
        # (sender, receiver): the first of a pair receives where it is text, the second otherwise.
        self.pairs = [(b, a) if a == "text" else (a, b) for a, b in chosen]
        if c.directions == "both":
            self.pairs += [(receiver, sender) for sender, receiver in self.pairs]
        self.names = tuple(name for name in dims if any(name in pair for pair in chosen))
        self.encoders = nn.ModuleDict()
        for name in self.names:
            layer, dropout = (c.text_layer, c.text_dropout) if name == "text" else ("lstm", 0.0)
            self.encoders[name] = UnimodalEncoder(dims[name], c.dim, layer, dropout, c.normalize)
        self.blocks = nn.ModuleDict()
        if c.use_cross:
            for sender, receiver in self.pairs:
                self.blocks[f"{sender}_to_{receiver}"] = GatedCrossAttention(
                    c.dim, c.dropout, use_gate=c.use_gate, value=c.value, residual=c.residual, activation=c.activation
                )
        self.fusion = FusionAttention(c.dim, c.heads, c.dropout, c.fusion_residual) if c.fusion == "mha" else None
        width = c.dim * (len(self.blocks or self.names) if c.fusion == "concat" else 1)
        self.head = nn.Sequential(
            Dropout(c.head_dropout), nn.Linear(width, c.dim), nn.ReLU(), nn.Linear(c.dim, outputs)
        )

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> CMGAOutput:
        """Return the prediction and what it is made of."""
        encoded = {name: self.encoders[name](self._shortened(name, inputs[name])) for name in self.names}
        parts, gates = list(encoded.values()), {}
        if self.blocks:
            parts = []
            for (pair, block), (sender, receiver) in zip(self.blocks.items(), self.pairs, strict=True):
                (source, source_layout), (target, layout) = encoded[sender], encoded[receiver]
                found = block(source, target, layout.reads(source_layout))
                parts.append((found.fused, layout))
                gates[pair] = layout.mean(found.gate.mean(1))
        if self.fusion_kind == "concat":
            state = torch.cat([layout.mean(rows) for rows, layout in parts], dim=-1)
        else:
            rows, layout = Steps.joined(parts)
            state = layout.mean(rows if self.fusion is None else self.fusion(rows, layout))
        return CMGAOutput(self.head(state), states=state, gate=gates)

    def _shortened(self, name: str, sequence: PaddedSequence) -> PaddedSequence:
        factor = self.factors[name]
        return sequence if factor == 1 else average_steps(sequence, factor)
