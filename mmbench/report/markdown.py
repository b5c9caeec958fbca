"""Markdown as GitHub reads it, and text that is safe to show anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NONE = "\N{EN DASH}"
"""What stands for a value that does not exist."""

_SPECIAL = re.compile(r"[\\`*\[<|~&$]|(?<!\w)_|_(?!\w)")


def printable(text: str) -> str:
    """Return text on one line, without what moves a terminal's cursor or turns the direction of reading."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def escape(text: str) -> str:
    """Return text that reads as itself, on one line, also in a table."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], printable(text))


def code(text: str) -> str:
    """Return text as a code span on one line that may stand in a table."""
    text = printable(text).replace("|", "\\|")
    if "`" not in text:
        return f"`{text}`"
    fence = "`" * (1 + max(len(run) for run in re.findall("`+", text)))
    return f"{fence} {text} {fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a table.

    Args:
        heads: Headings, in Markdown.
        rows: Cells, in Markdown.
        left: Number of leading columns that are aligned to the left; the others are to the right, except for notes.
    """
    rule = ["---" if number < left or head == "notes" else "---:" for number, head in enumerate(heads)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)]
