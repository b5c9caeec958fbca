"""Multimodal data sets: from files on disk to batches on the device."""

from __future__ import annotations

from data_modules.base import FusionDataModule, SplitLocked
from data_modules.card import DataCard
from data_modules.cmu_mosei import CMUMOSEI
from data_modules.cmu_mosi import CMUMOSI
from data_modules.corruption import Corruption
from data_modules.iemocap import IEMOCAP, IEMOCAPDialogue, IEMOCAPMesm, IEMOCAPRaw
from data_modules.ravdess import RAVDESS
from data_modules.schema import Batch, DataError, DataSpec, ModalitySpec, Sequence, TargetSpec, unknown
from data_modules.store import FeatureStore, Record, StoreInfo
from data_modules.store_writer import write_store
from data_modules.synthetic import Synthetic, SyntheticClips, SyntheticDialogues

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
    "Record",
    "Sequence",
    "SplitLocked",
    "StoreInfo",
    "Synthetic",
    "SyntheticClips",
    "SyntheticDialogues",
    "TargetSpec",
    "dataset",
    "datasets",
    "write_store",
]


def datasets() -> dict[str, type[FusionDataModule]]:
    """Return every data set by its key."""
    return {module.key: module for module in FusionDataModule.__subclasses__() if module.key}


def dataset(key: str) -> type[FusionDataModule]:
    """Return one data set by its key.

    Raises:
        DataError: When there is none; the message names the nearest.
    """
    known = datasets()
    if key not in known:
        raise DataError(unknown("data set", key, known))
    return known[key]
