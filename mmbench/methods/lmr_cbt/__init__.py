"""LMR-CBT: the vectors of the other modalities are blended into every step of one sequence, at linear cost.

Paper: Fu, Liu, Wang, Shen, Zhang, Qi, Fu, Zhou, "LMR-CBT: Learning Modality-fused Representations with CB-Transformer
for Multimodal Emotion Recognition from Unaligned Multimodal Sequences", 2021, arXiv 2112.01697. Official code:
skeletonNN/LMR-CBT, without a licence in the commit that was read; rewritten, not copied. Deviations: see the card.

Steps. Local features: text passes a bidirectional LSTM of two layers and a LayerNorm, audio and vision a convolution
over three steps and a BatchNorm. Local temporal learning: a self-attention encoder each for audio and vision, whose
last steps are the vectors ``F_a`` and ``F_v``. CB block, with ``X`` the local features of text:
``Z_1 = block(X, F_v)``, ``Z_2 = block(Z_1, F_a)``, where

    block(Z, F)_t = softmax(tanh(W_x Z_t + b + W_y F))    over the channels of step t,

and ``X_f = Z_2 + X``. Global attention: a third encoder reads ``X_f``, its last step is ``F_f``. The residual
concatenation ``s = [F_f; F_a; F_v]`` goes through three linear layers.

Shapes: inputs ``(B, T_m, D_m)``, each with its own lengths; local features ``(B, T_text, d)`` and ``(B, T_m - 2, d)``;
``F`` ``(B, d)``; ``s`` ``(B, M d)`` for M modalities; prediction ``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder, left_padded
from mmbench.tasks import Task

KERNEL = 3
"""Steps that the convolution over audio and vision sees; nothing is padded, so two steps are lost."""

SOURCE = "training log of the official repository ({}), test scores of the epoch with the lowest validation loss"
METRICS = ("mae", "corr", "acc7", "acc5", "acc2_non0", "f1_non0")
PUBLISHED = {
    "mosei/glove_aligned_50/standard": ("out_mosei_align.txt", (0.629, 0.648, 0.481, 0.496, 0.795, 0.788)),
    "mosei/glove_unaligned_50/standard": ("out_mosei_unalign.txt", (0.613, 0.668, 0.492, 0.503, 0.795, 0.785)),
}
"""The F1 of 0.815 that the repository advertises is that of its best test epoch and has no place here."""


class Steps(NamedTuple):
    """Local features of a modality.

    Attributes:
        rows: ``(N, d)``.
        layout: Where they belong; with left padding all steps are real.
    """

    rows: Tensor
    layout: Layout


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

    def forward(self, sequence: Sequence) -> Steps:
        """Return rows of the ``T`` steps of ``(B, T, dim)``."""
        values = self.dropout(sequence.values)
        if self.over_batch:
            batch = sequence.lengths.new_full((values.shape[1],), values.shape[0])
            states = self.lstm(Sequence(values.transpose(0, 1), batch))[0].values.transpose(0, 1)
        else:
            states = self.lstm(Sequence(values, sequence.lengths))[0].values
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

    def forward(self, sequence: Sequence) -> Steps:
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


class CrossModalBlock(nn.Module):
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
        joint = torch.tanh(self.step(rows) + layout.spread(self.vector(vector)))
        if not self.over_time:
            return joint.softmax(-1)
        # Of a tanh the exponential is safe as it is; what is less than any of them stands for no real step at all.
        raised = layout.clean(joint.to(torch.promote_types(joint.dtype, torch.float32)).exp())
        return (raised / layout.spread(layout.sum(raised).clamp(min=0.1))).to(joint.dtype)


class LMRCBTNetwork(nn.Module):
    """Local features, encoders, CB blocks and head.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
        steps: With left padding, the length to which each modality is padded; longer batches keep their own.
    """

    def __init__(
        self, dims: Mapping[str, int], outputs: int, settings: LMRCBT.Config, steps: Mapping[str, int] | None = None
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
            {name: CrossModalBlock(width, c.softmax == "time") for name in order} if c.cross_modal else {}
        )
        joined = width * len(dims)
        self.head = nn.Sequential(
            nn.Linear(joined, joined),
            nn.ReLU(),
            Dropout(c.output_dropout),
            nn.Linear(joined, joined),
            nn.Linear(joined, outputs),
        )

    def forward(self, inputs: Mapping[str, Sequence]) -> tuple[Tensor, Tensor]:
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

    def _padded(self, name: str, sequence: Sequence) -> Sequence:
        """Return the sequence with zeros for padding or, with left padding, as one whose zeros are real steps."""
        values, mask = sequence.values, sequence.mask
        lengths = sequence.lengths.to(values.device)
        if self.left:
            values, mask = left_padded(sequence, max(self.steps.get(name, 0), values.shape[1]))
            lengths = torch.full_like(lengths, values.shape[1])
        return Sequence(values.masked_fill(~mask[..., None], 0.0), lengths)

    def _encode(self, name: str, rows: Tensor, layout: Layout) -> Tensor:
        """Return the last real step ``(B, d)`` of what an encoder makes of rows ``(N, d)``."""
        last: Tensor = self.encoders[name](rows, layout, causal=self.causal, last=True)
        return last


class LMRCBT(FusionMethod):
    """Modality-fused representations with the CB-Transformer."""

    card = MethodCard(
        title="LMR-CBT: Learning Modality-fused Representations with CB-Transformer",
        authors="Fu, Liu, Wang, Shen, Zhang, Qi, Fu, Zhou",
        year=2021,
        venue="arXiv",
        arxiv="2112.01697",
        code="skeletonNN/LMR-CBT@c9c6cc8a013eb2f222255aeba31cb114801f9012",
        fidelity="official-code",
        deviations=(
            "The text LSTM runs over time; the official one runs over the batch by mistake, so that samples leak into "
            "each other and a published score depends on how the test batches are shuffled (legacy_batch_lstm).",
            "Padding is masked: LSTM, convolution, BatchNorm statistics and attention skip it and the last real step "
            "is read; padding=left gives the official behaviour, where zero steps take part.",
            "The scoring layers that the official blocks own and never use (82 parameters) are not built.",
            "Inferred: four encoder layers, the depth that fits the 0.34 million parameters quoted for other data "
            "than MOSEI; the repository's own default, five, is used on MOSEI.",
            "Inferred: without text the vector of audio enters vision, and any modality may be the one that is "
            "entered (main); its encoder is then the global one.",
            "Inferred: audio and vision of fewer than three steps are followed by zeros up to three; in the official "
            "code zeros precede them, and data of no longer sample fail.",
            "BatchNorm of a single row uses the running statistics, where the official one fails.",
            "The learning rate falls on plateaus of the validation metric that selects instead of the validation "
            "loss; the two are the same for regression.",
        ),
        published=tuple(
            PublishedResult(track, metric, value, SOURCE.format(log))
            for track, (log, values) in PUBLISHED.items()
            for metric, value in zip(METRICS, values, strict=True)
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of LMR-CBT; the defaults are those of the official code, with four layers."""

        batch_size: int = setting(16, "samples per step", low=1)
        plateau_patience: int = setting(20, "epochs without gain before the learning rate drops; 0 for never", low=0)
        dim: int = setting(40, "width d of everything before the head, even", low=2)
        heads: int = setting(8, "attention heads, a divisor of dim", low=1)
        layers: int = setting(4, "layers of every encoder; 5 for CMU-MOSEI", low=1)
        embed_dropout: float = setting(0.3, "dropout on text features and on what enters an encoder", low=0, high=1)
        lstm_dropout: float = setting(0.5, "dropout between the layers of the text LSTM", low=0, high=1)
        attention_dropout: float = setting(0.1, "dropout on attention", low=0, high=1)
        relu_dropout: float = setting(0.1, "dropout inside the feed-forward networks", low=0, high=1)
        residual_dropout: float = setting(0.2, "dropout on what layers add to the stream", low=0, high=1)
        output_dropout: float = setting(0.1, "dropout inside the head", low=0, high=1)
        causal_mask: bool = setting(True, "whether attention hides the future")
        padding: str = setting("masked", "masked, or left as in the official code", choices=("masked", "left"))
        main: str = setting("", "the modality that is entered; empty for text, or vision", choices=("", *MODALITIES))
        first: str = setting(
            "", "the modality whose vector enters first; empty for vision, audio, text", choices=("", *MODALITIES)
        )
        cross_modal: bool = setting(True, "whether the CB blocks are there; without them the vectors meet in the head")
        residual: bool = setting(True, "whether the local features are added to what the CB blocks make of them")
        softmax: str = setting("channel", "axis of the softmax in the CB blocks", choices=("channel", "time"))
        legacy_batch_lstm: bool = setting(
            False, "whether the text LSTM runs over the batch, as in the official code; samples leak into each other"
        )

        def __post_init__(self) -> None:
            """Check that the width can be split, and what goes together."""
            super().__post_init__()
            if self.dim % 2:
                raise ConfigError(f"{self.where('dim')} is {self.dim}; it must be even, half for each LSTM direction.")
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            if self.legacy_batch_lstm and self.padding != "left":
                raise ConfigError(
                    f"{self.where('legacy_batch_lstm')} mixes the samples of a step and knows no lengths; "
                    "set padding to left as well."
                )

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        have = ", ".join(spec.modalities)
        for name in ("main", "first"):
            if getattr(c, name) and getattr(c, name) not in spec.modalities:
                raise ConfigError(f"{c.where(name)} is {getattr(c, name)!r}; {spec.track} has {have}.")
        if c.legacy_batch_lstm:
            if "text" not in spec.modalities:
                raise ConfigError(f"{c.where('legacy_batch_lstm')} is about text; {spec.track} has {have}.")
            warnings.warn(
                "legacy_batch_lstm: the text LSTM runs over the batch, and a prediction depends on the other samples "
                "of its batch. It reproduces a bug of the official code and is no model to report.",
                stacklevel=2,
            )
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = LMRCBTNetwork(self.dims, self.task.outputs, c, steps)
        if c.first == self.network.main:
            raise ConfigError(f"{c.where('first')} is {c.first!r}, the one that is entered; name one of the others.")

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads: ``s``, ``(B, M d)``."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
