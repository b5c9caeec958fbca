"""Recurrent encoders that know how long their sequences are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from data_modules.schema import Sequence


class LSTMEncoder(nn.Module):
    """An LSTM over the real steps of a sequence.

    Neither the amount of padding nor what it holds changes the result, and the backward direction starts at the last
    real step. A sample without any real step is read as one step of zeros.

    Args:
        dim: Features per step, ``D``.
        hidden: Units per direction.
        layers: Stacked layers.
        bidirectional: Whether to read the sequence in both directions.
        dropout: Dropout between the layers; of no effect with one layer.
    """

    def __init__(
        self, dim: int, hidden: int, layers: int = 1, bidirectional: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.dim = hidden * self.directions
        self.rnn = nn.LSTM(
            dim,
            hidden,
            num_layers=layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,  # torch warns of a dropout that has nowhere to act
        )

    def forward(self, sequence: Sequence) -> tuple[Sequence, Tensor]:
        """Encode a batch of sequences ``(B, T, D)``.

        Returns:
            The states of the last layer, ``(B, T, dim)`` with zeros beyond the lengths, and the final states of the
            last layer, ``(B, dim)``: forward then backward, each after its last step.
        """
        values = sequence.values.masked_fill(~sequence.mask.unsqueeze(-1), 0.0)
        lengths = sequence.lengths.clamp(min=1)
        if (
            self.directions == 1
        ):  # padding comes after all real steps: reading it too is exact, and several times faster
            padded, _ = self.rnn(values)
            rows = torch.arange(len(lengths), device=values.device)
            return Sequence(padded * sequence.mask.unsqueeze(-1), sequence.lengths), padded[rows, lengths - 1]
        packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, (final, _) = self.rnn(packed)
        unpacked, _ = pad_packed_sequence(states, batch_first=True, total_length=values.shape[1])
        # (layers * directions, B, hidden), the directions of the last layer at the end
        last: Tensor = torch.cat(tuple(final[-self.directions :]), dim=-1)
        return Sequence(unpacked * sequence.mask.unsqueeze(-1), sequence.lengths), last


class LSTMVector(nn.Module):
    """An LSTM whose final state, through dropout and one linear layer, stands for the sequence.

    Args:
        dim: Features per step, ``D``.
        hidden: Units per direction.
        out: Width of the vector.
        layers: Stacked layers.
        bidirectional: Whether to read the sequence in both directions.
        dropout: Dropout between the layers and before the linear layer.
    """

    def __init__(
        self, dim: int, hidden: int, out: int, layers: int = 1, bidirectional: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = LSTMEncoder(dim, hidden, layers, bidirectional, dropout)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(self.encoder.dim, out)

    def forward(self, sequence: Sequence) -> Tensor:
        """Return ``(B, out)`` for a sequence ``(B, T, D)``."""
        _, final = self.encoder(sequence)
        vector: Tensor = self.linear(self.dropout(final))
        return vector
