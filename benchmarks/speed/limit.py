"""The least time of a training: that of its matrix products over real steps, at the speed of a large product.

Products are counted while samples pass one by one, so that there is no padding to count. What is not a product, such as
norms, activations, dropout, and Adam, is not counted: no training reaches its limit.
"""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.measure import seconds
from mmbench.runner.cost import product_counter

SIZE = 1536
"""Rows and columns of the product that is timed."""


class Counter(pl.Callback):
    """Counts the products of the last epoch of a training.

    Attributes:
        operations: Multiplications and additions.
    """

    def __init__(self) -> None:
        self.operations = 0
        self._mode: FlopCounterMode | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; what was counted of the epoch before is forgotten."""
        self._mode = product_counter()
        self._mode.__enter__()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop counting."""
        assert self._mode is not None
        self._mode.__exit__(None, None, None)
        self.operations = self._mode.get_total_flops()


def products_per_second(device: str, repetitions: int = 5) -> float:
    """Return multiplications and additions per second of a large product in single precision, the best of several."""
    left, right = torch.randn(2, SIZE, SIZE, device=device)
    left @ right
    best = min(seconds(lambda: left @ right, device) for _ in range(repetitions))
    return 2 * SIZE**3 / best
