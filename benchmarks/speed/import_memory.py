"""Peak memory of importing a store, beside the size of the source file.

The import runs in a process of its own, which this module is as a script: ``SOURCE OUT``. Counted is what the process
grows by after its imports. The system's figure for finished children is not used, because on Linux it starts from the
memory of the parent that forked them.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.speed.measure import MB, Row, Setting, Times
from benchmarks.speed.mosi import DIMS, STEPS, lengths
from benchmarks.speed.process import run_python
from data_modules.formats import import_store, importers
from mmbench.runner.cost import STATUS, peak_memory, reset_peak_memory


def samples_in(size: int) -> dict[str, int]:
    """Return about how many samples per split a file of so many bytes has."""
    each = sum(STEPS[name] * dim for name, dim in DIMS.items()) * np.dtype(np.float32).itemsize
    return {
        name: max(1, round(share * size / each)) for name, share in {"train": 0.6, "valid": 0.1, "test": 0.3}.items()
    }


def write_mmsa(path: Path, samples: Mapping[str, int], seed: int = 1111) -> None:
    """Write random features and tokens in the layout of MMSA's ``unaligned_50.pkl``.

    Args:
        path: The pickle.
        samples: Samples per split.
        seed: Decides every value.
    """
    random = np.random.default_rng(seed)
    content = {split: _part(split, count, random) for split, count in samples.items()}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def _part(split: str, count: int, random: np.random.Generator) -> dict[str, object]:
    steps = lengths(count, random)
    part: dict[str, object] = {
        "raw_text": np.array(["some words"] * count),
        "id": np.array([f"{split}{row // 10}$_${row % 10}" for row in range(count)]),
        "regression_labels": random.uniform(-3, 3, count).astype(np.float32),
    }
    for name, dim in DIMS.items():
        values = random.standard_normal((count, STEPS[name], dim), np.float32)
        values[np.arange(STEPS[name]) >= steps[name][:, None]] = 0
        part[name] = values
        if name != "text":
            part[f"{name}_lengths"] = steps[name].tolist()
    mask = np.arange(STEPS["text"]) < steps["text"][:, None]
    words = random.integers(1000, 30522, mask.shape)
    part["text_bert"] = np.stack([np.where(mask, words, 0), mask, np.zeros_like(mask)], 1).astype(np.float32)
    return part


def grown_by(run: Callable[[], object]) -> int | None:
    """Return by how many bytes this process grows at most during a call; None where the system does not say."""
    found = re.search(r"VmRSS:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    reset_peak_memory()
    run()
    peak, _ = peak_memory()
    return peak - int(found[1]) * 1024 if found and peak is not None else None


def measure(setting: Setting) -> list[Row]:
    """Import a generated MMSA pickle a few times."""
    if not STATUS.exists():  # only Linux tells a process its peak
        return []
    source = setting.folder / "unaligned_50.pkl"
    write_mmsa(source, samples_in(setting.sizes.source))
    grown = Times()
    for _ in range(setting.sizes.slow):
        grown.ours.append(
            int(
                run_python(["-m", __spec__.name, str(source), str(setting.folder / "imported.h5")], setting.environment)
            )
            / MB
        )
        grown.reference.append(source.stat().st_size / MB)
    return [grown.dearer("import, peak memory beside size of the file", "cpu", 2.5, "MB")]


if __name__ == "__main__":
    importers()  # everything that is imported at first use
    source, out = map(Path, sys.argv[1:])
    print(json.dumps(grown_by(lambda: import_store("mmsa", source, out, dataset="mosi", options={}))))
