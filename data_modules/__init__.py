"""Multimodal data sets: from files on disk to batches on the device."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data_modules import plugins
from data_modules.batches.corruption import Corruption
from data_modules.batches.data_module import FusionDataModule
from data_modules.card import DataCard
from data_modules.datasets.cmu_mosei import CMUMOSEI
from data_modules.datasets.cmu_mosi import CMUMOSI
from data_modules.datasets.iemocap import IEMOCAP, IEMOCAPDialogue, IEMOCAPMesm, IEMOCAPRaw
from data_modules.datasets.ravdess import RAVDESS
from data_modules.datasets.synthetic import Synthetic, SyntheticClips, SyntheticDialogues
from data_modules.names import check_name
from data_modules.schema import (
    Batch,
    DataError,
    DataSpec,
    ModalitySpec,
    PaddedSequence,
    SplitLocked,
    TargetSpec,
    unknown_name,
)
from data_modules.store import FeatureStore, Sample, StoreInfo, write_store

__all__ = [
    "CMUMOSEI",
    "CMUMOSI",
    "IEMOCAP",
    "RAVDESS",
    "Batch",
    "Corruption",
    "DataCard",
    "DataError",
    "DataSpec",
    "FeatureStore",
    "FusionDataModule",
    "IEMOCAPDialogue",
    "IEMOCAPMesm",
    "IEMOCAPRaw",
    "ModalitySpec",
    "PaddedSequence",
    "Sample",
    "SplitLocked",
    "StoreInfo",
    "Synthetic",
    "SyntheticClips",
    "SyntheticDialogues",
    "TargetSpec",
    "broken_datasets",
    "dataset",
    "datasets",
    "write_store",
]


# The package of this name holds their rooms: `from data_modules.datasets.NAME import ...` leads there.
def datasets() -> dict[str, type[FusionDataModule]]:
    """Return every data set by its key: those of this package, of plug-in files and of installed packages.

    Raises:
        DataError: When a plug-in file takes the key of another data set.
    """
    return _found(plugins.files()).classes


def broken_datasets() -> dict[str, str]:
    """Return by name the plug-ins and entry points of data sets that cannot be used, and what is wrong where."""
    return _found(plugins.files()).broken


def dataset(key: str) -> type[FusionDataModule]:
    """Return one data set by its key.

    Raises:
        DataError: When there is none, or it is broken; the message says where, or names the nearest.
    """
    known = datasets()
    if key not in known:
        raise DataError(broken_datasets().get(key) or unknown_name("data set", key, known))
    return known[key]


@cache
def _found(files: tuple[Path, ...]) -> plugins.Found[FusionDataModule]:
    sources = [*plugins.from_files(), *plugins.installed("mmbench.datasets")]
    return plugins.collect([plugins.Source("", "this project", __name__, _shipped), *sources], _take, "data set")


def _shipped() -> dict[str, type[FusionDataModule]]:
    classes = FusionDataModule.__subclasses__()
    return {cls.key: cls for cls in classes if cls.key and cls.__module__.startswith(f"{__name__}.")}


def _take(source: plugins.Source, loaded: Any) -> dict[str, type[FusionDataModule]]:
    """Return the data sets of what a source has loaded."""
    if source.load is _shipped:
        return dict(loaded)
    given: list[type[FusionDataModule]] = [loaded]
    if isinstance(loaded, ModuleType):
        given = plugins.defined(loaded, FusionDataModule)
        if given and not any(cls.key for cls in given):
            where = plugins.line_of_class(given[-1])
            raise DataError(f'{where}: the data set has no key: give key = "...", the name that commands call it by.')
    elif not (isinstance(loaded, type) and issubclass(loaded, FusionDataModule) and loaded.key == source.name):
        raise DataError(f"{source.location} must be a FusionDataModule whose key is {source.name!r}.")
    for cls in given:
        where = plugins.line_of_class(cls)
        if cls.key and not isinstance(cls.card, DataCard):
            raise DataError(f"{where}: the data set has no card: give card = DataCard(title=..., ...).")
        if cls.key:
            check_name("data set", cls.key, where)
    return {cls.key: cls for cls in given if cls.key}
