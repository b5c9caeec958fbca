"""Small data for any method (see :mod:`data_modules.toy`), and what can be done to a batch without a trace."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data_modules.schema import Batch, PaddedSequence
from data_modules.toy import DIMS, KINDS, MEDIA, STEPS, make_batch, make_spec, over, write_toy_store

__all__ = [
    "DIMS",
    "KINDS",
    "MEDIA",
    "STEPS",
    "changed",
    "doubled",
    "make_batch",
    "make_spec",
    "over",
    "padded",
    "rows",
    "with_garbage",
    "write_toy_store",
]


def changed(batch: Batch, modality: str, values: Tensor) -> Batch:
    """Return the batch with other values of one modality."""
    return replace(batch, inputs={**batch.inputs, modality: PaddedSequence(values, batch.inputs[modality].lengths)})


def rows(batch: Batch, order: Tensor) -> Batch:
    """Return some samples of a batch, in some order."""

    def pick(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[order]

    return replace(
        batch,
        inputs={name: PaddedSequence(item.values[order], item.lengths[order]) for name, item in batch.inputs.items()},
        target=batch.target[order],
        index=batch.index[order],
        speaker=pick(batch.speaker),
        target_mask=pick(batch.target_mask),
    )


def doubled(batch: Batch) -> Batch:
    """Return the batch with features in double precision, where orders of summation differ by next to nothing."""
    inputs = {
        name: PaddedSequence(item.values.double() if item.values.is_floating_point() else item.values, item.lengths)
        for name, item in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)


def padded(batch: Batch, steps: int) -> Batch:
    """Return the batch with more right padding."""

    def pad(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(values.shape[0], steps, *values.shape[2:])], 1)

    batch = replace(
        batch, inputs={m: PaddedSequence(pad(item.values), item.lengths) for m, item in batch.inputs.items()}
    )
    if batch.target_mask is None:
        return batch
    assert batch.speaker is not None
    return replace(
        batch,
        target=pad(batch.target),
        index=pad(batch.index),
        speaker=pad(batch.speaker),
        target_mask=pad(batch.target_mask),
    )


def garbage(values: Tensor) -> Tensor:
    """Return a large number of the values' type."""
    return torch.tensor(1e3 if values.is_floating_point() else 200, dtype=values.dtype)


def with_garbage(batch: Batch) -> Batch:
    """Return the batch with large numbers where there is padding."""
    inputs = {
        name: PaddedSequence(torch.where(over(item.mask, item.values), item.values, garbage(item.values)), item.lengths)
        for name, item in batch.inputs.items()
    }
    return replace(batch, inputs=inputs)
