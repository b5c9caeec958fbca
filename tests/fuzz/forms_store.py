"""The feature store: opened, shown, prepared for a run, and verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from rich.console import Console

from data_modules import FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec, write_store
from data_modules.store.digests import digests
from data_modules.store.provenance import Recipe, digest
from data_modules.store.summary import summary
from tests.fuzz.harness import Form
from tests.fuzz.hdf5 import damage_hdf5, damage_heaps
from tests.fuzz.mutations import Rng

INFO = StoreInfo(
    "mine",
    "own",
    TargetSpec("regression", ("sentiment",), -3, 3),
    sources={"text": "dice", "audio": "filter of clips"},
    recipes={"audio": Recipe("filter", {"bands": 2})},
    notes=("a note",),
)
CLASSES = replace(INFO, target=TargetSpec("multiclass", ("bad", "good")))


def _make(folder: Path, info: StoreInfo) -> Path:
    rng = np.random.default_rng(0)
    splits = ("train", "train", "train", "valid", "valid", "test")
    records = [
        Sample(
            f"v{row // 2}[{row}]",
            {"text": rng.normal(size=(row + 1, 3)), "audio": rng.normal(size=(7 - row, 2))},
            row % 2,
            split,
            f"v{row // 2}",
            f"s{row % 2}",
            f"words {row}",
            {"audio": digest(f"clip {row}")},
        )
        for row, split in enumerate(splits)
    ]
    return write_store(folder / "mine.h5", info, records).path


def read_store(path: Path) -> None:
    """Do to a store what `data info`, `run` and `data check` do."""
    store = FeatureStore(path)
    with open("/dev/null", "w") as nowhere:
        Console(file=nowhere).print(summary(store))
    data = FusionDataModule(path, normalize="train", batch_size=2)
    for stage in ("fit", "test"):
        data.setup(stage)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for _ in loader:
            pass
    store.verify()


def signed(path: Path, rng: Rng) -> None:
    """Damage a store and give it the digests of what it now holds, where it still has some."""
    damage_hdf5(path, rng)
    try:
        with h5py.File(path, "r+") as file:
            sizes: list[int] = []
            file.visititems(lambda _, item: sizes.append(item.size or 0 if isinstance(item, h5py.Dataset) else 0))
            if sum(sizes) > 10**7:  # would take long to digest
                return
            file.attrs["identity"], file.attrs["content"] = digests(file)
    except Exception:
        return


FORMS = [
    Form("store", lambda folder: _make(folder, INFO), read_store, (damage_hdf5, damage_heaps, signed)),
    Form("store-classes", lambda folder: _make(folder, CLASSES), read_store, (damage_hdf5, signed)),
]
