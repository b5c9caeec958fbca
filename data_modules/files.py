"""Files that are either whole or not there, and what to say where they cannot be written."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where what is left stays
    fcntl = None  # type: ignore[assignment]

PART = re.compile(r"\..*\.(?P<host>[\w-]+)\.[0-9a-f]{16}\.part", re.ASCII | re.DOTALL)
"""The name of a file that a process has not finished."""
LONGEST = 150
"""Bytes of a file's name that are in that of its part; file systems take 255."""
WEEK = 7 * 24 * 3600
"""Seconds without a change after which the part of another machine is left; by the clock of the file system."""
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "-"
_swept: set[str] = set()
"""Folders where this process has removed what was left: once, as some have many thousands of files."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(OSError):
    """A file or folder cannot be written; the message says which, why and what to do."""


def advice(error: OSError) -> str:
    """Return what to do about an error of the file system, as the beginning of a sentence."""
    if error.errno in _FULL:
        return "Free some space there"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "Choose a folder that you may write to"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "Remove what lies there and is no folder"
    if error.errno == errno.ENAMETOOLONG:
        return "Choose a shorter name"
    return "Check the file system"


def write_error(path: Path, error: OSError, more: str = "") -> WriteError:
    """Return the error that says what to do.

    Args:
        path: What was to be written.
        error: Why it cannot be.
        more: A sentence on how much room it needs, where that is known.
    """
    made = WriteError(
        f"{path} cannot be written: {error.strerror or error}.{f' {more}' if more else ''} {advice(error)} or give "
        "another path, and start again."
    )
    made.errno = error.errno
    return made


@contextmanager
def explained(path: Path, part: Path | None = None) -> Iterator[None]:
    """Say of an error in writing what, why and what to do; errors that concern other files stay as they are.

    Args:
        path: What is written.
        part: Where it is written until it is whole; without one every error concerns the path.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        named = None if error.filename is None else os.fspath(error.filename)
        if part is None or named == str(part) or (named is None and error.errno in (*_FULL, errno.EROFS)):
            raise write_error(path, error) from error
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it only when the block ends well.

    Folders above it are made. What processes that were killed have left unfinished there is removed before this process
    writes there first; what another one is writing is not.

    Raises:
        WriteError: When it cannot be written.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part, handle = _begin(path)
    try:
        _sweep(part)
        with explained(path, part):
            yield part
        with explained(path):
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
        os.close(handle)


def _begin(path: Path) -> tuple[Path, int]:
    """Return a new part of a file, and what holds it until this process closes it or ends."""
    start = os.fsencode(path.name)[:LONGEST].decode(errors="ignore")
    while True:
        part = path.with_name(f".{start}.{_HOST}.{secrets.token_hex(8)}.part")
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        _hold(handle)
        if fcntl is None:  # an open file could not be renamed
            os.close(handle)
            return part, os.open(os.devnull, os.O_RDONLY)
        if part.exists():  # nobody took it for left before it was held
            return part, handle
        os.close(handle)


def _hold(handle: int) -> bool:
    """Hold an open file, and return whether nobody else does; False where that cannot be known."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return fcntl is not None


def _sweep(part: Path) -> None:
    """Remove what dead processes left unfinished beside the first part that this process begins in a folder."""
    folder = os.path.abspath(part.parent)
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        now = part.stat().st_mtime
        for other in os.scandir(part.parent):
            match = PART.fullmatch(other.name)
            if match is None or other.name == part.name:
                continue
            with suppress(OSError):
                # Locks may be those of one host only.
                if match["host"] != _HOST and now - other.stat().st_mtime < WEEK:
                    continue
                handle = os.open(other, os.O_WRONLY)
                try:
                    if _hold(handle):
                        os.unlink(other)
                finally:
                    os.close(handle)
