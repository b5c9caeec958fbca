"""What is shown: a heading, and under it facts, a table of numbers, or lines as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """One headed part.

    Attributes:
        title: The heading.
        rows: Rows of equally many cells; where room is short, only the last cell is wrapped.
        table: Rows of short cells, names first; where room is short, columns go below each other.
        lines: Lines that stay as they are.
    """

    title: str
    rows: tuple[tuple[str, ...], ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


def facts(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return a row for each value that says something."""
    return tuple((name, str(value)) for name, value in values.items() if value not in ("", None, (), [], {}))


def spelled(value: Any) -> str:
    """Return a setting as it is typed; an empty text is visible."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(str, value))}]"
    return repr(value) if value == "" else str(value)


def pairs(values: Mapping[str, Any]) -> str:
    """Return settings in a line."""
    return ", ".join(f"{name} {spelled(value)}" for name, value in values.items())
