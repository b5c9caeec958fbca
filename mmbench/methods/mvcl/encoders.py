"""Sequences that read each other, the encoders before them, and the fusion of what they read.

As in the rebuild of MVCL (Liu et al., ICASSP 2023, arXiv 2210.15824) by its first author, whose transformers are those
of MulT. What is padding goes by the lengths; a caller who wants it to take part gives lengths that cover it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import cast

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.dropout import Dropout
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout, Steps
from mmbench.nn.transformer import CrossmodalEncoder
from mmbench.nn.words import without_marks


class TokenEncoder(nn.Module):
    """A transformer in which one sequence reads another, without the future: every layer reads the same input.

    Args:
        dim: Width.
        heads: Attention heads.
        layers: Layers.
        dropouts: On attention, hidden layers, residuals and inputs.
        project: Width to which the states are brought by a linear layer, ReLU and LayerNorm before they are pooled.
        pooled: Whether there is a tanh layer on the mean of the real steps.
    """

    def __init__(
        self, dim: int, heads: int, layers: int, *dropouts: float, project: int = 0, pooled: bool = True
    ) -> None:
        super().__init__()
        self.encoder = CrossmodalEncoder(dim, heads, layers, *dropouts)
        width = project or dim
        self.project = (
            nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.LayerNorm(width)) if project else nn.Identity()
        )
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if pooled else nn.Identity()

    def forward(self, query: Steps, context: Steps) -> Steps:
        """Return rows ``(N, dim)``, the query enriched by the context."""
        return Steps(self.encoder(*query, *context, causal=True), query.layout)

    def pool(self, states: Steps) -> Tensor:
        """Return ``(B, project or dim)``, one vector for the real steps."""
        return self.pooler(states.layout.mean(self.project(states.rows)))


def without_padding(sequence: PaddedSequence) -> PaddedSequence:
    """Return the sequence with its padding taken for real steps."""
    return PaddedSequence(sequence.values, torch.full_like(sequence.lengths, sequence.values.shape[1]))


class TextTokens(nn.Module):
    """Text that some encoder has read already: its vector, and its steps as tokens.

    Args:
        ends: Whether the first and the last step are [CLS] and [SEP]: the one is the vector, and both are no tokens.
            Otherwise the mean of the steps is the vector.
        whole: Whether padding counts as text.
    """

    def __init__(self, ends: bool, whole: bool) -> None:
        super().__init__()
        self.ends, self.whole = ends, whole

    def forward(self, text: PaddedSequence) -> tuple[Tensor, Steps]:
        """Return ``(B, D)`` and rows ``(N, D)``."""
        if self.whole:
            text = without_padding(text)
        if not self.ends:
            steps = Steps.of(text)
            return steps.layout.mean(steps.rows), steps
        return text.values[:, 0].masked_fill(~text.mask[:, :1], 0.0), Steps.of(without_marks(text))


class LSTMTokens(nn.Module):
    """The LSTM encoder of audio or vision: a vector from its last state, its states as tokens.

    Args:
        dim: Features per step.
        hidden: Units.
        out: Width of the vector; 0 for the state as it is.
        whole: Whether padding counts as tokens; the LSTM itself never reads it.
    """

    def __init__(self, dim: int, hidden: int, out: int, whole: bool) -> None:
        super().__init__()
        self.lstm = LSTMEncoder(dim, hidden)
        self.vector = nn.Linear(hidden, out) if out else nn.Identity()
        self.whole = whole

    def forward(self, sequence: PaddedSequence) -> tuple[Tensor, Steps]:
        """Return ``(B, out)`` and rows ``(N, hidden)``."""
        states, last = self.lstm(sequence)
        return self.vector(last), Steps.of(without_padding(states) if self.whole else states)


class ConvolutionTokens(nn.Module):
    """The encoder of audio or vision: a convolution, then a :class:`TokenEncoder` of the sequence by itself.

    The convolution has one zero step on either side, as in the rebuild, so that a kernel ``k`` above 3 shortens a
    sequence by ``k - 3`` steps, to one step at least. A kernel of 1 has no padding.

    Args:
        dim: Features per step.
        width: Width of the tokens.
        kernel: Steps that the convolution sees.
        reader: Reads the convolved sequence.
        whole: Whether padding counts as real steps.
    """

    def __init__(self, dim: int, width: int, kernel: int, reader: TokenEncoder, whole: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, width, kernel)
        self.reader, self.whole = reader, whole
        self.before, self.lost = min(1, kernel - 1), max(0, kernel - 3)

    def forward(self, sequence: PaddedSequence) -> tuple[Tensor, Steps]:
        """Return ``(B, out)`` and rows ``(N, width)``."""
        values = sequence.values.masked_fill(~sequence.mask[..., None], 0.0)
        lengths = (without_padding(sequence) if self.whole else sequence).lengths.clamp(min=1)
        read = Steps.of(PaddedSequence(values, lengths))
        convolved = read.layout.padded(read.layout.convolve(read.rows, self.conv, self.before))
        steps = Steps.of(PaddedSequence(convolved, (lengths - self.lost).clamp(min=1)))
        states = self.reader(steps, steps)
        return self.reader.pool(states), states


class MutualEncoder(nn.Module):
    """Crossmodal transformers: each modality reads the two others, merged in either order.

    With three modalities a view ``x_y_z`` is ``X(x, X(y, z))``, where ``X(q, c)`` is one :class:`TokenEncoder` each;
    with two, ``x_y`` is ``X(x, y)``.

    Args:
        widths: Width of each modality's tokens, two or three of them; those that have the width ``dim`` already (0) go
            in as they are.
        dim: Width of the views.
        heads: Attention heads.
        layers: Layers of each transformer.
        dropout: Dropout on attention.
    """

    def __init__(self, widths: Mapping[str, int], dim: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.ModuleDict(
            {name: nn.Linear(width, dim) if width else nn.Identity() for name, width in widths.items()}
        )
        self.views = {"_".join(order): order for order in permutations(widths)}
        merged = {"_".join(order[1:]) for order in self.views.values() if len(order) == 3}
        self.mergers = nn.ModuleDict(
            {pair: TokenEncoder(dim, heads, layers, dropout, pooled=False) for pair in sorted(merged)}
        )
        self.readers = nn.ModuleDict({view: TokenEncoder(dim, heads, layers, dropout) for view in self.views})

    def forward(self, tokens: Mapping[str, Steps]) -> dict[str, Tensor]:
        """Return the views of every sample by name, ``(B, dim)`` each, from rows ``(N_m, widths[m])``."""
        streams = {name: Steps(self.tokens[name](item.rows), item.layout) for name, item in tokens.items()}
        for pair, merger in self.mergers.items():
            first, second = pair.split("_")
            streams[pair] = merger(streams[first], streams[second])
        vectors = {}
        for view, (query, *rest) in self.views.items():
            reader = cast(TokenEncoder, self.readers[view])
            vectors[view] = reader.pool(reader(streams[query], streams["_".join(rest)]))
        return vectors


class ViewFusion(nn.Module):
    """Vectors, concatenated, through one more transformer to the fused vector.

    The transformer has two layers and reads a sequence of one step: its attention mixes nothing.

    Args:
        views: Number of vectors.
        dim: Width of each of them and of the fused one.
        heads: Attention heads.
        attention_dropout: Dropout on attention.
        dropout: Dropout on what the transformer gives.
    """

    def __init__(self, views: int, dim: int, heads: int, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.reader = TokenEncoder(views * dim, heads, 2, attention_dropout, project=dim)
        self.post = nn.Sequential(Dropout(dropout), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, vectors: Iterable[Tensor]) -> Tensor:
        """Return ``(B, dim)`` from the vectors ``(B, dim)`` each."""
        values = torch.cat(list(vectors), dim=-1)
        step = Steps(values, Layout.of_all(values[:, None]))
        return self.post(self.reader.pool(self.reader(step, step)))
