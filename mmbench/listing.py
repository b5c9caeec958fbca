"""What there is: methods, data sets and suites as plain rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import data_modules
from data_modules.schema import DataSpec, ModalitySpec, TargetSpec
from mmbench.methods import Needs, methods
from mmbench.runner.settings import suites


def listing(what: str, benchmarks: Path) -> list[dict[str, Any]]:
    """Return one row per ``methods``, ``datasets`` or ``suites`` entry."""
    return {"methods": list_methods, "datasets": list_datasets, "suites": lambda: list_suites(benchmarks)}[what]()


def usual_spec(key: str) -> DataSpec:
    """Return the spec of a data set in its usual form, without opening a store."""
    card = data_modules.dataset(key).card
    assert card is not None
    specs = {name: ModalitySpec(name, 1, 1) for name in card.modalities}
    return DataSpec(key, "", "", specs, TargetSpec(card.task, ("target",)))


def list_methods() -> list[dict[str, Any]]:
    """Return key, title, year, fidelity, needs and fitting data sets of every method."""
    rows = []
    for key, cls in methods().items():
        needs = cls.card.needs
        wants = [*needs.modalities, *([f"{needs.at_least}+ modalities"] if needs.at_least > 1 else [])]
        wants += [] if needs.tasks == Needs().tasks else list(needs.tasks)
        wants += ["dialogues"] if needs.dialogue else []
        fits = [name for name in data_modules.datasets() if not needs.unmet(usual_spec(name))]
        rows.append(
            {
                "method": key,
                "title": cls.card.title,
                "year": cls.card.year,
                "fidelity": cls.card.fidelity,
                "needs": wants,
                "datasets": fits,
            }
        )
    return rows


def list_datasets() -> list[dict[str, Any]]:
    """Return key, title, modalities, task, usual place and fitting methods of every data set."""
    rows = []
    for key, module in data_modules.datasets().items():
        card = module.card
        assert card is not None
        fits = [name for name, cls in methods().items() if not cls.card.needs.unmet(usual_spec(key))]
        rows.append(
            {
                "dataset": key,
                "title": card.title,
                "modalities": list(card.modalities),
                "task": card.task,
                "bring": card.bring,
                "methods": fits,
            }
        )
    return rows


def list_suites(benchmarks: Path) -> list[dict[str, Any]]:
    """Return name, title, data set, seeds and epochs of every suite."""
    return [
        {
            "suite": suite.name,
            "title": suite.title,
            "dataset": suite.dataset,
            "methods": list(suite.methods) or "all that fit",
            "seeds": list(suite.seeds),
            "max_epochs": suite.training.max_epochs,
        }
        for suite in suites(benchmarks).values()
    ]
