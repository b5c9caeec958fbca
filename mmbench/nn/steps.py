"""Sequences of different lengths in one batch, of which only the real steps are computed.

A batch ``(B, T, D)`` is mostly padding: utterances of a few words stand beside one of fifty. On a CPU its real steps
stand one below the other as *rows* ``(N, D)``, which is all that linear layers, norms and dropout need; attention goes
by samples, or by groups of samples of similar length. On other devices, where a few large operations are faster than
many small ones, rows are all ``B T`` steps and attention hides the padding. A :class:`Layout` knows where the rows
belong, and who uses one need not know which form it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.attention import AttentionPlan
from mmbench.nn.dropout import dropout


class Layout:
    """Where the rows of a batch belong.

    A sample without any real step has a row all the same, for its first step: attention needs something to read.

    Args:
        lengths: ``(B,)`` real steps.
        steps: Padded length ``T``.
        device: Where the values are.
        packed: Whether rows are the real steps alone; by default on a CPU.

    Attributes:
        lengths: ``(B,)``, at least 1.
        steps: ``T``.
        packed: As above.
        whole: Whether all ``B T`` steps take part.
    """

    def __init__(self, lengths: Tensor, steps: int, device: torch.device, packed: bool | None = None) -> None:
        self.packed = device.type == "cpu" if packed is None else packed
        self.steps, self._lengths = steps, lengths.to(device)
        self.lengths = self._lengths.clamp(min=1)
        self.sizes: list[int] = self.lengths.tolist() if self.packed else [steps] * len(lengths)
        self.full = self.packed and min(self.sizes, default=steps) == steps
        self.whole = False
        self._plans: dict[tuple[int, bool], AttentionPlan] = {}

    @classmethod
    def of(cls, sequence: PaddedSequence) -> Layout:
        """Return the layout of the real steps of a sequence."""
        return cls(sequence.lengths, sequence.values.shape[1], sequence.values.device)

    @classmethod
    def of_all(cls, values: Tensor) -> Layout:
        """Return the layout of ``(B, T, ...)``, all of whose steps take part."""
        made = cls(torch.full((len(values),), values.shape[1]), values.shape[1], values.device)
        made.whole = True
        return made

    def one_each(self) -> Layout:
        """Return the layout of one row per sample."""
        made = Layout(torch.ones_like(self.lengths), 1, self.lengths.device, self.packed)
        made.whole = True
        return made

    @classmethod
    def joined(cls, parts: Sequence[Layout]) -> tuple[Layout, Tensor]:
        """Return the layout of samples whose real steps in several layouts follow each other, and its rows.

        Returns:
            The layout, and ``(N,)``, where its rows stand among those of the parts, one part below the other.
        """
        lengths = torch.stack([part._lengths for part in parts]).sum(0)
        made = cls(lengths, sum(part.steps for part in parts), lengths.device, parts[0].packed)
        made.whole = all(part.whole for part in parts)
        sample = torch.cat([part.sample for part in parts])
        padding = torch.cat([part.sample < 0 if part.real is None else ~part.real for part in parts])
        order = (2 * sample + padding).argsort(stable=True)  # by samples, of each first what is real
        held = torch.stack([part.lengths if part.packed else torch.full_like(lengths, part.steps) for part in parts])
        starts = F.pad(held.sum(0).cumsum(0), (1, 0))
        return made, order[starts[made.sample] + made.step]

    @cached_property
    def starts(self) -> Tensor:
        """``(B,)``, the row of the first step of each sample."""
        if self.packed:
            return F.pad(self.lengths.cumsum(0), (1, 0))[:-1]
        return torch.arange(len(self.lengths), device=self.lengths.device) * self.steps

    @cached_property
    def sample(self) -> Tensor:
        """``(N,)``, the sample of each row."""
        samples = torch.arange(len(self.lengths), device=self.lengths.device)
        return samples.repeat_interleave(self.lengths if self.packed else self.steps)

    @cached_property
    def step(self) -> Tensor:
        """``(N,)``, the step of each row, from 0 on."""
        return torch.arange(len(self.sample), device=self.lengths.device) - self.starts[self.sample]

    @cached_property
    def real(self) -> Tensor | None:
        """``(N,)`` bool, which rows are real steps; None when all are."""
        if self.whole or (self.packed and bool((self._lengths > 0).all())):
            return None
        return self.step < self._lengths[self.sample]

    @cached_property
    def positions(self) -> Tensor:
        """``(N,)``, the position of each row from 1 on, 0 for what is no real step."""
        return self.step + 1 if self.real is None else (self.step + 1) * self.real

    @cached_property
    def _places(self) -> Tensor:
        """``(N,)``, where the rows stand among all ``B T`` steps."""
        return self.sample * self.steps + self.step

    def rows(self, values: Tensor) -> Tensor:
        """Return the rows ``(N, ...)`` of ``(B, T, ...)``, zero where they are no real steps."""
        rows = values.flatten(0, 1)
        if self.packed and not self.full:
            rows = rows.index_select(0, self._places)
        return self.clean(rows)

    def clean(self, rows: Tensor) -> Tensor:
        """Return rows ``(N, ...)`` with zeros where they are no real steps."""
        return rows if self.real is None else rows.masked_fill(~_like(self.real, rows), 0.0)

    def padded(self, rows: Tensor) -> Tensor:
        """Return ``(B, T, ...)`` of rows ``(N, ...)``, zero where there is no real step."""
        rows, shape = self.clean(rows), (len(self.lengths), self.steps)
        if self.packed and not self.full:
            zeros = rows.new_zeros((len(self.lengths) * self.steps, *rows.shape[1:]))
            rows = zeros.index_copy(0, self._places, rows)
        return rows.unflatten(0, shape)

    def first(self, rows: Tensor) -> Tensor:
        """Return ``(B, ...)``, the row of the first step of each sample."""
        return rows.index_select(0, self.starts)

    def last(self, rows: Tensor) -> Tensor:
        """Return ``(B, ...)``, the row of the last real step of each sample."""
        return rows.index_select(0, self.starts + self.lengths - 1)

    def mean(self, rows: Tensor, real: Tensor | None = None) -> Tensor:
        """Return ``(B, D)``, the mean of the real steps; zero where a sample has none.

        Args:
            rows: ``(N, D)``.
            real: ``(N,)`` bool, which rows count; by default those that are real steps.
        """
        real = self.real if real is None else real
        if real is not None:
            rows = rows.masked_fill(~_like(real, rows), 0.0)
        count = self.lengths if real is None else self.sum(real.to(self.lengths.dtype)).clamp(min=1)
        total = self.sum(rows)
        return total / _like(count, total).to(total.dtype)

    def sum(self, rows: Tensor) -> Tensor:
        """Return ``(B, ...)``, the sums over the rows of each sample."""
        if self.packed:
            return rows.new_zeros((len(self.lengths), *rows.shape[1:])).index_add(0, self.sample, rows)
        return rows.unflatten(0, (-1, self.steps)).sum(1)

    def repeat(self, vectors: Tensor) -> Tensor:
        """Return rows ``(N, ...)`` of one vector per sample ``(B, ...)``."""
        return vectors.index_select(0, self.sample)

    def convolve(self, rows: Tensor, convolution: nn.Conv1d, before: int | None = None) -> Tensor:
        """Return rows ``(N, outputs)``: a convolution over steps that keeps the length, by zeros around each sample.

        Args:
            rows: ``(N, inputs)``, zero where they are no real steps.
            convolution: Without stride, dilation and groups.
            before: Zeros in front of each sample; by default half of the kernel.
        """
        weight, taps = convolution.weight, convolution.kernel_size[0]
        middle = taps // 2 if before is None else before
        if not self.packed and taps > 1:
            values = rows.unflatten(0, (-1, self.steps)).transpose(1, 2)
            values = F.pad(values, (middle, taps - 1 - middle))
            return F.conv1d(values, weight, convolution.bias).transpose(1, 2).flatten(0, 1)
        parts = F.linear(rows, weight.permute(2, 0, 1).flatten(0, 1)).chunk(weight.shape[2], -1)
        result = parts[middle] if convolution.bias is None else parts[middle] + convolution.bias
        for tap, part in enumerate(parts):
            if away := tap - middle:
                read = self.step + away
                outside = (read < 0) | (read >= self.lengths[self.sample])
                result = result + part.roll(-away, 0).masked_fill(outside[:, None], 0.0)
        return result

    def reads(self, keys: Layout | None = None, causal: bool = False) -> AttentionPlan:
        """Return the plan by which the rows read those of another layout of the same samples, or each other.

        Args:
            keys: What is read; by default the rows themselves.
            causal: Whether query ``i`` sees the keys ``j <= i + |n_k - n_q|`` only.
        """
        keys = keys or self
        key = (id(keys), causal)
        if key not in self._plans:
            self._plans[key] = AttentionPlan(self, keys, causal)
        return self._plans[key]


class Steps(NamedTuple):
    """The steps of a batch of sequences.

    Attributes:
        rows: ``(N, D)``.
        layout: Where they belong.
    """

    rows: Tensor
    layout: Layout

    @classmethod
    def of(cls, sequence: PaddedSequence) -> Steps:
        """Return the real steps of ``(B, T, D)``."""
        layout = Layout.of(sequence)
        return cls(layout.rows(sequence.values), layout)

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Layout]]) -> Steps:
        """Return the real steps of several sequences of each sample, one sequence after the other."""
        rows, layouts = zip(*parts, strict=True)
        layout, places = Layout.joined(list(layouts))
        return cls(torch.cat(rows).index_select(0, places), layout)

    def padded(self) -> Tensor:
        """Return ``(B, T, D)``, zero where there is no real step."""
        return self.layout.padded(self.rows)


def encode(layers: nn.TransformerEncoder, x: Tensor, layout: Layout, last: bool = False) -> Tensor:
    """Return what torch's Transformer encoder makes of rows.

    Args:
        layers: The encoder; its layers may have their norms before or after.
        x: ``(N, D)``.
        layout: Where the rows belong.
        last: Whether only the last step of each sample is wanted.

    Returns:
        ``(N, D)``, or ``(B, D)``.
    """
    for number, layer in enumerate(layers.layers, 1):
        x = _layer(layer, x, layout, last and number == len(layers.layers))
    return x if layers.norm is None else layers.norm(x)


def _layer(layer: nn.TransformerEncoderLayer, x: Tensor, layout: Layout, last: bool) -> Tensor:
    """Return the rows after one of torch's layers."""
    own, training = layer.self_attn, layer.training

    def attend(stream: Tensor) -> Tensor:
        parts = F.linear(stream, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (own.num_heads, -1)) for part in parts)
        plan = (layout.one_each() if last else layout).reads(layout)
        mixed = plan(layout.last(q) if last else q, k, v, own.dropout if training else 0.0)
        return dropout(F.linear(mixed, own.out_proj.weight, own.out_proj.bias), layer.dropout1.p, training)

    def network(stream: Tensor) -> Tensor:
        hidden = dropout(layer.activation(layer.linear1(stream)), layer.dropout.p, training)
        return dropout(layer.linear2(hidden), layer.dropout2.p, training)

    read = attend(layer.norm1(x) if layer.norm_first else x)
    x = (layout.last(x) if last else x) + read
    if layer.norm_first:
        return x + network(layer.norm2(x))
    x = layer.norm1(x)
    return layer.norm2(x + network(x))


def _like(rows: Tensor, values: Tensor) -> Tensor:
    """Return one number per row so that it meets rows of any shape."""
    return rows.view(-1, *[1] * (values.dim() - 1))
