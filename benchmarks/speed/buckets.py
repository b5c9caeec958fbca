"""What batches of similar length (``bucketed=True``) gain per training epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from benchmarks.speed.loops import fitted, optimizer_of, train
from benchmarks.speed.measure import Row, Setting, in_turn
from benchmarks.speed.mosi import BATCH
from mmbench.methods import method


def measure(setting: Setting) -> list[Row]:
    """Compare epochs on some of the samples; among all of them there are closer lengths to share a batch."""
    return [_compare(setting, key, getattr(setting.sizes, key)) for key in ("late_fusion", "mult")]


def _compare(setting: Setting, key: str, limit: int) -> Row:
    def epochs(bucketed: bool) -> Callable[[], None]:
        data = fitted(setting, batch_size=BATCH, limit=limit, bucketed=bucketed)
        model = method(key)(data.spec).to(setting.device)
        optimizer, loader, epoch = optimizer_of(model), data.train_dataloader(), itertools.count()

        def run() -> None:
            loader.set_epoch(next(epoch))
            train(model, optimizer, loader)

        return run

    times = in_turn(epochs(bucketed=True), epochs(bucketed=False), setting.sizes.slow, setting.device)
    samples = min(setting.sizes.samples["train"], limit)
    return times.faster(
        f"{key}, bucketed beside random order ({samples} samples)", setting.device, samples, "samples/s"
    )
