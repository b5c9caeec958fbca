"""The network of MMMIE: a vector and tokens per modality, and a Transformer that fuses the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.mmmie.config import MMMIEConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.pooling import masked_mean
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout, Steps
from mmbench.nn.transformer import TransformerLayer, position_rows

_SPREAD = 0.02  # standard deviation of fresh embeddings


class MMMIEEncoder(nn.Module):
    """One modality to a vector and to steps of one width.

    Text was read already: its vector is a linear map of its first step, or of the mean of its steps. Audio and vision
    pass an LSTM in both directions, whose final states give the vector.

    Args:
        dim: Features per step.
        width: Width of vector and steps.
        hidden: Units of the LSTM per direction; 0 for none.
        first: Without an LSTM: whether the first step stands for the sequence.
        steps: Whether the steps are wanted.
    """

    def __init__(self, dim: int, width: int, hidden: int, first: bool, steps: bool) -> None:
        super().__init__()
        self.first = first
        self.lstm = LSTMEncoder(dim, hidden, bidirectional=True) if hidden else None
        read = self.lstm.dim if self.lstm else dim
        after = [nn.ReLU(), nn.LayerNorm(width)] if hidden else []
        self.vector = nn.Sequential(nn.Linear(read, width), *after)
        self.steps = nn.Linear(read, width) if steps else None

    def forward(self, sequence: PaddedSequence) -> tuple[Tensor, tuple[Tensor, Layout] | None]:
        """Return ``(B, width)`` and, if wanted, rows ``(N, width)`` with their layout, for ``(B, T, dim)``."""
        if self.lstm is not None:
            sequence, read = self.lstm(sequence)
        else:
            sequence = PaddedSequence(sequence.values.masked_fill(~sequence.mask[..., None], 0.0), sequence.lengths)
            read = sequence.values[:, 0] if self.first else masked_mean(sequence.values, sequence.mask)
        if self.steps is None:
            return self.vector(read), None
        layout = Layout.of(sequence)
        return self.vector(read), (self.steps(layout.rows(sequence.values)), layout)


class TokenFusion(nn.Module):
    """A transformer over a learned fusion token and tokens of all modalities, and the head on the fusion token.

    Args:
        names: The modalities.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, names: list[str], outputs: int, settings: MMMIEConfig) -> None:
        super().__init__()
        c = settings
        self.names, self.positions = names, c.identity == "position"
        self.token = nn.Parameter(_SPREAD * torch.randn(c.dim))
        self.identity: nn.Parameter | None = None
        if c.identity != "none":
            self.identity = nn.Parameter(_SPREAD * torch.randn(len(names), c.dim))
        dropouts = (c.dropout, c.dropout, c.dropout)
        self.layers = nn.ModuleList(TransformerLayer(c.dim, c.heads, *dropouts) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)
        self.head = nn.Sequential(nn.Linear(c.dim, c.dim), nn.ReLU(), Dropout(c.dropout), nn.Linear(c.dim, outputs))

    def forward(
        self, vectors: Mapping[str, Tensor], steps: Mapping[str, tuple[Tensor, Layout]]
    ) -> tuple[Tensor, Tensor]:
        """Return the prediction ``(B, outputs)`` and the state of the fusion token ``(B, dim)``.

        Args:
            vectors: ``(B, dim)`` by modality.
            steps: Rows ``(N_m, dim)`` with their layout by modality, further tokens; empty for none.
        """
        one = Layout.of_all(vectors[self.names[0]][:, None])
        parts = [(self.token.expand(len(one.lengths), -1), one)]
        for number, name in enumerate(self.names):
            own = [(vectors[name], one)]
            if name in steps:
                rows, layout = steps[name]
                if self.positions:
                    rows = rows + position_rows(rows, layout)
                own.append((rows, layout))
            parts += own if self.identity is None else [(x + self.identity[number], place) for x, place in own]
        states, layout = Steps.joined(parts)
        *layers, last = self.layers
        for layer in layers:
            states = layer(states, layout.reads())
        # Of what the last layer makes, only the fusion token is read: the first of each sample.
        z = self.norm(last(layout.first(states), one.reads(layout), states))
        return self.head(z), z


@dataclass(kw_only=True)
class MMMIEOutput(Output):
    """The prediction and what the bounds compare.

    Attributes:
        h: ``(B, dim)`` by modality.
        z: ``(B, dim)``, what the head reads.
        code: ``(B, code)`` by modality, of unit length.
        mean: Of ``h`` given the inputs, by modality; no part of what the network says.
        logvar: Beside it.
    """

    h: dict[str, Tensor]
    z: Tensor
    code: dict[str, Tensor]
    mean: dict[str, Tensor] = field(default_factory=dict)
    logvar: dict[str, Tensor] = field(default_factory=dict)


class MMMIENetwork(nn.Module):
    """Encoders, projections of the pairs, and fusion.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        settings: The method's settings.
        first: Whether the first step of text stands for it ([CLS]); else the mean of its steps.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: MMMIEConfig, first: bool = False) -> None:
        super().__init__()
        c = settings
        self.encoders = nn.ModuleDict(
            {
                name: MMMIEEncoder(dim, c.dim, 0 if name == "text" else c.hidden, first, c.fusion == "sequence")
                for name, dim in dims.items()
            }
        )
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Linear(c.dim, c.code))
                for name in dims
                if c.alpha
            }
        )
        self.fusion = TokenFusion(list(dims), outputs, c)

    def forward(self, features: Mapping[str, PaddedSequence]) -> MMMIEOutput:
        """Return prediction and representations of a batch."""
        vectors, steps = {}, {}
        for name, encoder in self.encoders.items():
            vectors[name], states = encoder(features[name])
            if states is not None:
                steps[name] = states
        prediction, z = self.fusion(vectors, steps)
        codes = {name: F.normalize(part(vectors[name]), dim=-1) for name, part in self.projections.items()}
        return MMMIEOutput(prediction, h=vectors, z=z, code=codes)
