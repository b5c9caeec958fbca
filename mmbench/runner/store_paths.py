"""Where the store of a data set lies, and of one of its feature sets."""

from __future__ import annotations

from pathlib import Path

import data_modules
from data_modules import FeatureStore, FusionDataModule
from data_modules.names import check_name
from data_modules.schema import unknown_name
from mmbench.methods import ConfigError


def store_path_of(key: str, features: str) -> Path | None:
    """Return the store of a feature set: of its own name, or that of the data set if it holds just this one.

    Args:
        key: Key of the data set.
        features: Name of the feature set.
    """
    for path in (FusionDataModule.usual_path(f"{key}/{features}"), FusionDataModule.usual_path(key)):
        if path.is_file() and FeatureStore(path).feature_set == features:
            return path
    return None


def is_there(dataset: str) -> bool:
    """Return whether there is a store of what is named ``<key>`` or ``<key>/<feature set>``, in its usual place."""
    key, slash, features = dataset.partition("/")
    return store_path_of(key, features) is not None if slash else FusionDataModule.usual_path(key).is_file()


def placed(dataset: str, path: str | Path | None) -> tuple[str, str | Path | None]:
    """Return key and store of what a person names ``<key>`` or ``<key>/<feature set>``.

    Args:
        dataset: The name.
        path: The store that the person gave, which must hold the feature set; None for the usual place.

    Raises:
        ConfigError: When a feature set is named that is not there; the message says how to bring it.
    """
    key, slash, features = dataset.partition("/")
    if not slash:
        return key, path
    check_name("data set", key)
    check_name("feature set", features)
    if path is not None:
        if (held := FeatureStore(path).feature_set) != features:
            raise ConfigError(f"{path} holds the feature set {held}, not {features}: name {key}/{held}.")
        return key, path
    if found := store_path_of(key, features):
        return key, found
    known = data_modules.datasets()
    if key not in known:
        why = data_modules.broken_datasets().get(key) or unknown_name("data set", key, known)
    else:
        card = known[key].card
        why = f"To bring {key}: {card.command}" if card else ""
    own = FusionDataModule.usual_path(dataset)
    raise ConfigError(
        f"There is no store of {dataset}, which would lie at {own}. {why} Give {own} as what is written, or --store "
        "for another place."
    )
