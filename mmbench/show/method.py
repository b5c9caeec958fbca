"""A method: its card, its deviations, its settings, and the numbers of others and of this benchmark."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from mmbench.listing import list_methods, on, wants
from mmbench.methods import MethodCard, MethodConfig, method
from mmbench.methods.card import FIDELITY
from mmbench.methods.config import allowed_range
from mmbench.report import boards
from mmbench.report.cells import mean_and_deviation, number
from mmbench.report.grouping import Code
from mmbench.runner.record import Record
from mmbench.runner.settings import read_yaml
from mmbench.show.parts import Part, facts, pairs, spelled


def show_method(
    key: str, benchmarks: Path, published: Iterable[Record] = (), own: Iterable[Record] = (), code: Code | None = None
) -> list[Part]:
    """Return what there is to know of a method.

    Args:
        key: Key of the method.
        benchmarks: Folder of the shipped settings.
        published: Published records, of which those of the method count.
        own: One's own records, likewise.
        code: Hash of the present code of a method on a data set, for what other code made.

    Raises:
        ConfigError: When there is no such method.
    """
    cls = method(key)
    parts = [
        _card(key, cls.card, sys.modules[cls.__module__].__doc__ or ""),
        Part("Where it deviates from its source", _numbered(cls.card.deviations)),
        Part("What trainings of this suite showed", _numbered(cls.card.findings)),
        Part("Settings: --method.KEY VALUE", settings(cls.Config)),
        Part("Settings that are shipped for some data", _shipped(benchmarks / "methods" / f"{key}.yaml")),
        Part("What others report", _reported(cls.card)),
        Part(
            "Rows on the boards (over whole seeds)",
            _rows([r for r in published if r.method == key], [r for r in own if r.method == key], code),
        ),
    ]
    return [part for part in parts if part.rows]


def settings(config: type[MethodConfig]) -> tuple[tuple[str, str, str], ...]:
    """Return name, default, and meaning with range of every setting."""
    return tuple(
        (
            item.name,
            spelled(item.default),
            "; ".join(filter(None, (item.metadata.get("text"), allowed_range(item.metadata)))),
        )
        for item in fields(config)
    )


def _numbered(sentences: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{number}.", text) for number, text in enumerate(sentences, 1))


def _card(key: str, card: MethodCard, text: str) -> Part:
    about = " ".join(text.partition("\n\n")[0].split())
    needs = ", ".join(wants(card.needs))
    fits = next(row["datasets"] for row in list_methods() if row["method"] == key)
    return Part(
        f"{key}: {card.title}",
        facts(
            {
                "about": about,
                "authors": card.authors,
                "paper": ", ".join(
                    filter(
                        None,
                        (
                            card.venue,
                            "" if str(card.year) in card.venue else str(card.year),
                            card.arxiv and f"arXiv {card.arxiv}",
                        ),
                    )
                ),
                "code": card.code,
                "fidelity": f"{card.fidelity}: {FIDELITY[card.fidelity]}",
                "needs": needs,
                "data sets": on(fits),
            }
        ),
    )


def _shipped(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.is_file():
        return ()
    return facts({name: pairs(values) for name, values in read_yaml(path).items() if isinstance(values, Mapping)})


def _reported(card: MethodCard) -> tuple[tuple[str, str], ...]:
    """Return by track the numbers, with their source."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in card.published:
        groups.setdefault((result.track, result.source), []).append(f"{result.metric} {result.value:g}")
    return tuple((track, f"{', '.join(numbers)} ({source})") for (track, source), numbers in groups.items())


def _rows(published: list[Record], own: list[Record], code: Code | None) -> tuple[tuple[str, str], ...]:
    rows = []
    for board in boards(published, own, code):
        for row in board.rows:
            value = (
                f"{board.metric} {mean_and_deviation(row.summary(board.metric))}, n={len(row.seeds)}"
                if row.counted
                else ""
            )
            best = next(iter(row.counted.values()), None)
            others = [name for name in board.plain_metrics if name != board.metric] if best else []
            more = [f"{name} {number(summary.mean)}" for name in others if (summary := row.summary(name))]
            troubles = f"{len(row.troubles)} without a result" if row.troubles else ""
            rows.append(
                (
                    f"{board.track}@{board.identity[:8]}",
                    f"{row.label}: {'; '.join(filter(None, (value, *more, troubles)))}",
                )
            )
    return tuple(rows)
