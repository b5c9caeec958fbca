"""Recurrent encoders that know how long their sequences are.

On a CPU a layer has one of two forms. Torch's fused LSTM reads samples in groups of similar length, each padded to its
longest: a step costs little, and padding less than half. Wide features are read step by step (:func:`lstm`): there
the products with features outweigh the steps, and these are computed once, for real steps only, and without their
gradient where nobody wants it. For text in the shape of MOSI (768 features of 3 to 50 steps) that takes a quarter of
the time of one padded batch and half of that of groups; for its vision (20 features of up to 500 steps) up to six times
that of groups. The two meet at 128 to 300 features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from data_modules.schema import PaddedSequence
from mmbench.nn.dropout import Dropout, dropout
from mmbench.nn.grouping import group_shapes
from mmbench.nn.precision import at_least_single, has_half_precision
from mmbench.nn.recurrence import layer_weights, lstm
from mmbench.nn.steps import Layout

_WIDE = 256
"""Features per step from which on a layer is read step by step on a CPU."""
_GROUP_COST = 25_000_000
"""Multiplications that take as long as a further group of samples, roughly."""


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

    def forward(self, sequence: PaddedSequence) -> tuple[PaddedSequence, Tensor]:
        """Encode a batch of sequences ``(B, T, D)``.

        Returns:
            The states of the last layer, ``(B, T, dim)`` with zeros beyond the lengths, and the final states of the
            last layer, ``(B, dim)``: forward then backward, each after its last step.
        """
        layout = Layout.of(sequence)
        states = self.read(layout.rows(sequence.values), layout)
        return PaddedSequence(layout.padded(states), sequence.lengths), self.final(states, layout)

    def read(self, rows: Tensor, layout: Layout) -> Tensor:
        """Return the states of the last layer ``(N, dim)``, right where steps are real.

        Args:
            rows: ``(N, D)``, zero where they are no real steps.
            layout: Where the rows belong.
        """
        if torch.is_autocast_enabled(rows.device.type) and not has_half_precision(rows.device):
            with torch.autocast(rows.device.type, enabled=False):
                return self.read(at_least_single(rows), layout)
        if layout.packed:
            for layer in range(self.rnn.num_layers):
                if layer:
                    rows = dropout(rows, self.rnn.dropout, self.training)
                read = self._by_steps if rows.shape[1] >= _WIDE else self._in_groups
                rows = read(rows, layout, layer)
            return rows
        values = rows.unflatten(0, (-1, layout.steps))
        if self.directions == 1:  # padding comes after all real steps: reading it too is exact
            states, _ = self.rnn(values)
        else:  # cuDNN reads packed sequences at full speed, and wants all weights in one piece
            packed = pack_padded_sequence(values, layout.lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=layout.steps)
        return states.flatten(0, 1)

    def final(self, states: Tensor, layout: Layout) -> Tensor:
        """Return ``(B, dim)``, the state of each direction after its last step, of the states ``(N, dim)``."""
        forward, backward = states.split([self.rnn.hidden_size, self.dim - self.rnn.hidden_size], 1)
        return torch.cat([layout.last(forward), layout.first(backward)], -1)

    def _by_steps(self, rows: Tensor, layout: Layout, layer: int) -> Tensor:
        """Return the states ``(N, dim)`` of a layer, by its real steps alone."""
        return torch.cat([lstm(self.rnn, rows, layout, layer, bool(way)) for way in range(self.directions)], -1)

    def _in_groups(self, rows: Tensor, layout: Layout, layer: int) -> Tensor:
        """Return the states ``(N, dim)`` of a layer, by torch's fused LSTM."""
        width = self.rnn.hidden_size
        groups = _Groups(layout, 4 * width * (rows.shape[1] + width))
        ways = []
        for way, (rows_of, places) in enumerate(groups.ways[: self.directions]):
            weights = layer_weights(self.rnn, layer, bool(way))
            parts = rows.index_select(0, rows_of).split([samples * steps for samples, steps in groups.shapes])
            states = []
            for part, (samples, steps) in zip(parts, groups.shapes, strict=True):
                start = rows.new_zeros(1, samples, width)
                values = part.view(samples, steps, -1)
                read = torch.lstm(values, (start, start), weights, True, 1, 0.0, self.training, False, True)[0]
                states.append(read.flatten(0, 1))
            ways.append(torch.cat(states).index_select(0, places))
        return torch.cat(ways, -1)


class _Groups:
    """Samples in groups of similar length, each padded to its longest with what stands nearest.

    Args:
        layout: Where rows belong; packed.
        work: Multiplications per step.

    Attributes:
        shapes: Samples and steps of each group.
        ways: For the forward and the backward direction the rows ``(P,)`` that the groups read, and where the rows
            stand among them, ``(N,)``.
    """

    def __init__(self, layout: Layout, work: int) -> None:
        lengths, order = layout.lengths.sort(descending=True, stable=True)
        self.shapes = group_shapes(lengths.tolist(), _GROUP_COST / work)
        widths = torch.tensor([steps for samples, steps in self.shapes for _ in range(samples)])
        offsets = torch.empty_like(order).scatter_(0, order, widths.cumsum(0) - widths)
        sample = order.repeat_interleave(widths)
        step, last = torch.arange(len(sample)) - offsets[sample], layout.lengths - 1
        first = layout.starts[sample]
        begin = offsets[layout.sample]
        self.ways = [
            (first + step.minimum(last[sample]), begin + layout.step),
            (first + (last[sample] - step).clamp(min=0), begin + last[layout.sample] - layout.step),
        ]


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
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(self.encoder.dim, out)

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, out)`` for a sequence ``(B, T, D)``."""
        layout = Layout.of(sequence)
        states = self.encoder.read(layout.rows(sequence.values), layout)
        return self.linear(self.dropout(self.encoder.final(states, layout)))
