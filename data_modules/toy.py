"""Small random data of any form, for examples and tests: specs, batches and stores.

Values are drawn from a generator of their own, so that the same call gives the same data in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
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
    dataset: str = "toy",
    feature_set: str = "random",
) -> DataSpec:
    """Return a spec of small dimensions.

    Args:
        kind: What is predicted.
        modalities: What there is to read.
        steps: Length of every modality; 0 for different ones.
        dialogue: Whether a batch element is a dialogue; its utterances are single vectors.
        kinds: Which modalities are frames or a waveform; the others are features.
        dataset: Key of the data set.
        feature_set: Name of the feature set.

    Example:
        >>> from data_modules.toy import make_spec
        >>> spec = make_spec("multiclass", ("text", "audio"))
        >>> spec.track, spec.dims, spec.target.names
        ('toy/random/standard', {'text': 7, 'audio': 5}, ('angry', 'happy', 'sad'))
    """
    lengths = dict.fromkeys(MODALITIES, UTTERANCES) if dialogue else {m: steps or STEPS[m] for m in MODALITIES}
    return DataSpec(
        dataset=dataset,
        feature_set=feature_set,
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


def make_batch(spec: DataSpec, size: int = 4, seed: int = 0, *, corrupted: bool = False, phase: str = "") -> Batch:
    """Return random samples of different lengths whose target can be read off every modality.

    The longest sample of each modality is as long as the spec says.

    Args:
        spec: The data.
        size: Number of samples.
        seed: Decides every value.
        corrupted: Whether some steps are zero, as if they were missing; the batch then also has the complete view.
        phase: Name of the phase of training that the batch is for.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> batch = make_batch(make_spec("multiclass"), size=2)
        >>> {name: tuple(sequence.values.shape) for name, sequence in batch.inputs.items()}
        {'text': (2, 6, 7), 'audio': (2, 9, 5), 'vision': (2, 8, 6)}
        >>> batch.inputs["audio"].mask.sum(1).tolist() == batch.inputs["audio"].lengths.tolist()
        True
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
    batch = Batch(inputs, target, index, phase=phase)
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


@contextmanager
def toy_store(spec: DataSpec, train: int = 8, held_out: int = 4) -> Iterator[Path]:
    """Give a small store in a folder of its own, which is gone after the block.

    Args:
        spec: The data.
        train: Number of training samples.
        held_out: Number of validation samples, and of test samples.

    Example:
        >>> from data_modules import FeatureStore
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec(dataset="mosi")) as path:
        ...     store = FeatureStore(path)
        ...     print(store.dataset, len(store.ids), path.exists())
        mosi 16 True
        >>> path.exists()
        False
    """
    with TemporaryDirectory() as folder:
        yield write_toy_store(Path(folder, "toy.h5"), spec, train, held_out)
