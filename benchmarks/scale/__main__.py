"""Measure scale: ``python -m benchmarks.scale [--methods KEY ...] [--devices N ...] [--quick]``.

Everything is trained by ``mmbench run`` as anybody would, on generated data, with nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from rich.console import Console
from scipy import stats

from benchmarks.speed.table import caption, kind, machine
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.report import build
from mmbench.report.scale import FOLDER, Scale, Shared, Spread
from mmbench.runner.code import code_hash
from mmbench.runner.records import Records
from mmbench.runner.verify import verify

METHODS = ("late_fusion", "mmim", "mult")
PLAN = "lf_dnn"
"""The method of the plans of many trials."""
STORE = "scale.h5"


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        samples: Samples per split.
        epochs: Of every trial.
        seeds: Of every row.
        trials: Of a plan, for each worker.
    """

    samples: tuple[int, int, int] = (640, 160, 320)
    epochs: int = 4
    seeds: tuple[int, ...] = (1111, 1112, 1113)
    trials: int = 12


FULL = Sizes()
QUICK = Sizes((96, 32, 32), epochs=2, seeds=(1111, 1112), trials=1)


def command(folder: Path, name: str, *options: str) -> float:
    """Run ``mmbench run`` and return its seconds; what it leaves is in folders of a name.

    Raises:
        SystemExit: When it fails; what it printed is shown.
    """
    places = ["--store", STORE, "--leaderboard", f"{name}-results", "--runs", f"{name}-runs"]
    threads = {} if torch.cuda.is_available() else {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", "run", *places, *options],
        cwd=folder,
        env={**os.environ, **threads},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(options)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what a run has recorded."""
    return [json.loads(path.read_text()) for path in sorted((folder / f"{name}-results/records").rglob("*.json"))]


def spread(folder: Path, method: str, devices: Sequence[int], sizes: Sizes) -> list[Spread]:
    """Return a method on one and on more devices."""
    rows: list[Spread] = []
    alone: list[float] = []
    for count in devices:
        name = f"{method}-{count}"
        seeds = [str(seed) for seed in sizes.seeds]
        epochs = str(sizes.epochs)
        more = ["--jobs", "1", "--devices", str(count), "--max-epochs", epochs, "--seeds", *seeds]
        command(folder, name, "--method", method, *more)
        found = records(folder, name)
        metric = found[0]["selection"]["metric"]
        scores = [record["test"][metric] for record in found]
        alone = alone or scores
        rate = sizes.samples[0] / median(record["cost"]["seconds_per_epoch"] for record in found)
        low, high = interval(alone, len(scores))
        first = rows[0].samples_per_second if rows else rate
        memory = max((record["cost"]["peak_memory"] or 0 for record in found), default=0) or None
        rows.append(Spread(method, count, rate, rate / first / count, memory, metric, fmean(scores), low, high))
    return rows


def interval(scores: Sequence[float], others: int) -> tuple[float, float]:
    """Return where the mean of other seeds lies with 95 % probability, by Student's t."""
    if len(scores) < 2:
        return float("-inf"), float("inf")
    half = stats.t.ppf(0.975, len(scores) - 1) * stdev(scores) * (1 / len(scores) + 1 / others) ** 0.5
    return fmean(scores) - half, fmean(scores) + half


def shared(folder: Path, slots: int, sizes: Sizes) -> list[Shared]:
    """Return a plan with one and with more workers, and on GPUs with several on each."""
    gpus = torch.cuda.device_count()
    seeds = [str(seed) for seed in range(1, 1 + sizes.trials * slots)]
    asked = [(workers, ["--jobs", str(workers)], 1 if gpus else 0) for workers in range(1, slots + 1)]
    asked += [(gpus * share, ["--per-gpu", str(share)], share) for share in ((2, 4) if gpus else ())]
    rows: list[Shared] = []
    for workers, options, share in asked:
        more = ["--method", PLAN, "--max-epochs", str(sizes.epochs), "--seeds", *seeds]
        seconds = command(folder, f"plan-{workers}-{share}", *more, *options)
        rate = len(seeds) * 3600 / seconds
        rows.append(Shared(workers, share, rate, rate / rows[0].trials_per_hour if rows else 1.0))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table of this kind of machine."""
    places = torch.cuda.device_count() or os.cpu_count() or 1
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="methods that are spread over devices")
    parser.add_argument("--devices", nargs="+", type=int, default=[n for n in (1, 2, 4, 8) if n <= places])
    parser.add_argument("--quick", action="store_true", help="train next to nothing, to see that it works")
    parser.add_argument("--out", type=Path, default=Path("leaderboard"), help="folder of the published tables")
    chosen = parser.parse_args(argv)
    devices = sorted({1, *chosen.devices})
    sizes = QUICK if chosen.quick else FULL
    console = Console()
    rows: list[Spread] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic(folder / STORE, samples=sizes.samples)
        for method in chosen.methods:
            console.print(f"{method} on {', '.join(map(str, devices))} devices", style="dim")
            rows += spread(folder, method, devices, sizes)
        console.print(f"plans of {PLAN} on 1 to {places} workers", style="dim")
        plans = shared(folder, places, sizes)
    about = machine()
    text = (
        f"Generated data of {sizes.samples[0]:,} training samples, {sizes.epochs} epochs, {len(sizes.seeds)} seeds; "
        f"the plans are of {sizes.trials * places} trials of {PLAN}."
    )
    path = chosen.out / FOLDER / f"{kind(about)}.json"
    Scale(caption(about), text, tuple(rows), tuple(plans)).write(path)
    build(chosen.out, None, Records(chosen.out / "records"), code_hash, verify)  # the start page shows it
    console.print(f"{path}, and {chosen.out / 'README.md'}.", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
