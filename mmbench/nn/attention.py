"""Attention among rows of sequences of different lengths, by samples or by groups of samples of similar length.

See :mod:`mmbench.nn.steps` for what rows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.nn.dropout import dropout

_HEAD_MULTIPLE = 8
"""Fused CUDA kernels take head widths that are multiples of 4 (float32) or 8 (half precision)."""
_GROUP_COST = 10_000
"""Scores that take as long as a further group of samples, roughly."""
_ROW_COST = 64
"""Scores that take as long as moving a row of padding, there and back."""


class Placed(Protocol):
    """What attention asks of the layout of rows.

    Attributes:
        packed: Whether rows are the real steps alone.
        whole: Whether all ``B T`` steps take part.
        steps: Padded length ``T``.
        lengths: ``(B,)`` rows of each sample in the packed form, at least 1.
        sizes: The same as numbers.
    """

    packed: bool
    whole: bool
    steps: int
    lengths: Tensor
    sizes: list[int]

    @property
    def starts(self) -> Tensor:
        """``(B,)``, the row of the first step of each sample."""

    def clean(self, rows: Tensor) -> Tensor:
        """Return rows ``(N, ...)`` with zeros where they are no real steps."""


class AttentionPlan:
    """Which queries of a batch see which keys, and in what groups of samples attention is computed.

    Query ``i`` of a sample sees its keys ``j < n_k`` and, when causal, ``j <= i + |n_k - n_q|``: MulT's future mask
    with the lengths of each sample.

    Args:
        queries: Layout of the queries.
        keys: Layout of the keys.
        causal: Whether the future is hidden.
    """

    def __init__(self, queries: Placed, keys: Placed, causal: bool = False) -> None:
        self.queries, self.keys, self.causal = queries, keys, causal

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, p: float = 0.0) -> Tensor:
        """Return what each query reads, ``(N_q, heads C)``; scores are divided by ``sqrt(C)``.

        Args:
            q: ``(N_q, heads, C)``.
            k: ``(N_k, heads, C)``, or ``(N_k, levels, heads, C)`` where a step has several keys, seen by the same
                queries.
            v: As the keys.
            p: Probability with which attention weights are dropped.
        """
        if not self.queries.packed:
            return self._hidden(q, k, v, p)
        q, k, v = (part.movedim(-2, 0) for part in (q, k, v))
        gather_q, gather_k, back, groups = self._groups
        if gather_q is not None:
            q = q.index_select(1, gather_q)
        if gather_k is not None:
            k, v = k.index_select(1, gather_k), v.index_select(1, gather_k)
        parts = zip(
            q.split([size * queries for size, queries, _, _ in groups], 1),
            k.split([size * keys for size, _, keys, _ in groups], 1),
            v.split([size * keys for size, _, keys, _ in groups], 1),
            groups,
            strict=True,
        )
        mixed = torch.cat([_attend(*part, p) for part in parts], 1)
        if back is not None:
            mixed = mixed.index_select(1, back)
        return mixed.transpose(0, 1).flatten(1)

    def _hidden(self, q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
        """Return what each query reads, in the padded form."""
        width = q.shape[-1]
        q = q.unflatten(0, (-1, self.queries.steps)).transpose(1, 2)
        k, v = (part.unflatten(0, (-1, self.keys.steps)).movedim(-2, 1).flatten(2, -2) for part in (k, v))
        if missing := -width % _HEAD_MULTIPLE:  # zero channels change neither scores nor the channels that are kept
            q, k, v = (F.pad(part, (0, missing)) for part in (q, k, v))
        # Within one sequence the future mask alone keeps padding from every real step.
        past = self.causal and self.queries is self.keys and self.keys.steps == k.shape[2]
        bias = None if past else self._bias
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if bias is None else _widened(bias, k).to(q.dtype),
            dropout_p=p,
            is_causal=past,
            scale=width**-0.5,
        )
        return mixed[..., :width].transpose(1, 2).flatten(2).flatten(0, 1)

    @cached_property
    def _bias(self) -> Tensor | None:
        """``(B, 1, T_q, T_k)``, what is added to scores in the padded form; None for nothing."""
        if self.keys.whole and not self.causal:
            return None
        return _bias(self.queries.lengths, self.keys.lengths, self.queries.steps, self.keys.steps, self.causal)

    @cached_property
    def _groups(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[tuple[int, int, int, Tensor | None]]]:
        """Where queries and keys of each group come from, where results go, and what each group is.

        A group is its number of samples, of queries and keys of each, and what is added to its scores.
        """
        sizes = {*zip(self.queries.sizes, self.keys.sizes, strict=True)}
        if len(sizes) == 1 and not self.causal:  # as of single vectors: nothing moves, nothing is hidden
            return None, None, None, [(len(self.queries.sizes), *sizes.pop(), None)]
        found = _grouped(self.queries.sizes, self.keys.sizes)
        if all(len(group) == 1 for group in found):
            found = [[sample] for sample in range(len(self.queries.sizes))]
        gather_q, gather_k, kept, groups = [], [], [], []
        for group in found:
            samples = torch.tensor(group)
            q_lengths, k_lengths = self.queries.lengths[samples], self.keys.lengths[samples]
            queries, keys = (max(side.sizes[sample] for sample in group) for side in (self.queries, self.keys))
            q_steps, k_steps = torch.arange(queries), torch.arange(keys)
            gather_q.append((self.queries.starts[samples][:, None] + q_steps.minimum(q_lengths[:, None] - 1)).flatten())
            gather_k.append((self.keys.starts[samples][:, None] + k_steps.minimum(k_lengths[:, None] - 1)).flatten())
            kept.append((q_steps < q_lengths[:, None]).flatten())
            alike = bool((k_lengths == keys).all()) and not (self.causal and queries > 1)
            bias = None if alike else _bias(q_lengths, k_lengths, queries, keys, self.causal)
            groups.append((len(group), queries, keys, bias))
        q_rows, real = torch.cat(gather_q), torch.cat(kept)
        back = torch.empty(sum(self.queries.sizes), dtype=torch.long)
        back[q_rows[real]] = real.nonzero()[:, 0]
        moved = _moves(q_rows)
        return moved, _moves(torch.cat(gather_k)), None if moved is None else back, groups


def _attend(q: Tensor, k: Tensor, v: Tensor, group: tuple[int, int, int, Tensor | None], p: float) -> Tensor:
    """Return ``(heads, samples queries, C)``, what the queries of a group read.

    Args:
        q: ``(heads, samples queries, C)``.
        k: ``(heads, samples keys, C)``, or ``(heads, samples keys, levels, C)``.
        v: As the keys.
        group: Number of samples, queries and keys, and what is added to the scores.
        p: Probability with which weights are dropped.
    """
    samples, _, _, bias = group
    q = q.unflatten(1, (samples, -1))
    k, v = (part.unflatten(1, (samples, -1)).flatten(2, -2) for part in (k, v))
    bias = None if bias is None else _widened(bias.transpose(0, 1), k).to(q.dtype)
    if p:  # torch's attention would draw its own, slow dropout
        scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
        mixed = dropout((scores if bias is None else scores + bias).softmax(-1), p) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return mixed.flatten(1, 2)


def _bias(query_lengths: Tensor, key_lengths: Tensor, queries: int, keys: int, causal: bool) -> Tensor:
    """Return the ``(B, 1, queries, keys)`` bias that hides padding and, if causal, the future of another sequence.

    The first key is always visible: real queries see it anyway, and it keeps the softmax of other rows finite.

    Args:
        query_lengths: ``(B,)`` true lengths ``n_q``.
        key_lengths: ``(B,)`` true lengths ``n_k``.
        queries: Padded length of the queries.
        keys: Padded length of the keys.
        causal: Whether the future is hidden.
    """
    query, key = (torch.arange(count, device=key_lengths.device) for count in (queries, keys))
    visible = (key < key_lengths[:, None, None]).expand(-1, queries, -1)
    if causal:
        ahead = (key_lengths - query_lengths).abs()
        visible = visible & (key <= query[:, None] + ahead[:, None, None])
    visible = visible | (key == 0)
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -torch.inf)[:, None]


def _widened(bias: Tensor, keys: Tensor) -> Tensor:
    """Return the bias of steps as that of keys ``(..., keys, C)``, of which a step may have several."""
    levels = keys.shape[-2] // bias.shape[-1]
    return bias if levels == 1 else bias.repeat_interleave(levels, -1)


def _grouped(queries: Sequence[int], keys: Sequence[int]) -> list[list[int]]:
    """Return samples in groups of similar length, so that little is computed of what stands for padding."""
    groups: list[list[int]] = []
    wide = high = real = 0
    for sample in sorted(range(len(queries)), key=lambda sample: (-queries[sample], -keys[sample])):
        own = _cost(queries[sample], keys[sample])
        if groups:
            count, widest = len(groups[-1]), max(wide, keys[sample])
            before, after = count * _cost(high, wide) - real, (count + 1) * _cost(high, widest) - real - own
            if after - before < _GROUP_COST:
                groups[-1].append(sample)
                wide, real = widest, real + own
                continue
        groups.append([sample])
        high, wide, real = queries[sample], keys[sample], own
    return groups


def _cost(queries: int, keys: int) -> int:
    """Return what a sample of so many queries and keys takes, in scores."""
    return queries * keys + _ROW_COST * (queries + keys)


def _moves(index: Tensor) -> Tensor | None:
    """Return an index, None when it leaves everything in its place."""
    return None if torch.equal(index, torch.arange(len(index))) else index
