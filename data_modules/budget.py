"""How much memory a file may make this program take: what a file says of its size is not believed before that."""

from __future__ import annotations

import os
import re
from pathlib import Path

from data_modules.schema import DataError

VARIABLE = "MMBENCH_MEMORY"
"""The variable that sets the budget, such as ``8GB``."""
SHARE = 0.8
"""Of the machine's memory what a file may take, where nobody says how much."""
TEXT_COST = 40
"""Bytes of memory to a byte of text: a cell of one character is a string of its own."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNITS = {"": 1e9, "B": 1, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def budget() -> int:
    """Return the bytes that the content of a file may take in memory.

    Raises:
        DataError: When the variable says no size.
    """
    said = os.environ.get(VARIABLE, "")
    if not said:
        return int(SHARE * _memory())
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]?B)?", said.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise DataError(f"The variable {VARIABLE} is {said!r}: give the memory that a file may take, such as 8GB.")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def check_size(where: str | Path, what: str, needed: int) -> None:
    """Refuse what would take more memory than the budget, before it is taken.

    Args:
        where: The file.
        what: What of it, in words.
        needed: Bytes in memory.

    Raises:
        DataError: With both sizes and how to allow more.
    """
    allowed = budget()
    if needed > allowed:
        raise DataError(
            f"{where}: {what} would take {_gb(needed)} of memory, and files may take {_gb(allowed)}. The file is "
            f"damaged or hostile, or really that large: then set {VARIABLE}={_gb(needed * 1.2)}."
        )


def check_text(path: Path) -> None:
    """Refuse a text file that would take too much memory, cut into its lines and cells.

    Raises:
        DataError: With its size in memory and how to allow more.
        OSError: When there is no such file.
    """
    check_size(path, "its text", TEXT_COST * path.stat().st_size)


class Allowance:
    """What may still be read of one file, so that all of it together fits the budget.

    Args:
        where: The file.
    """

    def __init__(self, where: str | Path) -> None:
        self.where, self.taken = where, 0

    def take(self, what: str, size: int, at_once: int = 0) -> None:
        """Count what is read next, before it is.

        Args:
            what: Its name.
            size: Bytes in memory.
            at_once: Bytes beside it, while it is read.

        Raises:
            DataError: When it would be too much.
        """
        self.taken += size
        check_size(self.where, f"what is read of it up to {what!r}", self.taken + at_once)


def no_memory(what: str | Path) -> DataError:
    """Return the error for what does not fit into the memory that is free, though files may take as much."""
    return DataError(f"{what} needs more memory than there is. Close other programs, or use a larger machine.")


def _gb(size: float) -> str:
    digits = f"{size / 1e9:.3g}" if size < 1e12 else f"{size / 1e9:.0f}"
    return f"{digits}GB"


def _memory() -> int:
    """Return the bytes of memory that this process may have."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [8 << 30]
    for name in _CGROUPS:
        try:
            said = Path(name).read_text().strip()
        except OSError:
            continue
        sizes += [int(said)] if said.isdigit() else []
    return min(sizes)
