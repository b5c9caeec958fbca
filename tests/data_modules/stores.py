"""A small store of values that others made and of values that were computed, and what another machine makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules.schema import TargetSpec
from data_modules.store import FeatureStore, Sample, StoreInfo, write_store
from data_modules.store import write as store_writer
from data_modules.store.provenance import Recipe, digest

RECIPE = Recipe("filter", {"bands": 2, "window_ms": 64.0}, libraries=("numpy",))
INFO = StoreInfo(
    "mine",
    "random",
    TargetSpec("regression", ("sentiment",), -3, 3),
    sources={"text": "dice", "audio": "filter of clips"},
    recipes={"audio": RECIPE},
)
SPLITS = ("train", "test", "train", "valid", "train", "test")


def make(
    path: Path, change: Callable[[Sample], object] = lambda record: None, protocol: str = "standard", **info: Any
) -> FeatureStore:
    """Write six samples with text of others and audio by a recipe; ``change`` is called with each record."""

    def records() -> Iterator[Sample]:
        rng = np.random.default_rng(0)
        for row, split in enumerate(SPLITS):
            inputs = {"text": rng.normal(size=(row + 1, 2)), "audio": rng.normal(size=(2 * row + 1, 2))}
            origins = {"audio": digest(f"clip {row}")}
            group, speaker = f"v{row // 2}", f"s{row % 2}"
            record = Sample(f"{group}[{row}]", inputs, row / 2 - 1, split, group, speaker, f"words {row}", origins)
            change(record)
            yield record

    return write_store(path, replace(INFO, **info), records(), protocol=protocol)


def edit(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a store in place, as nothing of this project does."""
    with h5py.File(path, "r+") as file:
        change(file)


def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on whatever is computed for a store comes out a little differently; what others made does not."""
    once = store_writer._ModalityWriter.add

    def add(self: Any, record: Sample) -> None:
        values = np.array(record.inputs[self.name])
        if self.recipe:
            values.flat[0] = values.flat[0] + 1e-5 if values.dtype.kind == "f" else values.flat[0] ^ 1
        once(self, replace(record, inputs={**record.inputs, self.name: values}))

    monkeypatch.setattr(store_writer._ModalityWriter, "add", add)
