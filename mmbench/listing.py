"""What there is: methods, data sets and suites as plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_modules
from data_modules.schema import DataSpec, ModalityKind, ModalitySpec, TargetSpec
from mmbench.methods import Needs, methods


def listing(what: str, benchmarks: Path | None = None) -> list[dict[str, Any]]:
    """Return one row per ``methods``, ``datasets`` or ``suites`` entry.

    Args:
        what: Which of them.
        benchmarks: Folder of suites; by default the usual one.
    """
    return {"methods": list_methods, "datasets": list_datasets, "suites": lambda: list_suites(benchmarks)}[what]()


def usual_specs(key: str) -> list[DataSpec]:
    """Return the specs of a data set in its usual forms, without opening a store."""
    card = data_modules.dataset(key).card
    assert card is not None
    raw: dict[str, ModalityKind] = {"audio": "waveform", "vision": "frames"}
    specs = []
    for form in card.forms:
        kinds = raw if form == "media" else {}
        modalities = {name: ModalitySpec(name, 1, 1, kinds.get(name, "features")) for name in card.modalities}
        specs.append(
            DataSpec(key, "", "", modalities, TargetSpec(card.task, ("target",)), dialogue=form == "dialogues")
        )
    return specs


def fits(needs: Needs, key: str) -> bool:
    """Return whether a method with these needs can run on some usual form of a data set."""
    return any(not needs.unmet(spec) for spec in usual_specs(key))


def wants(needs: Needs) -> list[str]:
    """Return in a word each what a method cannot do without."""
    return [
        *needs.modalities,
        *([f"{needs.at_least}+ modalities"] if needs.at_least > 1 else []),
        *([] if needs.tasks == Needs().tasks else needs.tasks),
        *(["dialogues"] if needs.dialogue else []),
    ]


def list_methods() -> list[dict[str, Any]]:
    """Return key, title, year, fidelity, needs and fitting data sets of every method."""
    return [
        {
            "method": key,
            "title": cls.card.title,
            "year": cls.card.year,
            "fidelity": cls.card.fidelity,
            "needs": wants(cls.card.needs),
            "datasets": [name for name in data_modules.datasets() if fits(cls.card.needs, name)],
        }
        for key, cls in methods().items()
    ]


def on(datasets: list[str]) -> str:
    """Return in words which data sets a method fits, by the others where these are fewer."""
    others = [name for name in data_modules.datasets() if name not in datasets]
    if len(others) >= len(datasets):
        return ", ".join(datasets)
    return f"all but {', '.join(others)}" if others else "all"


def list_datasets() -> list[dict[str, Any]]:
    """Return key, title, modalities, task, usual place and fitting methods of every data set."""
    rows = []
    for key, module in data_modules.datasets().items():
        card = module.card
        assert card is not None
        rows.append(
            {
                "dataset": key,
                "title": card.title,
                "modalities": list(card.modalities),
                "task": card.task,
                "bring": card.command,
                "methods": [name for name, cls in methods().items() if fits(cls.card.needs, key)],
            }
        )
    return rows


def list_suites(benchmarks: Path | None) -> list[dict[str, Any]]:
    """Return name, title, data set, seeds and epochs of every suite."""
    from mmbench.runner.settings import benchmarks_folder, suites  # takes a while, and only suites need it

    return [
        {
            "suite": suite.name,
            "title": suite.title,
            "dataset": suite.dataset,
            "methods": list(suite.methods) or "all that fit",
            "seeds": list(suite.seeds),
            "max_epochs": suite.training.max_epochs,
        }
        for suite in suites(benchmarks_folder(benchmarks)).values()
    ]
