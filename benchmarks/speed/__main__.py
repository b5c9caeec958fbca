"""Measure speed and memory: ``python -m benchmarks.speed [--only NAME,...] [--methods KEY,...] [--quick]``.

What was measured is in the table at once, in the place of what it had before, so that a run which fails keeps the rest.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.speed import (
    attention,
    buckets,
    data_path,
    full_length,
    import_memory,
    methods,
    peer,
    streaming_memory,
    training_epoch,
)
from benchmarks.speed.measure import FULL, QUICK, Row, Setting, Sizes
from benchmarks.speed.mosi import write_mosi_like
from benchmarks.speed.table import RESULTS, merged, show, stored, write
from mmbench.methods import methods as all_methods
from mmbench.runner.training import quiet


def _at_once(measure: Callable[[Setting], list[Row]]) -> Callable[[Setting], Iterable[list[Row]]]:
    return lambda setting: [measure(setting)]


MEASUREMENTS: dict[str, Callable[[Setting], Iterable[list[Row]]]] = {
    "data_path": _at_once(data_path.measure),
    "buckets": _at_once(buckets.measure),
    "training_epoch": _at_once(training_epoch.measure),
    "attention": _at_once(attention.measure),
    "full_length": _at_once(full_length.measure),
    "import_memory": _at_once(import_memory.measure),
    "streaming_memory": _at_once(streaming_memory.measure),
    "methods": methods.measure,
    "peer": peer.measure,
}
"""By name what is measured; the rows come in groups that belong together."""
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
THREADS = (1, 2)
"""With how many threads each method is measured on a CPU."""


def run(
    names: list[str], sizes: Sizes, console: Console, keys: tuple[str, ...], keep: Callable[[list[Row]], object]
) -> list[Row]:
    """Return the rows of some measurements, on every device that there is.

    Args:
        names: The measurements.
        sizes: How much is measured.
        console: Says what is measured.
        keys: The methods that are measured; all of them when there are none.
        keep: Called with all rows so far, whenever there are more.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        store = Path(folder) / "mosi_like.h5"
        write_mosi_like(store, dict(sizes.samples))
        for name in names:
            for device, threads in places(name):
                setting = Setting(store, Path(folder), sizes, device, keys, threads)
                console.print(f"measuring {name} on {setting.place}", style="dim")
                for found in MEASUREMENTS[name](setting):
                    rows += found
                    keep(rows)
    return rows


def places(name: str) -> list[tuple[str, int]]:
    """Return the devices of a measurement, each with its number of threads, 0 for as many as PyTorch takes."""
    on_cpu = [("cpu", threads) for threads in THREADS] if name in ("methods", "peer", "full_length") else [("cpu", 0)]
    if name == "full_length" or name.endswith("_memory"):
        return on_cpu
    return on_cpu + [(device, 0) for device in DEVICES if device != "cpu"]


def main() -> None:
    """Measure, print, and write what a full run found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description="Measure speed and memory.")
    parser.add_argument("--only", help=f"measurements, separated by commas: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--methods", help="of the measurement `methods` only these, separated by commas")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(MEASUREMENTS)
    if unknown := sorted(set(names) - set(MEASUREMENTS)):
        parser.error(f"there is no measurement {', '.join(unknown)}; there are: {', '.join(MEASUREMENTS)}")
    keys = tuple(arguments.methods.split(",")) if arguments.methods else ()
    if unknown := sorted(set(keys) - set(all_methods())):
        parser.error(f"there is no method {', '.join(unknown)}; there are: {', '.join(all_methods())}")
    console, old = Console(), stored()
    if arguments.quick:
        show(run(names, QUICK, console, keys, keep=lambda rows: None), console)
        console.print(f"Not written: {RESULTS.name} holds full sizes only.")
        return
    rows = run(names, FULL, console, keys, keep=lambda rows: write(merged(old, rows)))
    show(rows, console)
    # A complete run also forgets what is not measured any more.
    path = write(merged(old, rows) if arguments.only or keys else rows)
    console.print(f"Written to {path} and the JSON file beside it.")


if __name__ == "__main__":
    main()
