"""MulT: every modality is enriched by every other through its own crossmodal transformer.

Paper: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019, arXiv 1906.00295. Official code: yaohungt/Multimodal-Transformer (MIT); read and rewritten.

Steps: a convolution brings each modality to width ``d`` (equation 1) and sinusoidal positions are added (equation 2).
For each ordered pair an encoder whose queries are the target and whose keys and values are always the low-level source
reads one modality into another (equations 3 and 4). What a target got from its sources is concatenated and read by a
self-attention encoder; its last step is the target's state (section 3.2). The states, concatenated, go through one
residual network to the prediction. The loss is the task's alone. Deviations: see the card.

Shapes: inputs ``(B, T_m, D_m)`` with their own ``T_m``; crossmodal outputs ``(B, T_target, d)``; state of a target
``(B, (M - 1) d)`` for M modalities; prediction ``(B, outputs)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import CrossmodalEncoder, ResidualHead, TransformerEncoder, left_padded
from mmbench.tasks import Task

_DBF = "Denoising Bottleneck with Mutual Information Maximization (2023), row MulT of "
_ISSUE = "paper, as quoted in issue 8 of the official repository"
_MEMORY_LAYERS = 3  # the official self-attention encoders have at least this many layers


def _published(track: str, source: str, *values: float) -> tuple[PublishedResult, ...]:
    """Return one result per metric; the official F1 is weighted by predicted class."""
    names = ("acc7", "acc2_non0", "f1_non0_swapped", "mae", "corr")
    return tuple(PublishedResult(track, name, value, source) for name, value in zip(names, values, strict=True))


class Stream(NamedTuple):
    """A modality on its way through the network.

    Attributes:
        rows: ``(N, d)``.
        layout: Where they belong; with left padding all ``B T`` steps take part.
        positions: ``(N,)`` from 1 on, 0 for padding.
        real: ``(N,)`` bool, the real steps among all that take part; None when nothing else does.
    """

    rows: Tensor
    layout: Layout
    positions: Tensor
    real: Tensor | None


class MulTNetwork(nn.Module):
    """Crossmodal encoders, memory encoders and head.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
        steps: With left padding, the length to which each modality is padded; longer batches keep their own.
    """

    def __init__(
        self, dims: Mapping[str, int], outputs: int, settings: MulT.Config, steps: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        c, dim = settings, settings.dim
        self.left, self.causal, self.pooling = c.padding == "left", c.causal_mask, c.pooling
        self.steps = dict(steps or {})
        self.targets = tuple(name for name in dims if c.only in ("", name))
        self.sources = {target: tuple(name for name in dims if name != target) for target in self.targets}
        self.text_dropout = Dropout(c.embed_dropout)
        self.project = nn.ModuleDict()
        for name, features in dims.items():
            kernel = getattr(c, f"kernel_{name}")
            # As in the official code, features that already have the width go in as they are.
            skip = features == dim and kernel == 1
            self.project[name] = (
                nn.Identity() if skip else nn.Conv1d(features, dim, kernel, padding=kernel // 2, bias=False)
            )
        dropouts = (c.relu_dropout, c.residual_dropout, c.embed_dropout)
        # The source decides the dropout on attention: audio and vision have their own.
        attention = {
            "text": c.attention_dropout,
            "audio": c.attention_dropout_audio,
            "vision": c.attention_dropout_vision,
        }
        self.crossmodal = nn.ModuleDict(
            {
                f"{source}_to_{target}": CrossmodalEncoder(dim, c.heads, c.layers, attention[source], *dropouts)
                for target in self.targets
                for source in self.sources[target]
            }
        )
        width, depth = dim * (len(dims) - 1), max(c.layers, _MEMORY_LAYERS)
        self.memory = nn.ModuleDict(
            {
                target: TransformerEncoder(width, c.heads, depth, c.attention_dropout, *dropouts)
                for target in self.targets
            }
        )
        self.head = ResidualHead(width * len(self.targets), outputs, c.output_dropout)

    def forward(self, inputs: Mapping[str, Sequence]) -> tuple[Tensor, Tensor]:
        """Return the prediction ``(B, outputs)`` and the states ``(B, targets * (M - 1) * d)``, targets in order."""
        streams = {name: self._stream(name, inputs[name]) for name in self.project}
        states = [
            self._remember(target, torch.cat(read, dim=-1), streams[target]) for target, read in self.interact(streams)
        ]
        summary = torch.cat(states, dim=-1)
        return self.head(summary), summary

    def interact(self, streams: Mapping[str, Stream]) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield every target with what it reads of each of its sources, ``(N_target, d)``.

        One target after the other: each is remembered before the next one reads, and dropout draws in that order.
        """
        for target in self.targets:
            query = streams[target]
            read = [
                self.crossmodal[f"{source}_to_{target}"](
                    query.rows,
                    query.layout,
                    streams[source].rows,
                    streams[source].layout,
                    self.causal,
                    query.positions,
                    streams[source].positions,
                )
                for source in self.sources[target]
            ]
            yield target, read

    def _stream(self, name: str, sequence: Sequence) -> Stream:
        """Bring a modality to its padding side and to width ``d``."""
        real: Tensor | None
        if self.left:
            values, mask = left_padded(sequence, max(self.steps.get(name, 0), sequence.values.shape[1]))
            layout = Layout.of_all(values)
            rows, real = layout.rows(values.masked_fill(~mask[..., None], 0.0)), layout.rows(mask)
        else:
            layout = Layout.of(sequence)
            rows, real = layout.rows(sequence.values), layout.real
        if name == "text":
            rows = self.text_dropout(rows)
        project = self.project[name]
        rows = layout.convolve(rows, project) if isinstance(project, nn.Conv1d) else rows
        return Stream(rows, layout, self._positions(rows, layout), real)

    def _positions(self, rows: Tensor, layout: Layout) -> Tensor:
        """Return positions from 1 on and 0 for padding, which officially is a channel 0 of exactly 0."""
        return (layout.step + 1) * (rows[:, 0] != 0) if self.left else layout.positions

    def _remember(self, target: str, read: Tensor, query: Stream) -> Tensor:
        """Read what a target got from its sources, ``(N, (M - 1) d)``, into one state ``(B, (M - 1) d)``."""
        last = self.pooling == "last"
        positions = self._positions(read, query.layout)
        states = self.memory[target](read, query.layout, positions, self.causal, last=last)
        return states if last else query.layout.mean(states, query.real)


class MulT(FusionMethod):
    """Directional pairwise crossmodal transformers."""

    card = MethodCard(
        title="MulT: Multimodal Transformer for Unaligned Multimodal Language Sequences",
        authors="Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov",
        year=2019,
        venue="ACL 2019",
        arxiv="1906.00295",
        code="yaohungt/Multimodal-Transformer@a670936824ee722c8494fd98d204977a1d663c7a",
        fidelity="official-code",
        deviations=(
            "Padding is masked: attention skips it, positions count from the first real step, the future mask goes "
            "by the lengths of each sample and the last real step is pooled; padding=left gives the official "
            "behaviour, where zero steps take part and the padded length changes the result.",
            "The residual adds the un-normalised stream, as the official code does and the paper's equation does not.",
            "The convolution kernel is 1 as in the official code; larger kernels keep the length by zero padding.",
            "A single-target model (only) builds just the memory encoder that it uses, where the official one builds "
            "all three; a projection that the official code builds but skips is not built.",
            "Two modalities, which the paper does not treat, give one crossmodal encoder per direction and memory "
            "encoders of width d.",
            "The learning rate falls on plateaus of the validation metric that selects instead of the validation "
            "loss; the two are the same for regression.",
        ),
        published=(
            *_published("mosi/aligned_50/standard", _DBF + "table 1", 0.400, 0.830, 0.828, 0.871, 0.698),
            *_published(
                "mosei/aligned_50/standard",
                _DBF + "table 2 (Acc-2 and F1 are printed in reverse)",
                0.518,
                0.825,
                0.823,
                0.580,
                0.703,
            ),
            *_published("mosei/unaligned_50/standard", _ISSUE, 0.507, 0.816, 0.816, 0.591, 0.694),
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of MulT; the defaults are those of the official code, tuned for unaligned MOSEI."""

        batch_size: int = setting(24, "samples per step", low=1)
        gradient_clip: float = setting(0.8, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        plateau_patience: int = setting(20, "epochs without gain before the learning rate drops; 0 for never", low=0)
        dim: int = setting(30, "width d of the crossmodal encoders", low=1)
        heads: int = setting(5, "attention heads, a divisor of dim", low=1)
        layers: int = setting(5, "layers of every encoder (memory encoders: at least 3)", low=1)
        kernel_text: int = setting(1, "steps that the convolution over text sees, odd", low=1)
        kernel_audio: int = setting(1, "steps that the convolution over audio sees, odd", low=1)
        kernel_vision: int = setting(1, "steps that the convolution over vision sees, odd", low=1)
        embed_dropout: float = setting(0.25, "dropout on text features and on what enters an encoder", low=0, high=1)
        attention_dropout: float = setting(0.1, "dropout on attention to text and in memory encoders", low=0, high=1)
        attention_dropout_audio: float = setting(0.0, "dropout on attention to audio", low=0, high=1)
        attention_dropout_vision: float = setting(0.0, "dropout on attention to vision", low=0, high=1)
        relu_dropout: float = setting(0.1, "dropout inside the feed-forward networks", low=0, high=1)
        residual_dropout: float = setting(0.1, "dropout on what layers add to the stream", low=0, high=1)
        output_dropout: float = setting(0.0, "dropout inside the head", low=0, high=1)
        causal_mask: bool = setting(True, "whether attention hides the future")
        padding: str = setting("masked", "masked, or left as in the official code", choices=("masked", "left"))
        pooling: str = setting("last", "state of a sequence: last real step or mean", choices=("last", "mean"))
        only: str = setting("", "the only target modality; empty for all", choices=("", *MODALITIES))

        def __post_init__(self) -> None:
            """Check that the heads divide the width and that kernels have a middle."""
            super().__post_init__()
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            for name in ("kernel_text", "kernel_audio", "kernel_vision"):
                if getattr(self, name) % 2 == 0:
                    raise ConfigError(f"{self.where(name)} is {getattr(self, name)}; it must be odd.")

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        if self.config.only and self.config.only not in spec.modalities:
            have = ", ".join(spec.modalities)
            raise ConfigError(f"{self.config.where('only')} is {self.config.only!r}; {spec.track} has {have}.")
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = MulTNetwork(self.dims, self.task.outputs, self.config, steps)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
