"""Means over the samples of an epoch."""

from __future__ import annotations

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
        """Return the mean of every value so far."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}
