"""Batches of raw media: read from the store when they are needed, by worker processes, never the whole split.

The orders are those of :class:`data_modules.batches.loading.BatchLoader`; only where a batch comes from differs. What
is in memory at a time is a few batches, however many clips there are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_modules.batches.loading import BatchLoader, InMemorySplit
from data_modules.schema import Batch, DataError

MOST_WORKERS = 4
WORKERS = "MMBENCH_WORKERS"
"""The variable that says how many processes load media for each one that trains."""


def automatic_workers(trainings: int = 1) -> int:
    """Return how many processes load media: as ``MMBENCH_WORKERS`` says, else one per core but one, four at most.

    Args:
        trainings: Processes that train on this machine at a time, and share its cores.

    Raises:
        DataError: When the variable is no number.
    """
    if (given := os.environ.get(WORKERS, "").strip()) and not given.isdecimal():
        raise DataError(f"{WORKERS} is {given!r}: give how many processes shall load media, 0 for none.")
    if given:
        return int(given)
    # Which cores a process may use is not known everywhere; macOS does not say.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST_WORKERS, cores // trainings - 1))


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block; processes that start within it never see one.

    It goes to the workers too. One that dies of it makes the trial look failed, and while a process forks Python may
    swallow that of the parent.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(eq=False)
class StreamedSplit:
    """One split on disk.

    Attributes:
        rows: ``(N,)`` rows in the store.
        sizes: ``(N,)`` steps of each sample over all modalities.
        load: Reads rows of the store into memory; it goes to the workers, by a pickle where they are not forked.
    """

    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    load: Callable[[npt.NDArray[np.int64]], InMemorySplit]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def batch(self, rows: Tensor, phase: str = "") -> Batch:
        """Return the batch of some samples.

        Args:
            rows: ``(B,)`` which samples of this split, on the CPU.
            phase: Name of the phase that the batch is for.
        """
        return self.load(self.rows[rows.numpy()]).batch(torch.arange(len(rows)), phase)


@dataclass(eq=False)
class _Planned(Dataset[Batch | DataError]):
    """The batches of an epoch by their number, or why there is none.

    The reason is returned: what a worker raises arrives as the text of a traceback, with the folders of this machine.
    """

    split: StreamedSplit
    plan: list[tuple[Tensor, str]]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch | DataError:
        try:
            return self.split.batch(*self.plan[number])
        except DataError as error:
            return error


class StreamedLoader(BatchLoader):
    """An epoch of batches that worker processes read ahead.

    Args:
        split: The samples.
        batch_size: Samples per batch; the last batch may be smaller.
        workers: Reading processes; with 0 the training process reads, and also where it may not start any (a daemon).
        options: Further arguments of :class:`data_modules.batches.loading.BatchLoader`.
    """

    def __init__(self, split: StreamedSplit, batch_size: int, *, workers: int, **options: Any) -> None:
        super().__init__(split, batch_size, **options)
        self.streamed, self.workers = split, workers

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, in order.

        Raises:
            DataError: When the store cannot be read any more.
        """
        planned = _Planned(self.streamed, list(self.plan()))
        workers = 0 if multiprocessing.current_process().daemon else self.workers
        # A generator of its own: the loader must not draw from the one that seeds the training.
        generator = torch.Generator()
        # A process that was started afresh itself would start its workers afresh too, which takes seconds every time.
        context = "fork" if workers and sys.platform == "linux" else None
        loader = DataLoader(
            planned, batch_size=None, num_workers=workers, generator=generator, multiprocessing_context=context
        )
        with _ctrl_c_later():
            batches = iter(loader)
        ahead = next(batches, None)
        while ahead is not None:
            # The last batch is handed out when the workers have ended. They would live on for as long as somebody holds
            # this iterator, and end when it is collected, where Python swallows a Ctrl-C.
            batch, ahead = ahead, next(batches, None)
            if isinstance(batch, DataError):
                raise batch
            yield batch
