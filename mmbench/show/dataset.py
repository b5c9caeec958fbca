"""A data set: its card, how to bring it, what its store holds, and which methods fit."""

from __future__ import annotations

from dataclasses import replace

import data_modules
from data_modules import DataError, FeatureStore, FusionDataModule
from data_modules.schema import DataSpec
from mmbench.listing import usual_specs
from mmbench.methods import methods
from mmbench.show.parts import Part, facts


def show_dataset(key: str) -> tuple[list[Part], FeatureStore | None]:
    """Return what there is to know of a data set, and its store where that is in its usual place and whole.

    Args:
        key: Key of a data set of the registry, or the name of a store in the usual folder; with ``/<feature set>`` for
            the store of another feature set.
    """
    module = data_modules.datasets().get(key.partition("/")[0])
    card = module.card if module else None
    path = FusionDataModule.usual_path(key)
    store, trouble = None, f"none at {path}"
    if path.is_file():
        try:
            store, trouble = FeatureStore(path), ""
        except DataError as error:
            trouble = str(error)
    parts = []
    if card:
        names = ("content", "task", "features", "splits", "defects", "licence", "citation")
        said = {name: getattr(card, name) for name in names}
        parts.append(Part(f"{key}: {card.title}", facts({**said, "modalities": ", ".join(card.modalities)})))
        parts.append(Part("How to bring it", lines=(card.command,)))
    if store is None:
        parts.append(Part("Store", facts({"store": trouble})))
    else:
        tracks = (
            (f"{store.dataset}/{store.feature_set}/{name}", _folds(len(folds))) for name, folds in store.splits.items()
        )
        parts.append(Part("Tracks of its store", tuple(tracks)))
    fitting = _fitting(_specs(key.partition("/")[0], store, card is not None))
    parts.append(Part("Methods that fit", (("", ", ".join(fitting)),)))
    return parts, store


def _folds(count: int) -> str:
    return f"{count} folds" if count > 1 else "1 fold"


def _specs(key: str, store: FeatureStore | None, known: bool) -> list[DataSpec]:
    """Return the forms in which the data can be had: of the store where there is one, else the usual ones."""
    usual = usual_specs(key) if known else []
    if store is None or not store.splits:
        return usual
    spec = store.spec(next(iter(store.splits)))
    return [spec, *([replace(spec, dialogue=True)] if any(form.dialogue for form in usual) else [])]


def _fitting(specs: list[DataSpec]) -> list[str]:
    return [key for key, cls in methods().items() if any(not cls.card.needs.unmet(spec) for spec in specs)]
