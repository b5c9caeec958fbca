"""Measure speed and memory: ``python -m benchmarks.speed [--only NAME,...] [--quick]``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.speed import attention, buckets, data_path, import_memory, methods, streaming_memory, training_epoch
from benchmarks.speed.measure import FULL, QUICK, Row, Setting, Sizes
from benchmarks.speed.mosi import write_mosi_like
from benchmarks.speed.table import RESULTS, show, write
from mmbench.runner.trial import quiet

MEASUREMENTS: dict[str, Callable[[Setting], list[Row]]] = {
    "data_path": data_path.measure,
    "buckets": buckets.measure,
    "training_epoch": training_epoch.measure,
    "attention": attention.measure,
    "import_memory": import_memory.measure,
    "streaming_memory": streaming_memory.measure,
    "methods": methods.measure,
}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def run(names: list[str], sizes: Sizes, console: Console) -> list[Row]:
    """Return the rows of some measurements, on every device that there is."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        store = Path(folder) / "mosi_like.h5"
        write_mosi_like(store, dict(sizes.samples))
        for name in names:
            for device in ("cpu",) if name.endswith("_memory") else DEVICES:
                console.print(f"measuring {name} on {device}", style="dim")
                rows += MEASUREMENTS[name](Setting(store, Path(folder), sizes, device))
    return rows


def main() -> None:
    """Measure, print, and write what a full run found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Measure speed and memory.")
    parser.add_argument("--only", help=f"measurements, separated by commas: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(MEASUREMENTS)
    if unknown := sorted(set(names) - set(MEASUREMENTS)):
        parser.error(f"there is no measurement {', '.join(unknown)}; there are: {', '.join(MEASUREMENTS)}")
    console = Console()
    rows = run(names, QUICK if arguments.quick else FULL, console)
    show(rows, console)
    if arguments.quick or arguments.only:
        console.print(f"Not written: {RESULTS.name} holds full runs only.")
    else:
        console.print(f"Written to {write(rows)} and the JSON file beside it.")


if __name__ == "__main__":
    main()
