"""What several tests of batches use: a data module that is ready to train."""

from __future__ import annotations

from data_modules import FeatureStore, FusionDataModule


def fitted(store: FeatureStore, **options: object) -> FusionDataModule:
    data = FusionDataModule(store.path, **options)
    data.setup("fit")
    return data
