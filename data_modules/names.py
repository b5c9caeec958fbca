"""Names that become parts of paths and of tables: one rule, whoever gives them."""

from __future__ import annotations

import re

from data_modules.schema import DataError

LONGEST = 100
"""Characters of a name; a file system takes 255 bytes, and a name is often only a part of one."""
_BYTES = 200
_NAME = re.compile(r"\w[\w.+-]*")


def check_name(what: str, name: str, where: str = "") -> str:
    """Return a name that may become part of a path.

    Args:
        what: What is named, such as ``data set``.
        name: Letters, digits and ``_ . + -``, the first a letter, a digit or ``_``.
        where: The file or option that it comes from, for the message.

    Raises:
        DataError: When it is another.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST or len(name.encode()) > _BYTES:
        shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        raise DataError(
            f"{f'{where}: ' if where else ''}the {what} cannot be named {shown!r}. Give up to {LONGEST} letters, "
            "digits and _ . + - that begin with a letter, a digit or _."
        )
    return name


def printable(text: str) -> str:
    """Return a text that any output takes: what is no Unicode is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
