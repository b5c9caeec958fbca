"""CMGA: attention across every pair of modalities, a forget gate on what it brings, self-attention over the results.

Paper: Jiang, Ji, "Cross-Modality Gated Attention Fusion for Multimodal Sentiment Analysis", 2022, arXiv 2208.11893.
Only its abstract could be read, and no official code was found. The equations of the block are those on which two
independent re-implementations agree (Donghwan127/video-highlight-extraction@d373d72 and a Keras script), rewritten,
not copied. Everything else is inferred: see the card.

For a sender ``i`` and a receiver ``j``, encoded as ``z_i`` and ``z_j`` of width ``d``::

    A = softmax(z_j W_q (z_i W_k)^T / sqrt(d)) z_i W_v    what the receiver reads of the sender
    f = sigmoid([A ; z_j] W_f + b_f)                      the forget gate
    h = relu(z_j + f * (A W_m + b_m))

By default text receives from audio and from vision, and vision from audio. The ``h`` of all pairs, one after the other
in time, pass one multi-head self-attention; the mean of its real steps goes through a small network to the prediction.

Shapes: inputs ``(B, T_m, D_m)`` with their own ``T_m``; ``z_m (B, T_m, d)``; ``A``, ``f``, ``h`` ``(B, T_j, d)``; what
the fusion layer sees ``(B, sum of T_j over pairs, d)``; prediction ``(B, outputs)``. Loss: the task's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.cmga.gated_attention import FusionAttention, GatedCrossAttention
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout
from mmbench.tasks import Task

PAIRS = {"+".join(pair): pair for pair in combinations(MODALITIES, 2)}
"""The unordered pairs by the name that the settings give them."""


def average_steps(sequence: Sequence, factor: int) -> Sequence:
    """Return the sequence ``(B, ceil(T / factor), D)`` of the means over ``factor`` steps, real ones only."""
    steps = -(-sequence.values.shape[1] // factor)
    values = sequence.values.masked_fill(~sequence.mask[..., None], 0.0)
    values = F.pad(values, (0, 0, 0, steps * factor - values.shape[1])).unflatten(1, (steps, factor)).sum(2)
    lengths = sequence.lengths.to(values.device)
    count = (lengths[:, None] - factor * torch.arange(steps, device=values.device)).clamp(1, factor)
    return Sequence(values / count[..., None].to(values.dtype), (sequence.lengths + factor - 1) // factor)


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

    def forward(self, sequence: Sequence) -> tuple[Tensor, Layout]:
        """Return rows ``(N, d)`` and where they belong, for ``(B, T, D)``."""
        layout = Layout.of(sequence)
        if self.lstm is not None:
            values = self.dropout(sequence.values)
            rows = layout.rows(self.lstm(Sequence(values, sequence.lengths))[0].values)
        else:
            rows = self.dropout(layout.rows(sequence.values))
        return self.norm(rows if self.linear is None else self.linear(rows)), layout


class CMGANetwork(nn.Module):
    """Encoders, one block per pair, fusion and head.

    Args:
        dims: Features per step by modality, in the order text, audio, vision.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: CMGA.Config) -> None:
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

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return the prediction and, named, ``states`` (read by the head) and ``gate_<pair>``, ``(B,)`` mean gates."""
        encoded = {name: self.encoders[name](self._shortened(name, inputs[name])) for name in self.names}
        named: dict[str, Tensor] = {}
        parts = list(encoded.values())
        if self.blocks:
            parts = []
            for sender, receiver in self.pairs:
                (source, source_layout), (target, layout) = encoded[sender], encoded[receiver]
                found = self.blocks[f"{sender}_to_{receiver}"](source, target, layout.reads(source_layout))
                parts.append((found.fused, layout))
                named[f"gate_{sender}_to_{receiver}"] = layout.mean(found.gate.mean(1))
        if self.fusion_kind == "concat":
            state = torch.cat([layout.mean(rows) for rows, layout in parts], dim=-1)
        else:
            layout, places = Layout.joined([layout for _, layout in parts])
            rows = torch.cat([rows for rows, _ in parts]).index_select(0, places)
            state = layout.mean(rows if self.fusion is None else self.fusion(rows, layout))
        return Output(self.head(state), {"states": state, **named})

    def _shortened(self, name: str, sequence: Sequence) -> Sequence:
        factor = self.factors[name]
        return sequence if factor == 1 else average_steps(sequence, factor)


class CMGA(FusionMethod):
    """Cross-modality gated attention."""

    card = MethodCard(
        title="CMGA: Cross-Modality Gated Attention Fusion",
        authors="Ming Jiang, Shaoxiong Ji",
        year=2022,
        venue="arXiv preprint",
        arxiv="2208.11893",
        fidelity="abstract",
        deviations=(
            "The equations of attention and gate are those of two independent re-implementations that agree, not read "
            "in the paper; they differ in the residual and in the projection of the values (settings residual, value).",
            "Inferred: the residual is the receiver's, the only choice for modalities of different lengths.",
            "Inferred: text enters through dropout and one linear layer, audio and vision through a bidirectional "
            "LSTM; layer normalisation follows.",
            "Inferred: one direction per pair (the re-implementation that speaks of it says that the order matters "
            "little): text receives where it takes part, vision receives from audio.",
            "Inferred: the pairs follow one another in time in one self-attention of 8 heads; its mean over real "
            "steps passes dropout and one hidden ReLU layer.",
            "Inferred: padding is masked in both attentions; a receiver whose sender has no real step reads zeros.",
            "Inferred: without cross attention (use_cross off) every modality enters the fusion layer once.",
            "Inferred: the loss is the task's alone; Adam at a constant rate, and every size, dropout and rate.",
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of CMGA; the paper's are unknown."""

        text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
        dim: int = setting(128, "width d of the encoders and of all attention, even", low=2)
        heads: int = setting(8, "heads of the fusion layer, a divisor of dim", low=1)
        dropout: float = setting(0.2, "dropout on all attention weights and after the fusion layer", low=0.0, high=1.0)
        text_dropout: float = setting(0.1, "dropout on text features", low=0.0, high=1.0)
        head_dropout: float = setting(0.3, "dropout on what the head reads", low=0.0, high=1.0)
        text_layer: str = setting(
            "linear", "encoder of text: linear for hidden states, lstm for word vectors", choices=("linear", "lstm")
        )
        normalize: bool = setting(True, "whether encoded modalities are layer-normalised")
        pool: int = setting(1, "audio and vision steps that are averaged into one", low=1)
        pairs: str = setting("", f"pairs in use, separated by commas, of {', '.join(PAIRS)}; empty for all")
        directions: str = setting("one", "blocks per pair: one or both directions", choices=("one", "both"))
        residual: str = setting("receiver", "what the message is added to", choices=("receiver", "source"))
        value: str = setting("projected", "values of the attention: z W_v or z", choices=("projected", "raw"))
        activation: str = setting("relu", "on residual plus message", choices=("relu", "identity"))
        use_gate: bool = setting(True, "whether the forget gate is there; without it every message passes whole")
        use_cross: bool = setting(True, "whether modalities attend to each other")
        fusion: str = setting(
            "mha", "self-attention and mean, mean alone, or means side by side", choices=("mha", "mean", "concat")
        )
        fusion_residual: bool = setting(False, "whether the self-attention has a residual and layer normalisation")

        def __post_init__(self) -> None:
            """Check widths, pair names and switches that exclude each other."""
            super().__post_init__()
            if self.dim % 2:
                raise ConfigError(f"{self.where('dim')} is {self.dim}; it must be even, for two LSTM directions.")
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            if self.fusion_residual and self.fusion != "mha":
                raise ConfigError(f"{self.where('fusion_residual')} is on; it needs fusion 'mha', not {self.fusion!r}.")
            if self.residual == "source" and self.pool > 1:
                raise ConfigError(
                    f"{self.where('pool')} is {self.pool}; with residual 'source' all modalities keep their lengths: "
                    "set pool to 1."
                )
            for key in () if self.use_cross else ("use_gate", "value", "residual", "activation", "directions"):
                if (value := getattr(self, key)) != getattr(type(self), key):
                    raise ConfigError(f"{self.where(key)} is {value!r}; it needs use_cross, which is off.")
            self.chosen()

        def chosen(self) -> list[tuple[str, str]]:
            """Return the pairs in use, each in the order text, audio, vision."""
            asked = [item.strip() for item in self.pairs.split(",")] if self.pairs else list(PAIRS)
            for item in asked:
                if item not in PAIRS:
                    raise ConfigError(f"{self.where('pairs')} names {item!r}; the pairs are: {', '.join(PAIRS)}.")
            return [pair for name, pair in PAIRS.items() if name in asked]

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        c = config or self.Config()
        if isinstance(c, self.Config) and c.pairs:
            # What is in no pair is left out from the start: an encoder of unused tokens would run for nothing.
            names = tuple(dict.fromkeys(name for pair in c.chosen() for name in pair))
            if missing := sorted(set(names) - set(spec.modalities)):
                have = ", ".join(spec.modalities)
                raise ConfigError(f"{c.where('pairs')} needs {', '.join(missing)}; {spec.track} has {have}.")
            spec = spec.select(names)
        super().__init__(spec, task, config)
        c = self.config
        if c.residual == "source" and not spec.aligned and any(m.max_length > 1 for m in spec.modalities.values()):
            raise ConfigError(
                f"{c.where('residual')} is 'source', which needs modalities of equal lengths; {spec.track} is not "
                "aligned: use 'receiver'."
            )
        self.network = CMGANetwork(self.dims, self.task.outputs, c)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and the mean gate of every pair."""
        output: Output = self.network(self.features(batch))
        return output
