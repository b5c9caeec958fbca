"""Markdown as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NONE = "\N{EN DASH}"
"""What stands for a value that does not exist."""

_SPECIAL = re.compile(r"[\\`*\[<|~&$]|(?<!\w)_|_(?!\w)")


def escape(text: str) -> str:
    """Return text that reads as itself, on one line, also in a table."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def code(text: str) -> str:
    """Return text as a code span on one line that may stand in a table."""
    text = " ".join(text.split()).replace("|", "\\|")
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
