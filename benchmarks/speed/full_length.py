"""A training step of ``mult`` on a batch in which one sample has the padded length, beside explicit attention.

One long sample among short ones is what a batch in random order meets; the padding that it brings costs time and memory
where padding is computed. Each form runs in processes of its own, which this module is as a script: ``STORE FORM``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from benchmarks.speed.attention import explicit, full_length
from benchmarks.speed.import_memory import grown_by
from benchmarks.speed.loops import fitted, optimizer_of, train
from benchmarks.speed.measure import MB, QUICK, Row, Setting, Times, seconds
from benchmarks.speed.mosi import BATCH, STEPS
from benchmarks.speed.process import run_python
from mmbench.methods import method

FORMS = ("ours", "explicit")


def step(store: Path, form: str) -> tuple[float, int | None]:
    """Return the seconds of a step after a first one, and by how many bytes the process grows.

    Args:
        store: Of :func:`benchmarks.speed.mosi.write_mosi_like`, whose first sample has the padded length.
        form: One of ``FORMS``.
    """
    torch.manual_seed(1111)
    data = fitted(Setting(store, store.parent, QUICK), batch_size=BATCH)
    batch = next(batch for batch in data.train_dataloader() if 0 in batch.index)
    model = method("mult")(data.spec)
    if form == "explicit":
        model, batch = explicit(model), full_length(batch, STEPS)
    optimizer, taken = optimizer_of(model), []
    grown = grown_by(lambda: taken.extend(seconds(lambda: train(model, optimizer, [batch])) for _ in range(2)))
    return taken[-1], grown


def measure(setting: Setting) -> list[Row]:
    """Compare both forms, in turn."""
    times, memory = Times(), Times()
    for _ in range(setting.sizes.raw):
        for form, taken, grown in zip(
            FORMS, (times.ours, times.reference), (memory.ours, memory.reference), strict=True
        ):
            said = run_python(["-m", __spec__.name, str(setting.store), form], setting.environment)
            passed, size = json.loads(said.splitlines()[-1])
            taken.append(passed)
            grown.append((size or 0) / MB)
    name = "mult, a batch with one sample of full length, beside explicit attention"
    rows = [times.gain(name, setting.place, 8.0)]
    return [*rows, memory.dearer(f"{name}, peak memory", setting.place, unit="MB")] if min(memory.ours) else rows


if __name__ == "__main__":
    print(json.dumps(step(Path(sys.argv[1]), sys.argv[2])))
