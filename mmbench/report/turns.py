"""Commands that write the same tables take turns, so that the later table is never the older one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbench.runner.lease import wait

NAME = ".tables.lease"


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until nobody else writes the tables of a folder, and keep others waiting until the block ends.

    Raises:
        LeaseError: When the folder cannot be written.
    """
    lease = wait(folder / NAME)
    assert lease is not None
    with lease:
        yield
