"""Who holds a lease, and whether it is still there, from what one process sees of it.

The names of files say who. Nobody's clock is trusted: an owner is dead when this process saw the same names for
``EXPIRY`` seconds of its own monotonic clock, or when the owner ran on this machine and its process is gone.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

EXPIRY = 60.0
"""Seconds without a sign of life after which an owner counts as dead."""
NAME = re.compile(
    r"(?P<token>[0-9a-f]{16})\.(?P<beat>\d+)\.(?P<pid>\d+)\.(?P<start>\d*)\.(?P<machine>[0-9a-f]*)\.(?P<host>[\w-]*)",
    re.ASCII,
)
"""The name of the file of a lease."""
_SEEN: dict[Path, tuple[tuple[str, ...], float]] = {}


class LeaseError(OSError):
    """A lease cannot be had here, whoever holds it: the folder is read-only, the disk full, the path something else."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of an error what, where and what to do."""
    try:
        yield
    except LeaseError:
        raise
    except OSError as error:
        from data_modules.files import advice  # only now: who holds leases may be without the libraries of data

        what = error.strerror or error
        raise LeaseError(f"{path} cannot be locked: {what}. {advice(error)} and start again.") from error


def files_of(path: Path) -> tuple[str, ...]:
    """Return the names of the files of a lease, none when it is free.

    Raises:
        LeaseError: When something else lies there.
    """
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return ()
    files = tuple(name for name in names if NAME.fullmatch(name))
    if names and not files:
        raise LeaseError(f"{path} cannot be locked: {names[0]!r} lies there, which is no lease. Remove it.")
    return files


def owner(path: Path) -> str:
    """Say who holds a lease, for messages; empty when it is free."""
    with explained(path):
        found = [NAME.fullmatch(name) for name in files_of(path)]
    return " and ".join(f"process {match['pid']} on {match['host']}" for match in found if match)


def this_process() -> str:
    """Return the part of a name that says who: number and start of the process, machine and host."""
    start = _start(os.getpid())
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40]
    return f"{os.getpid()}.{start or ''}.{machine() if start else ''}.{host}"


def dead(path: Path, files: tuple[str, ...]) -> bool:
    """Say whether the owner of these files is dead, from what this process saw until now.

    Args:
        path: Where they lie.
        files: Their names.
    """
    now = time.monotonic()
    last = _SEEN.get(path.absolute())
    if last is None or last[0] != files:
        last = _SEEN[path.absolute()] = (files, now)
    return now - last[1] >= EXPIRY or (bool(files) and all(gone(name) for name in files))


def forget(path: Path) -> None:
    """Forget what was seen of a place."""
    _SEEN.pop(path.absolute(), None)


def gone(name: str) -> bool:
    """Say whether the owner ran on this machine and certainly does not any more."""
    match = NAME.fullmatch(name)
    if not match or not match["machine"] or match["machine"] != machine():
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # there, but another user's, which /proc may hide
        pass
    start = _start(int(match["pid"]))
    return start is not None and start != match["start"]


@cache
def machine() -> str:
    """Return what names the space of process numbers that this process lives in; empty where that is unknown.

    Containers may share their host's name and boot, but not its process numbers.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc of another space
            return ""
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/time"))  # in which the starts of processes are counted
    return hashlib.sha256("\n".join([socket.gethostname(), *parts]).encode()).hexdigest()[:12]


def _start(pid: int) -> str | None:
    """Return when a process started, which tells it from another of its number.

    Returns:
        Empty when it has ended and its parent has not yet asked how; None when it cannot be read.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return "" if state in "ZX" else rest[18]
