"""Which files were compared with their digests, so that it costs once: a small file in the user's cache.

A file counts as the same while its path, size, inode, and the times of its last changes are, and the digest that it
claims. The times are those of content and of everything else: whoever edits a file and sets back its date is noticed.
A cache that is not there, damaged or not to be written only means that files are compared again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from data_modules.files import atomic_path

MOST = 256
"""Files that are remembered; those compared longest ago are forgotten."""
TICK_NS = 100_000_000
"""A file that was changed so shortly ago may change again without another time."""

State = tuple[int, ...]


def state(path: Path) -> State:
    """Return what changes when a file does: size, inode, and when its content and the rest were changed last."""
    found = path.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def known(path: Path, now: State, content: str) -> bool:
    """Return whether a file in this state was compared with this digest, and agreed."""
    return _read().get(str(path.absolute())) == [*now, content]


def intact(path: Path, now: State) -> bool:
    """Return whether a file in this state was compared with a digest that it claimed, and agreed."""
    entry = _read().get(str(path.absolute()))
    return isinstance(entry, list) and entry[:-1] == [*now]


def remember(path: Path, now: State, content: str) -> None:
    """Remember that a file in this state agrees with this digest."""
    remembered = _remembered()
    if remembered is None or time.time_ns() - max(now[2:]) < TICK_NS:
        return
    files = {name: entry for name, entry in _read().items() if name != str(path.absolute())}
    files[str(path.absolute())] = [*now, content]
    try:
        with atomic_path(remembered) as part:
            part.write_text(json.dumps(dict(list(files.items())[-MOST:]), indent=0))
    except OSError:
        return


def _remembered() -> Path | None:
    folder = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(folder) if os.path.isabs(folder) else Path.home() / ".cache") / "mmbench" / "verified.json"
    except RuntimeError:  # an account without a home
        return None


def _read() -> dict[str, list[int | str]]:
    try:
        remembered = _remembered()
        found = json.loads(remembered.read_text()) if remembered else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
