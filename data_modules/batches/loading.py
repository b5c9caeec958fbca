"""From a split held in memory to padded batches, without per-sample Python and without worker processes.

A split keeps each modality as one flat tensor of steps. A batch is one vectorised gather per modality, trimmed to its
longest sample. The order of a phase is a function of (seed, epoch, phase), so a resumed run sees the same batches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, PaddedSequence

Array = npt.NDArray[np.int64]
NUMBERED = re.compile(r"[\W_]+(\d{1,15})[\W_]*")
"""What follows a group's name in the name of a numbered clip."""


@dataclass(eq=False)
class PackedSequences:
    """Sequences of different lengths, end to end.

    Which rows make a batch is worked out by numpy on the CPU: so small a job costs more in calls than in work, and
    finding the longest never waits for the device.

    Attributes:
        values: ``(sum T + 1, ...)`` steps; the last row is the zero step that pads.
        starts: ``(N,)`` first row of each sequence.
        lengths: ``(N,)`` steps of each sequence.
    """

    values: Tensor
    starts: Array
    lengths: Array

    @classmethod
    def of(cls, values: Tensor, offsets: Tensor) -> PackedSequences:
        """Build from ``(sum T, ...)`` values and ``(N + 1,)`` offsets, both on the CPU."""
        padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return cls(padded, offsets[:-1].numpy(), offsets.diff().numpy())

    def to(self, device: torch.device | str) -> PackedSequences:
        """Return the sequences with their values on a device."""
        return replace(self, values=self.values.to(device))

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, T, ...)`` values, zero beyond the lengths, and ``(B,)`` lengths.

        Args:
            rows: ``(B,)`` which sequences, on the CPU.
        """
        chosen, device = rows.numpy(), self.values.device
        lengths = self.lengths[chosen]
        steps = np.arange(lengths.max())
        where = self.starts[chosen, None] + steps
        where[steps >= lengths[:, None]] = len(self.values) - 1
        if device.type == "cpu" and torch.get_num_threads() == 1:
            # numpy's copy is the faster one in a single thread; "clip" clips nothing here and spares a check.
            return torch.from_numpy(self.values.numpy().take(where, axis=0, mode="clip")), torch.from_numpy(lengths)
        values = self.values.index_select(0, torch.from_numpy(where.reshape(-1)).to(device))
        return values.view(*where.shape, *self.values.shape[1:]), torch.from_numpy(lengths).to(device)


@dataclass(eq=False)
class InMemorySplit:
    """One split in memory.

    Attributes:
        inputs: The modalities as the model may see them.
        target: ``(N,)`` or ``(N, C)``.
        index: ``(N,)`` rows in the store.
        complete: The uncorrupted modalities, when the inputs are corrupted.
        kept: By modality the steps that survived the corruption.
        dialogues: For dialogue batches the utterances of each dialogue, as rows of this split.
        speaker: ``(N,)`` speaker role of each utterance, dialogues only.
    """

    inputs: dict[str, PackedSequences]
    target: Tensor
    index: Tensor
    complete: dict[str, PackedSequences] | None = None
    kept: dict[str, PackedSequences] | None = None
    dialogues: PackedSequences | None = None
    speaker: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of batch elements."""
        return len(self.dialogues.lengths) if self.dialogues is not None else len(self.host_index)

    def __post_init__(self) -> None:
        """Remember the rows on the CPU, where batches are planned."""
        self.host_index = self.index.cpu()

    def to(self, device: torch.device | str) -> InMemorySplit:
        """Return the split on a device."""

        def move(group: dict[str, PackedSequences] | None) -> dict[str, PackedSequences] | None:
            return None if group is None else {name: item.to(device) for name, item in group.items()}

        return replace(
            self,
            inputs={name: item.to(device) for name, item in self.inputs.items()},
            target=self.target.to(device),
            index=self.index.to(device),
            complete=move(self.complete),
            kept=move(self.kept),
            speaker=None if self.speaker is None else self.speaker.to(device),
        )

    @property
    def sizes(self) -> Array:
        """``(N,)`` steps of each batch element over all modalities; what length buckets sort by."""
        if self.dialogues is not None:
            return self.dialogues.lengths
        return np.sum([item.lengths for item in self.inputs.values()], axis=0)

    def batch(self, rows: Tensor, phase: str = "") -> Batch:
        """Return the batch of some elements.

        Args:
            rows: ``(B,)`` which elements of this split, on the CPU.
            phase: Name of the phase that the batch is for.
        """
        if self.dialogues is None:
            return self._samples(rows, phase)
        utterances, lengths = self.dialogues.gather(rows)
        real = torch.arange(utterances.shape[1]) < lengths[:, None]
        return self._fold(self._samples(utterances[real], phase), utterances[real], real)

    def _samples(self, rows: Tensor, phase: str) -> Batch:
        def gather(group: dict[str, PackedSequences]) -> dict[str, PaddedSequence]:
            return {name: PaddedSequence(*item.gather(rows)) for name, item in group.items()}

        where = rows.to(self.index.device)
        return Batch(
            inputs=gather(self.inputs),
            target=self.target[where],
            index=self.index[where],
            complete=None if self.complete is None else gather(self.complete),
            kept=None if self.kept is None else {name: item.gather(rows)[0] for name, item in self.kept.items()},
            phase=phase,
        )

    def _fold(self, flat: Batch, rows: Tensor, real: Tensor) -> Batch:
        """Turn a batch of utterances, of one step or of tokens, into dialogues ``(B, utterances, ...)``."""
        mask = real.to(self.index.device)

        def fold(values: Tensor) -> Tensor:
            out = values.new_zeros(*mask.shape, *values.shape[1:])
            out[mask] = values
            return out

        tokens = {name for name, item in flat.inputs.items() if item.values.dim() == 2}

        def utterances(group: dict[str, PaddedSequence]) -> dict[str, PaddedSequence]:
            return {
                name: PaddedSequence(fold(item.values), mask.sum(1), fold(item.lengths))
                if name in tokens
                else PaddedSequence(fold(item.values[:, 0]), mask.sum(1))
                for name, item in group.items()
            }

        def survivors(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: fold(item if name in tokens else item[:, 0]) for name, item in group.items()}

        return Batch(
            inputs=utterances(flat.inputs),
            target=fold(flat.target),
            index=fold(flat.index),
            complete=None if flat.complete is None else utterances(flat.complete),
            kept=None if flat.kept is None else survivors(flat.kept),
            speaker=None if self.speaker is None else fold(self.speaker[rows.to(self.index.device)]),
            target_mask=mask,
            phase=flat.phase,
        )


def clip_numbers(groups: npt.NDArray[np.object_], ids: npt.NDArray[np.object_]) -> Array:
    """Return ``(N,)`` the place of each sample within its group, as far as names tell it.

    Where every name in a group is that of the group and a number, such as ``video_12`` or ``video[12]``, the number is
    the place: files often list ``video_10`` before ``video_2``. In other groups all places are equal.

    Args:
        groups: ``(N,)`` names of the groups.
        ids: ``(N,)`` names of the samples.
    """
    found = [NUMBERED.fullmatch(name.removeprefix(group)) for group, name in zip(groups, ids, strict=True)]
    unclear = {group for group, match in zip(groups, found, strict=True) if match is None}
    matches = zip(groups, found, strict=True)
    return np.array([int(match[1]) if match and group not in unclear else 0 for group, match in matches], np.int64)


class Split(Protocol):
    """The samples of one split, wherever they are."""

    @property
    def sizes(self) -> Array:
        """``(N,)`` steps of each batch element over all modalities."""

    def __len__(self) -> int:
        """Return the number of batch elements."""

    def batch(self, rows: Tensor, phase: str = "") -> Batch:
        """Return the batch of some elements, named by their ``(B,)`` rows of this split, on the CPU."""


class BatchLoader:
    """An epoch of batches.

    Args:
        split: The samples.
        batch_size: Elements per batch; the last batch may be smaller.
        shuffle: Whether the order changes with the epoch.
        seed: Decides the orders.
        phases: What the epoch is made of, in order; batches that are not shuffled belong to none.
        bucketed: Whether samples of similar length share a batch (batches stay in random order).
        rank: Which share of the samples this process takes.
        world: Number of processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        phases: tuple[Phase, ...] = (Phase(""),),
        bucketed: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.split, self.batch_size, self.shuffle, self.seed = split, batch_size, shuffle, seed
        self.phases, self.bucketed, self.rank, self.world = phases, bucketed, rank, world
        self.epoch = 0
        self.batch_sampler = None  # Lightning looks for it wherever there is a sampler

    @property
    def sampler(self) -> BatchLoader:
        """The object that Lightning tells the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch."""
        self.epoch = epoch

    def _batches(self, part: float) -> int:
        count = len(self.split)
        own = -(-count // self.world) if self.shuffle else len(range(self.rank, count, self.world))
        return math.ceil(math.ceil(own / self.batch_size) * part)

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return sum(self._batches(phase.fraction) for _, phase in self._active())

    def _active(self) -> list[tuple[int, Phase]]:
        """Return the phases that go through the samples in this epoch, and their numbers, which decide their orders."""
        return [(n, item) for n, item in enumerate(self.phases) if not item.same_batch and item.active(self.epoch)]

    def _order(self, number: int) -> Tensor:
        """Return this process's rows for the phase of a number, in order.

        While training every process gets the same number of samples (the order wraps around); while evaluating no
        sample is seen twice.
        """
        count = len(self.split)
        if not self.shuffle:
            return torch.arange(self.rank, count, self.world)
        random = np.random.default_rng([self.seed, self.epoch, number])
        order = random.permutation(count)
        if self.bucketed:
            order = self._bucketed(order, random)
        order = np.resize(order, -(-count // self.world) * self.world)
        return torch.from_numpy(order[self.rank :: self.world].copy())

    def _bucketed(self, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Fill batches with samples of similar length, in random order of the batches."""
        by_length = order[np.argsort(self.split.sizes[order], kind="stable")]
        size = self.batch_size * self.world
        full = len(order) // size * size
        batches = random.permutation(by_length[:full].reshape(-1, size)) if full else by_length[:0]
        return np.concatenate([batches.reshape(-1), by_length[full:]])

    def plan(self) -> Iterator[tuple[Tensor, str]]:
        """Yield the rows of every batch of the epoch and the name of its phase, phase by phase."""
        for number, phase in self._active():
            rows = self._order(number).split(self.batch_size)
            for chunk in rows[: self._batches(phase.fraction)]:  # a process without samples has no batch
                yield chunk, phase.name if self.shuffle else ""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, in order."""
        for rows, phase in self.plan():
            yield self.split.batch(rows, phase)
