"""MulT as it is here beside the same architecture with attention written out, over batches padded to full length."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from unittest import mock
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.loops import fitted, optimizer_of, train
from benchmarks.speed.measure import Row, Setting, in_turn
from benchmarks.speed.mosi import BATCH, STEPS
from data_modules import Batch, PaddedSequence
from mmbench.methods import FusionMethod, method
from mmbench.nn.attention import AttentionPlan
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import Attention, TransformerLayer

TOLERANCE = 1e-4


_HIDDEN: WeakKeyDictionary[AttentionPlan, Tensor] = WeakKeyDictionary()


def hidden(plan: AttentionPlan) -> Tensor:
    """Return ``(B, 1, T_q, T_k)``, minus infinity where a query may not see a key; worked out once for all layers."""
    if plan not in _HIDDEN:
        n_q, n_k = (layout.lengths[:, None, None] for layout in (plan.queries, plan.keys))
        query, key = (torch.arange(layout.steps, device=n_k.device) for layout in (plan.queries, plan.keys))
        seen = (key < n_k).expand(-1, len(query), -1)
        if plan.causal:
            seen = seen & (key <= query[:, None] + (n_k - n_q).abs())
        # The first key keeps the softmax of padding finite.
        _HIDDEN[plan] = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen & (key > 0), -torch.inf)[:, None]
    return _HIDDEN[plan]


class ExplicitAttention(Attention):
    """The same attention as products, softmax and dropout, one after the other, as the official code has it."""

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
        """Return ``(B T_q, dim)``; arguments as in :class:`Attention`, with rows of all steps."""
        parts = zip(self.project(query, keys, values), (plan.queries, plan.keys, plan.keys), strict=True)
        q, k, v = (part.unflatten(0, (-1, layout.steps)).transpose(1, 2) for part, layout in parts)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + hidden(plan)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.out((weights @ v).transpose(1, 2).flatten(2).flatten(0, 1))


def explicit(model: FusionMethod) -> FusionMethod:
    """Return a copy of a model with the same weights that has the explicit attention and computes padding as well."""
    model = copy.deepcopy(model)
    for layer in [module for module in model.modules() if isinstance(module, TransformerLayer)]:
        ours = layer.attention
        layer.attention = ExplicitAttention(ours.out.in_features, ours.heads, ours.dropout)
        layer.attention.load_state_dict(ours.state_dict())
    forward = model.network.forward

    def padded(inputs: Mapping[str, PaddedSequence]) -> tuple[Tensor, Tensor]:
        # On a CPU too, rows are all steps: the last default says whether they are the real ones alone.
        with mock.patch.object(Layout.__init__, "__defaults__", (False,)):
            return forward(inputs)

    model.network.forward = padded
    return model


def full_length(batch: Batch, steps: Mapping[str, int]) -> Batch:
    """Return the batch padded to the steps of the longest sample of the data."""
    inputs = {
        name: PaddedSequence(F.pad(item.values, (0, 0, 0, steps[name] - item.values.shape[1])), item.lengths)
        for name, item in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


@torch.no_grad()
def largest_difference(model: FusionMethod, reference: FusionMethod, batches: list[Batch]) -> float:
    """Return the largest difference of a prediction, dropout off."""
    model.eval(), reference.eval()
    return max(
        float((model(batch).prediction - reference(full_length(batch, STEPS)).prediction).abs().max())
        for batch in batches
    )


def measure(setting: Setting) -> list[Row]:
    """Compare training steps over some batches of an epoch, and the outputs."""
    torch.manual_seed(1111)
    data = fitted(setting, batch_size=BATCH)
    batches = list(itertools.islice(data.train_dataloader(), setting.sizes.attention))
    padded = [full_length(batch, STEPS) for batch in batches]
    model = method("mult")(data.spec)
    reference = explicit(model).to(setting.device)
    model = model.to(setting.device)
    difference = largest_difference(model, reference, batches)
    optimizer, other = optimizer_of(model), optimizer_of(reference)
    times = in_turn(
        lambda: train(model, optimizer, batches),
        lambda: train(reference, other, padded),
        setting.sizes.slow,
        setting.device,
    )
    samples = sum(batch.size for batch in batches)
    name = f"mult, beside explicit attention over full padding ({samples} samples)"
    return [
        times.faster(name, setting.device, samples, "samples/s", 2.0),
        Row(
            "mult, largest difference of an output",
            setting.device,
            "",
            *(difference, 0.0),
            *(difference, difference, difference),
            len(batches),
            TOLERANCE,
            at_most=True,
        ),
    ]
