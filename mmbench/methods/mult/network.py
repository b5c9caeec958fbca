"""The network of MulT: streams of the modalities, crossmodal encoders, memory encoders and head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.mult.config import MulTConfig
from mmbench.nn.dropout import Dropout
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import CrossmodalEncoder, ResidualHead, TransformerEncoder, left_padded, official_positions

_MEMORY_LAYERS = 3  # the official self-attention encoders have at least this many layers


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
        self, dims: Mapping[str, int], outputs: int, settings: MulTConfig, steps: Mapping[str, int] | None = None
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

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> tuple[Tensor, Tensor]:
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

    def _stream(self, name: str, sequence: PaddedSequence) -> Stream:
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
        return official_positions(rows, layout) if self.left else layout.positions

    def _remember(self, target: str, read: Tensor, query: Stream) -> Tensor:
        """Read what a target got from its sources, ``(N, (M - 1) d)``, into one state ``(B, (M - 1) d)``."""
        last = self.pooling == "last"
        positions = self._positions(read, query.layout)
        states = self.memory[target](read, query.layout, positions, self.causal, last=last)
        return states if last else query.layout.mean(states, query.real)
