"""Peak memory of an epoch over raw clips, beside that of an epoch over a quarter as many.

The epoch runs in a process of its own, which this module is as a script: ``STORE``. The process reads by itself, so
that all that is read is in the memory that is counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.speed.import_memory import grown_by
from benchmarks.speed.measure import MB, Row, Setting, Times
from benchmarks.speed.process import run_python
from data_modules import FusionDataModule
from data_modules.datasets.synthetic.clips import write_clips
from mmbench.runner.cost import STATUS

TIMES = 4
BATCH = 16


def epoch(store: Path) -> None:
    """Read every training clip of a store once."""
    data = FusionDataModule(store, batch_size=BATCH, workers=0)
    data.setup("fit")
    for _ in data.train_dataloader():
        pass


def measure(setting: Setting) -> list[Row]:
    """Read a set of generated clips and one four times as large, in turn."""
    if not STATUS.exists():  # only Linux tells a process its peak
        return []
    stores = []
    for count in (TIMES * setting.sizes.clips, setting.sizes.clips):
        stores.append(setting.folder / f"clips{count}.h5")
        write_clips(stores[-1], clips=(count, 1, 1))
    grown = Times()
    for _ in range(setting.sizes.slow):
        for store, found in zip(stores, (grown.ours, grown.reference), strict=True):
            found.append(int(run_python(["-m", __spec__.name, str(store)], setting.environment)) / MB)
    large, small = TIMES * setting.sizes.clips, setting.sizes.clips
    return [grown.dearer(f"epoch over {large} raw clips, peak memory beside {small}", "cpu", 1.25, "MB")]


if __name__ == "__main__":
    print(json.dumps(grown_by(lambda: epoch(Path(sys.argv[1])))))
