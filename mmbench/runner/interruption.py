"""Being told to end by a signal: KeyboardInterrupt wherever this process is, and once more where that got lost.

Python prints and forgets what is raised in the callback of a weak reference or in a finalizer, and signals come there
too: of two dozen workers that were told to end while they began, one went on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name)]
"""By these a process is told to end; the last one is of SLURM."""
_told: list[int] = []


@contextmanager
def listening() -> Iterator[list[int]]:
    """Within the block the first of the signals raises KeyboardInterrupt; later ones find this process ending.

    Yields:
        The signals that have come; empty after the block.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, _hear) for number in SIGNALS} if main else {}
    try:
        yield _told
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _told.clear()


def deaf() -> None:
    """Ignore the signals from now on."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def heed() -> None:
    """Raise KeyboardInterrupt if one of the signals has come; called before everything that takes a while."""
    if _told:
        raise KeyboardInterrupt


def _hear(number: int, frame: FrameType | None) -> None:
    _told.append(number)
    if len(_told) == 1:
        heed()
