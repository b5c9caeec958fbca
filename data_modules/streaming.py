"""Batches of raw media: read from the store when they are needed, by worker processes, never the whole split.

The orders are those of :class:`data_modules.loading.BatchLoader`; only where a batch comes from differs. What is in
memory at a time is a few batches, however many clips there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_modules.loading import BatchLoader, ResidentSplit
from data_modules.schema import Batch

MOST_WORKERS = 4


def automatic_workers() -> int:
    """Return how many processes read media when nobody says: one per core beside the one that trains, four at most."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)) - 1)


@dataclass(eq=False)
class StreamedSplit:
    """One split on disk.

    Attributes:
        rows: ``(N,)`` rows in the store.
        sizes: ``(N,)`` steps of each sample over all modalities.
        load: Reads rows of the store into memory.
    """

    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    load: Callable[[npt.NDArray[np.int64]], ResidentSplit]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def batch(self, rows: Tensor, stage: int = 0) -> Batch:
        """Return the batch of some samples.

        Args:
            rows: ``(B,)`` which samples of this split, on the CPU.
            stage: Training stage that the batch belongs to.
        """
        return self.load(self.rows[rows.numpy()]).batch(torch.arange(len(rows)), stage)


@dataclass(eq=False)
class _Planned(Dataset[Batch]):
    """The batches of an epoch by their number."""

    split: StreamedSplit
    plan: list[tuple[Tensor, int]]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        return self.split.batch(*self.plan[number])


class StreamedLoader(BatchLoader):
    """An epoch of batches that worker processes read ahead.

    Args:
        split: The samples.
        batch_size: Samples per batch; the last batch may be smaller.
        workers: Reading processes; with 0 the training process reads.
        options: Further arguments of :class:`data_modules.loading.BatchLoader`.
    """

    def __init__(self, split: StreamedSplit, batch_size: int, *, workers: int, **options: Any) -> None:
        super().__init__(split, batch_size, **options)
        self.streamed, self.workers = split, workers

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, in order."""
        planned = _Planned(self.streamed, list(self.plan()))
        # A generator of its own: the loader must not draw from the one that seeds the training.
        yield from DataLoader(
            planned, batch_size=None, shuffle=False, num_workers=self.workers, generator=torch.Generator()
        )
