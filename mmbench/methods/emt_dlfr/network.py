"""The network of EMT-DLFR: readers of the modalities, mutual promotion with context tokens, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.emt_dlfr.config import EMTDLFRConfig
from mmbench.methods.emt_dlfr.mutual_promotion import MutualPromotion
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Steps
from mmbench.nn.words import without_marks


class Encoded(NamedTuple):
    """What an encoder makes of a modality.

    Attributes:
        vector: ``(B, width)`` utterance vector.
        steps: ``(N, width)`` local features.
    """

    vector: Tensor
    steps: Steps


@dataclass(kw_only=True)
class EMTOutput(Output):
    """What the network makes of one view of a batch.

    Attributes:
        h: By modality the utterance vector ``(B, width)``, and ``context``, the flat context ``(B, M D)``.
        steps: By modality ``(B, T_m, D)`` after the last layer, zero beyond the lengths, if they were wanted.
    """

    h: dict[str, Tensor]
    steps: dict[str, Tensor]


class RecurrentEncoder(nn.Module):
    """An LSTM and one linear layer on its final state and on every state; none where the width fits already.

    Args:
        dim: Features per step.
        hidden: Units of the LSTM.
        out: Width of the vector and of the steps.
    """

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.lstm = LSTMEncoder(dim, hidden)
        self.linear = nn.Identity() if hidden == out else nn.Linear(hidden, out)

    def forward(self, sequence: PaddedSequence) -> Encoded:
        """Encode ``(B, T, dim)``."""
        states, final = self.lstm(sequence)
        rows, layout = Steps.of(states)
        return Encoded(self.linear(final), Steps(self.linear(rows), layout))


class FirstStateEncoder(nn.Module):
    """Text states as they are: the first one stands for the utterance, those up to the last one are the words."""

    def forward(self, sequence: PaddedSequence) -> Encoded:
        """Encode ``(B, T, dim)``."""
        return Encoded(sequence.values[:, 0], Steps.of(without_marks(sequence)))


class EMTNetwork(nn.Module):
    """Encoders, fusion and head: what predicts.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        settings: The method's settings.
        states: Whether text comes as the states of a pretrained encoder, with [CLS] first and [SEP] last.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: EMTDLFRConfig, states: bool) -> None:
        super().__init__()
        c, self.states = settings, states
        self.readers, self.project, self.widths = nn.ModuleDict(), nn.ModuleDict(), {}
        for name, dim in dims.items():
            plain = name == "text" and states
            self.widths[name] = width = dim if plain else getattr(c, f"out_{name}")
            self.readers[name] = (
                FirstStateEncoder() if plain else RecurrentEncoder(dim, getattr(c, f"hidden_{name}"), width)
            )
            self.project[name] = nn.Identity() if width == c.dim else nn.Linear(width, c.dim, bias=False)
        self.fusion = MutualPromotion(
            list(dims),
            c.dim,
            c.layers,
            c.heads,
            c.expansion,
            c.embedding_dropout,
            c.attention_dropout,
            c.network_dropout,
            share_directions=c.share_directions,
            share_modalities=c.share_modalities,
            share_layers=c.share_layers,
        )
        self.head = nn.Sequential(
            Dropout(c.head_dropout),
            nn.Linear(sum(self.widths.values()) + len(dims) * c.dim, c.head),
            nn.ReLU(),
            nn.Linear(c.head, c.head),
            nn.ReLU(),
            nn.Linear(c.head, outputs),
        )

    def forward(self, features: Mapping[str, PaddedSequence], local: bool = False) -> EMTOutput:
        """Encode one view of a batch.

        Args:
            features: By modality ``(B, T_m, dims[m])``.
            local: Whether the steps after the last layer are wanted.
        """
        read: dict[str, Encoded] = {name: reader(features[name]) for name, reader in self.readers.items()}
        vectors = {name: item.vector for name, item in read.items()}
        context = torch.stack([self.project[name](vector) for name, vector in vectors.items()], dim=1)
        steps = {name: Steps(self.project[name](item.steps.rows), item.steps.layout) for name, item in read.items()}
        context, promoted = self.fusion(context, steps, local)
        flat = context.flatten(1)
        prediction = self.head(torch.cat([*vectors.values(), flat], dim=-1))
        padded = {name: x.padded() for name, x in promoted.items()}
        return EMTOutput(prediction, h={"context": flat, **vectors}, steps=padded)
