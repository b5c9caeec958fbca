"""Leases: the right to work on something, held by one process on any machine that shares the file system.

Locks of the kernel fail on NFS, Lustre and GPFS, or hold on one machine only. A lease is made of renames, which are
atomic on all of them. It is a folder that is missing or empty while the lease is free, and that has one empty file
while it is held; the name of the file is a random token, a counter and the process. Each step is one call, which the
file server does as a whole or not at all, and which names the very state that it ends:

=========  ==========================================  =========================================================
step       call                                        fails when
=========  ==========================================  =========================================================
take       ``rename(folder with own file, lease)``     there is a file: a rename replaces only an empty folder
beat       ``rename(lease/token.n, lease/token.n+1)``  another process took over
take over  ``rename(lease/stale.n, lease/token.0)``    the owner has beaten meanwhile, left, or was succeeded
leave      ``unlink(lease/token.n)``, ``rmdir``        another process took over
=========  ==========================================  =========================================================

So there is never a second file: only the first step adds one, and to an empty folder. Of several that take over one
succeeds. Tokens are random and counters grow, so a name that is gone never comes back: whoever was stopped between two
calls, for however long, finds the next one failing and cannot touch the lease of a successor.

Whether an owner is dead is a judgement (``owners.py``), and a wrong one costs the owner its lease, never gives it to
two. What remains is an owner that lost the lease and does not know it yet: it asks ``held`` before what counts.

Creating a file exclusively would do for the first step only, and a full disk or a crash could cut off its content.
Files without content need no flush: a crash of a machine ends its owners too, and a file server answers when it is
done.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from mmbench.runner.owners import LeaseError, dead, explained, files_of, forget, owner, this_process

__all__ = ["Lease", "LeaseError", "owner", "wait"]

BEAT = 10.0
"""Seconds between two signs of life."""
POLL = 0.5
"""Seconds between two looks at a lease that is waited for."""


class Lease:
    """The right to work on something. Made by :meth:`take` or :func:`wait`; a context manager that releases it.

    It belongs to the process that took it: in a forked child it is not held, and releasing it there does nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._token, self._pid, self._process = path, secrets.token_hex(8), os.getpid(), this_process()
        self._beat, self._over, self._lock = 0, False, threading.Lock()

    @classmethod
    def take(cls, path: Path) -> Lease | None:
        """Take a lease without waiting; None when another one holds it.

        Args:
            path: The lease; its folder is made if need be. Nothing else may lie there.

        Raises:
            LeaseError: When it cannot be had here; the message says what, where and what to do.
        """
        lease = cls(path)
        with explained(path):
            files = files_of(path)
            if files and not dead(path, files):
                return None
            if not (lease._succeed(files) if files else lease._enter()):
                return None
        forget(path)
        _HEART.add(lease)
        _sweep(path)
        return lease

    def held(self) -> bool:
        """Say whether the lease still is this process's; True is a fresh sign of life.

        An error of the file system is no loss: nobody else has the lease before the file has another name.
        """
        if os.getpid() != self._pid:
            return False
        with self._lock:
            if self._over:
                return False
            try:
                os.rename(self._file(), self._file(1))
            except (FileNotFoundError, NotADirectoryError):
                # The answer of a server can get lost, and the call be repeated after it succeeded.
                if not os.path.lexists(self._file(1)):
                    self._over = True
                    return False
            except OSError:
                return True
            self._beat += 1
            return True

    def release(self) -> None:
        """Give the lease back; does nothing when it was lost. What cannot be removed now expires."""
        if os.getpid() != self._pid:
            return
        _HEART.leases.discard(self)
        with self._lock:
            lost, self._over = self._over, True
            for more in () if lost else (0, 1):  # the latter after a beat whose answer got lost
                with suppress(OSError):
                    os.unlink(self._file(more))
            with suppress(OSError):
                os.rmdir(self.path)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _file(self, more: int = 0) -> Path:
        return self.path / f"{self._token}.{self._beat + more}.{self._process}"

    def _enter(self) -> bool:
        """Take a free lease."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        ready = self.path.with_name(f"{self.path.name}.{self._token}")
        try:
            ready.mkdir(exist_ok=True)
            with suppress(OSError):  # who may write to the folder may take over what lies there
                ready.chmod(stat.S_IMODE(self.path.parent.stat().st_mode) & ~stat.S_ISVTX)
            (ready / self._file().name).touch()
            with suppress(OSError):  # not every file system replaces even an empty folder
                self.path.rmdir()
            os.rename(ready, self.path)
        except OSError as error:
            if os.path.lexists(self._file()):
                return True
            # Missing: another process took this one for dead before it began.
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                return False
            raise
        finally:
            _remove(ready)
        return True

    def _succeed(self, files: tuple[str, ...]) -> bool:
        """Take over from a dead owner. Several files are none of ours, but may be left by a copy of the folder."""
        try:
            for other in files[1:]:
                os.unlink(self.path / other)
            os.rename(self.path / files[0], self._file())
        except FileNotFoundError:
            return os.path.lexists(self._file())
        return True


def wait(path: Path, until: Callable[[], bool] = lambda: False, poll: float | None = None) -> Lease | None:
    """Take a lease as soon as it can be had.

    Args:
        path: The lease.
        until: Looked at before every try; ends the wait when it is true.
        poll: Seconds between two tries, by default ``POLL``.

    Returns:
        The lease, or None when ``until`` ended the wait.

    Raises:
        LeaseError: When it cannot be had here.
    """
    while not until():
        if lease := Lease.take(path):
            return lease
        time.sleep(POLL if poll is None else poll)
    return None


def _remove(folder: Path) -> None:
    """Remove a folder that was to become a lease."""
    with suppress(OSError):
        for name in files_of(folder):
            os.unlink(folder / name)
        os.rmdir(folder)


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed just before they could take this lease."""
    ready = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}")
    with suppress(OSError):
        for folder in [path.parent / name for name in os.listdir(path.parent) if ready.fullmatch(name)]:
            if dead(folder, files_of(folder)):
                _remove(folder)
                forget(folder)


class _Heart:
    """One thread that gives the signs of life of all leases of this process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Hold nothing: a forked child has neither the leases of its parent nor the thread."""
        self.leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Beat for a lease until it is released or lost."""
        with self._lock:
            self.leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(BEAT)
            for lease in self.leases.copy():
                with suppress(Exception):  # whatever it was, this lease may beat the next time, and the others must
                    if not lease.held():
                        self.leases.discard(lease)


_HEART = _Heart()
if hasattr(os, "register_at_fork"):  # where processes can fork at all
    os.register_at_fork(after_in_child=_HEART.reset)
