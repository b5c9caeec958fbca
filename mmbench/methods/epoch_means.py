"""Means over the samples of an epoch."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor


class EpochMeans:
    """Means of named values over the samples of an epoch, computed only when somebody asks."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the values."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, total: Tensor, count: int) -> None:
        """Add the sum of a value over some samples, and how many these are."""
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """Return the mean of every value so far: over the samples of all processes, which must ask together."""
        found = {name: (float(total), self._counts[name]) for name, total in self._sums.items()}
        if not (dist.is_available() and dist.is_initialized()):
            return {name: total / count for name, (total, count) in found.items()}
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, found)
        names = dict.fromkeys(name for one in every for name in one)
        parts = {name: [one[name] for one in every if name in one] for name in names}
        return {name: sum(total for total, _ in part) / sum(count for _, count in part) for name, part in parts.items()}
