"""Small data for any method: specs, random batches, stores, and what can be done to a batch without a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from data_modules.schema import (
    MODALITIES,
    Batch,
    DataSpec,
    ModalityKind,
    ModalitySpec,
    PaddedSequence,
    TargetKind,
    TargetSpec,
)
from data_modules.store import Sample, StoreInfo, write_store

KINDS: tuple[TargetKind, ...] = ("regression", "multiclass", "multilabel", "binary")
DIMS = {"text": 7, "audio": 5, "vision": 6}
STEPS = {"text": 6, "audio": 9, "vision": 8}
UTTERANCES = 5
MEDIA: dict[ModalityKind, Callable[[str], ModalitySpec]] = {
    "frames": lambda name: ModalitySpec(name, 3, 8, "frames", rate=8, size=(48, 48)),
    "waveform": lambda name: ModalitySpec(name, 1, 12_800, "waveform", rate=16_000),
}
SHORTEST = {"frames": 2, "waveform": 6400}
TARGETS = {
    "regression": TargetSpec("regression", ("sentiment",), -3.0, 3.0),
    "multiclass": TargetSpec("multiclass", ("angry", "happy", "sad")),
    "multilabel": TargetSpec("multilabel", ("angry", "happy", "sad")),
    "binary": TargetSpec("binary", ("happy", "sad")),
}


def make_spec(
    kind: TargetKind = "regression",
    modalities: tuple[str, ...] = MODALITIES,
    *,
    steps: int = 0,
    dialogue: bool = False,
    kinds: Mapping[str, ModalityKind] = MappingProxyType({}),
) -> DataSpec:
    """Return a spec of small dimensions; ``steps`` replaces the lengths, dialogues are of utterance vectors.

    Modalities are features unless ``kinds`` says frames or a waveform.
    """
    lengths = dict.fromkeys(MODALITIES, UTTERANCES) if dialogue else {m: steps or STEPS[m] for m in MODALITIES}
    return DataSpec(
        dataset="toy",
        feature_set="random",
        protocol="standard",
        modalities={
            name: MEDIA[kinds[name]](name) if name in kinds else ModalitySpec(name, DIMS[name], lengths[name])
            for name in modalities
        },
        target=TARGETS[kind],
        aligned=dialogue,
        dialogue=dialogue,
        speakers=2 if dialogue else 0,
    )


def _target(kind: TargetKind, latent: Tensor) -> Tensor:
    """Return what ``(..., 3)`` standard normal causes mean for a target of some kind."""
    if kind == "regression":
        return (1.5 * latent[..., 0]).clamp(-3, 3)
    if kind == "multiclass":
        return latent.argmax(-1)
    positive = latent[..., : len(TARGETS[kind].names)] > 0
    return positive.float() if kind == "multilabel" else positive.long()


def over(mask: Tensor, values: Tensor) -> Tensor:
    """Return a ``(B, T)`` mask in the form that fits values ``(B, T, ...)``."""
    return mask.reshape(*mask.shape, *(1 for _ in range(values.dim() - mask.dim())))


def _medium(modality: ModalitySpec, latent: Tensor, random: torch.Generator) -> Tensor:
    """Return frames whose colours, or sounds whose loudness and pitch, follow ``(B, 3)`` standard normal causes."""
    shape = (len(latent), modality.max_length)
    if modality.kind == "frames":
        colour = (128 + 50 * latent)[:, None, :, None, None]
        return (colour + 10 * torch.randn(*shape, 3, *modality.size, generator=random)).clamp(0, 255).to(torch.uint8)
    time = torch.arange(modality.max_length) / modality.rate
    tones = [torch.sin(2 * torch.pi * pitch * time) for pitch in (300.0, 900.0, 2700.0)]
    sound = 0.1 * torch.exp(latent / 2) @ torch.stack(tones)
    return (sound + 0.01 * torch.randn(*shape, generator=random)).clamp(-1, 1)


def make_batch(spec: DataSpec, size: int = 4, seed: int = 0, *, corrupted: bool = False) -> Batch:
    """Return random samples of different lengths whose target can be read off every modality.

    The longest sample of each modality is as long as the spec says. In corrupted batches some steps are zero.
    """
    random = torch.Generator().manual_seed(seed)
    shape = (size, UTTERANCES) if spec.dialogue else (size,)
    latent = torch.randn(*shape, 3, generator=random)
    shared = torch.randint(1, UTTERANCES + 1, (size,), generator=random)
    inputs, kept = {}, {}
    for name, modality in spec.modalities.items():
        longest = modality.max_length
        shortest = SHORTEST.get(modality.kind, 1)
        lengths = shared.clone() if spec.aligned else torch.randint(shortest, longest + 1, (size,), generator=random)
        lengths[0] = longest
        if modality.kind in SHORTEST:
            values = _medium(modality, latent, random)
        else:
            values = 0.3 * torch.randn(size, longest, modality.dim, generator=random)
            values[..., :3] += latent if spec.dialogue else latent[:, None]
        sequence = PaddedSequence(values, lengths)
        sequence.values *= over(sequence.mask, values)
        survived = torch.rand(size, longest, generator=random) > 0.4
        inputs[name], kept[name] = sequence, survived & sequence.mask
    target = _target(spec.target.kind, latent)
    index = torch.arange(target[..., 0].numel() if target.dim() > len(shape) else target.numel()).reshape(shape)
    batch = Batch(inputs, target, index)
    if spec.dialogue:
        shared[0] = UTTERANCES
        batch.target_mask = torch.arange(UTTERANCES) < shared[:, None]
        batch.speaker = torch.randint(0, 2, shape, generator=random) * batch.target_mask
    if corrupted:
        batch.complete, batch.kept = inputs, kept
        batch.inputs = {
            name: PaddedSequence(item.values * over(kept[name], item.values), item.lengths)
            for name, item in inputs.items()
        }
    return batch


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


def write_toy_store(path: Path, spec: DataSpec, train: int = 32, held_out: int = 8) -> Path:
    """Write a store of samples as :func:`make_batch` draws them: ``train`` training ones, valid, test."""
    samples = []
    kinds = {m: modality.kind for m, modality in spec.modalities.items() if modality.kind in SHORTEST}
    for split, size, seed in (("train", train, 0), ("valid", held_out, 1), ("test", held_out, 2)):
        batch = make_batch(spec, size, seed)
        if spec.dialogue:
            assert batch.speaker is not None
        for row in range(size):
            mask = batch.target_mask
            utterances = (None,) if mask is None else range(int(mask[row].sum()))
            for step in utterances:
                at = row if step is None else (row, step)
                inputs = {
                    m: item.values[row, : item.lengths[row]].numpy() if step is None else item.values[at][None].numpy()
                    for m, item in batch.inputs.items()
                }
                inputs |= {m: (inputs[m] * 32767).astype(np.int16) for m in kinds if kinds[m] == "waveform"}
                name = f"{split}-{row}" if step is None else f"{split}-{row}[{step}]"
                speaker = "" if batch.speaker is None else f"role{int(batch.speaker[at])}"
                samples.append(Sample(name, inputs, batch.target[at].numpy(), split, f"{split}-{row}", speaker))
    rates = {m: spec.modalities[m].rate for m in kinds}
    info = StoreInfo(spec.dataset, spec.feature_set, spec.target, kinds=kinds, rates=rates, aligned=spec.aligned)
    write_store(path, info, samples)
    return path
