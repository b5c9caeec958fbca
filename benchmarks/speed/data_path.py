"""Samples per second on their way to the model: resident splits beside a loader of per-sample dictionaries.

The reference is the field's usual loader, as MMSA's: the file's padded arrays in memory, a data set that returns a
dictionary of tensors per sample, the default collation, four workers that start anew every epoch.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.loops import fitted
from benchmarks.speed.measure import Row, Setting, in_turn
from benchmarks.speed.mosi import BATCH, STEPS
from data_modules.batches.loading import InMemorySplit, PackedSequences


class PaddedSamples(Dataset[dict[str, Any]]):
    """A split as arrays of full length, read sample by sample."""

    def __init__(self, split: InMemorySplit) -> None:
        self.arrays = {name: padded(item, STEPS[name]) for name, item in split.inputs.items()}
        self.lengths = {name: item.lengths for name, item in split.inputs.items()}
        self.labels, self.rows = split.target.cpu().numpy(), split.host_index.numpy()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return one sample."""
        return {
            # No copy: the fastest form of what the field writes as torch.Tensor(self.text[row]).
            **{name: torch.from_numpy(array[row]) for name, array in self.arrays.items()},
            **{f"{name}_lengths": int(lengths[row]) for name, lengths in self.lengths.items()},
            "label": torch.from_numpy(self.labels[row : row + 1]),
            "index": int(self.rows[row]),
        }


def padded(sequences: PackedSequences, steps: int) -> npt.NDArray[np.float32]:
    """Return ``(N, steps, D)`` with zeros after each sequence."""
    values, lengths = sequences.gather(torch.arange(len(sequences.lengths)))
    out = np.zeros((len(lengths), steps, values.shape[2]), np.float32)
    out[:, : values.shape[1]] = values.cpu().numpy()
    return out


def read(batches: Iterable[dict[str, Tensor]], device: str) -> None:
    """Go through an epoch of the reference, each batch moved to the device as the field's loops do."""
    for batch in batches:
        for value in batch.values():
            value.to(device)


def measure(setting: Setting) -> list[Row]:
    """Compare with four workers, with four that stay alive, and with none."""
    data = fitted(setting, batch_size=BATCH)
    loader = data.train_dataloader()
    samples = PaddedSamples(loader.split)
    epoch = itertools.count()

    def ours() -> None:
        loader.set_epoch(next(epoch))
        for _ in loader:
            pass

    rows = []
    for text, workers, stay, required in (
        ("4 workers", 4, False, 10.0),
        ("4 lasting workers", 4, True, None),
        ("no workers", 0, False, 2.0),
    ):
        with warnings.catch_warnings():
            # Four workers are what the field starts, on machines with fewer cores too.
            warnings.filterwarnings("ignore", message=".*suggested max number of worker.*")
            theirs = DataLoader(samples, BATCH, shuffle=True, num_workers=workers, persistent_workers=stay)
            times = in_turn(ours, partial(read, theirs, setting.device), setting.sizes.quick, setting.device)
        name = f"loader, beside DataLoader with {text}"
        rows.append(times.faster(name, setting.device, len(samples), "samples/s", required))
    return rows
