"""Trials of records: the plan that trains again what was trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from data_modules import DataError, FeatureStore, FusionDataModule
from mmbench.methods import ConfigError, method
from mmbench.runner.code import code_hash
from mmbench.runner.plan import Trial
from mmbench.runner.record import Record
from mmbench.runner.store_paths import store_path_of


def trials_again(records: Iterable[Record], path: Path | None = None) -> tuple[list[Trial], list[tuple[Record, str]]]:
    """Return the trials that records are of, and the records that cannot be trained again, with the reason.

    Args:
        records: What was trained.
        path: The store; by default the usual place of each data set.
    """

    @cache
    def store(dataset: str, feature_set: str) -> FeatureStore:
        return FeatureStore(path or store_path_of(dataset, feature_set) or FusionDataModule.usual_path(dataset))

    trials: list[Trial] = []
    left_out: list[tuple[Record, str]] = []
    for record in records:
        try:
            trials.append(_trial(record, store(*record.track.split("/")[:2])))
        except (ConfigError, DataError) as error:
            left_out.append((record, str(error)))
    return trials, left_out


def _trial(record: Record, store: FeatureStore) -> Trial:
    """Return the trial of a record.

    Raises:
        ConfigError: When the method or one of its settings is not what it was, or the data are others.
        DataError: When the store cannot be used.
    """
    store.verify_once()
    if store.identity != record.identity:
        raise ConfigError(
            f"{store.path} holds other data ({store.identity[:12]}) than the record's ({record.identity[:12]}): bring "
            "in the same sources by the same command."
        )
    config = method(record.method).Config.parse(record.config).to_dict()
    if json.loads(json.dumps(config)) != record.config:  # where a tuple is a list
        new = ", ".join(sorted(set(config) - set(record.config)))
        raise ConfigError(f"{record.method} has settings that it did not have then: {new}.")
    known = {item.name for item in dataclasses.fields(Trial)} - {"path", "content", "code"}
    return Trial(
        **{name: getattr(record, name) for name in known},
        content=store.content,
        code=code_hash(record.method, record.dataset),
        path=str(store.path),
    )
