"""The network of LMR-CBT: local features, encoders, blocks that blend a vector into every step, and the head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.lmr_cbt.config import LMRCBTConfig
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.precision import at_least_single
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout, Steps
from mmbench.nn.transformer import TransformerEncoder, left_padded

KERNEL = 3
"""Steps that the convolution over audio and vision sees; nothing is padded, so two steps are lost."""


class RecurrentFeatures(nn.Module):
    """Local features of text: dropout, bidirectional LSTM of two layers, LayerNorm.

    Args:
        dim: Features per step.
        width: Width ``d`` of the result, even.
        dropout: Dropout on the input.
        lstm_dropout: Dropout between the two layers.
        over_batch: The bug of the official code: the LSTM walks from sample to sample of the batch, one step at a
            time, instead of from step to step of a sample.
    """

    def __init__(self, dim: int, width: int, dropout: float, lstm_dropout: float, over_batch: bool = False) -> None:
        super().__init__()
        self.over_batch = over_batch
        self.dropout = Dropout(dropout)
        self.lstm = LSTMEncoder(dim, width // 2, layers=2, bidirectional=True, dropout=lstm_dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, sequence: PaddedSequence) -> Steps:
        """Return rows of the ``T`` steps of ``(B, T, dim)``."""
        values = self.dropout(sequence.values)
        if self.over_batch:
            batch = sequence.lengths.new_full((values.shape[1],), values.shape[0])
            states = self.lstm(PaddedSequence(values.transpose(0, 1), batch))[0].values.transpose(0, 1)
        else:
            states = self.lstm(PaddedSequence(values, sequence.lengths))[0].values
        layout = Layout.of(sequence)
        return Steps(self.norm(layout.rows(states)), layout)


class ConvolutionalFeatures(nn.Module):
    """Local features of audio or vision: convolution without padding, BatchNorm over real steps.

    A sample of one or two steps is followed by zeros up to three and gives one step.

    Args:
        dim: Features per step.
        width: Width ``d`` of the result.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(dim, width, KERNEL, padding=KERNEL // 2, bias=False)
        self.norm = FeatureNorm(width)

    def forward(self, sequence: PaddedSequence) -> Steps:
        """Return rows of the ``max(T - 2, 1)`` steps of ``(B, T, dim)``, which must be zero beyond the lengths."""
        values, lengths = sequence.values, sequence.lengths
        values = F.pad(values, (0, 0, 0, max(KERNEL - values.shape[1], 0)))
        around = Layout(lengths.clamp(min=KERNEL), values.shape[1], values.device)
        rows = around.convolve(around.rows(values), self.convolution)
        lengths = torch.minimum(lengths, (lengths - KERNEL + 1).clamp(min=1))
        layout = Layout(lengths, values.shape[1] - KERNEL + 1, values.device)
        # What saw the zeros that keep the length goes: the first and the last step of each sample.
        rows = rows.index_select(0, around.starts[layout.sample] + layout.step + KERNEL // 2)
        return Steps(self.norm(rows, layout.real), layout)


class CBBlock(nn.Module):
    """Blends a vector of another modality into every step of a sequence: ``softmax(tanh(W_x z_t + b + W_y f))``.

    Args:
        width: Width ``d`` of sequence and vector.
        over_time: Whether the softmax runs over the real steps of each channel instead of the channels of each step.
    """

    def __init__(self, width: int, over_time: bool = False) -> None:
        super().__init__()
        self.over_time = over_time
        self.step = nn.Linear(width, width)
        self.vector = nn.Linear(width, width, bias=False)

    def forward(self, rows: Tensor, layout: Layout, vector: Tensor) -> Tensor:
        """Return rows ``(N, width)`` from rows ``(N, width)`` and the vector ``(B, width)``."""
        joint = torch.tanh(self.step(rows) + layout.repeat(self.vector(vector)))
        if not self.over_time:
            return joint.softmax(-1)
        # Of a tanh the exponential is safe as it is; what is less than any of them stands for no real step at all.
        raised = layout.clean(at_least_single(joint).exp())
        return (raised / layout.repeat(layout.sum(raised).clamp(min=0.1))).to(joint.dtype)


class LMRCBTNetwork(nn.Module):
    """Local features, encoders, CB blocks and head.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
        steps: With left padding, the length to which each modality is padded; longer batches keep their own.
    """

    def __init__(
        self, dims: Mapping[str, int], outputs: int, settings: LMRCBTConfig, steps: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        c, width = settings, settings.dim
        self.left, self.causal, self.residual = c.padding == "left", c.causal_mask, c.residual
        self.steps = dict(steps or {})
        self.main = c.main or ("text" if "text" in dims else "vision")
        self.others = tuple(name for name in dims if name != self.main)
        # Vision enters before audio, as published, unless the settings say otherwise.
        order = sorted(self.others, key=lambda name: (name != c.first, -MODALITIES.index(name)))
        self.local = nn.ModuleDict(
            {
                name: RecurrentFeatures(dim, width, c.embed_dropout, c.lstm_dropout, c.legacy_batch_lstm)
                if name == "text"
                else ConvolutionalFeatures(dim, width)
                for name, dim in dims.items()
            }
        )
        dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout, c.embed_dropout)
        self.encoders = nn.ModuleDict(
            {name: TransformerEncoder(width, c.heads, c.layers, *dropouts) for name in (self.main, *self.others)}
        )
        self.blocks = nn.ModuleDict(
            {name: CBBlock(width, c.softmax == "time") for name in order} if c.cross_modal else {}
        )
        joined = width * len(dims)
        self.head = nn.Sequential(
            nn.Linear(joined, joined),
            nn.ReLU(),
            Dropout(c.output_dropout),
            nn.Linear(joined, joined),
            nn.Linear(joined, outputs),
        )

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> tuple[Tensor, Tensor]:
        """Return the prediction ``(B, outputs)`` and ``s``, ``(B, M d)``: ``F_f``, then ``F_m`` of the others."""
        local = {name: part(self._padded(name, inputs[name])) for name, part in self.local.items()}
        vectors = {name: self._encode(name, *local[name]) for name in self.others}
        own, layout = local[self.main]
        fused = own
        for name, block in self.blocks.items():
            fused = block(fused, layout, vectors[name])
        if self.blocks and self.residual:
            fused = fused + own
        joined = torch.cat([self._encode(self.main, fused, layout), *vectors.values()], dim=-1)
        return self.head(joined), joined

    def _padded(self, name: str, sequence: PaddedSequence) -> PaddedSequence:
        """Return the sequence with zeros for padding or, with left padding, as one whose zeros are real steps."""
        values, mask = sequence.values, sequence.mask
        lengths = sequence.lengths.to(values.device)
        if self.left:
            values, mask = left_padded(sequence, max(self.steps.get(name, 0), values.shape[1]))
            lengths = torch.full_like(lengths, values.shape[1])
        return PaddedSequence(values.masked_fill(~mask[..., None], 0.0), lengths)

    def _encode(self, name: str, rows: Tensor, layout: Layout) -> Tensor:
        """Return the last real step ``(B, d)`` of what an encoder makes of rows ``(N, d)``."""
        return self.encoders[name](rows, layout, causal=self.causal, last=True)
