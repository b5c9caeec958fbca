"""One training over several devices: a process for each, of which the one that has the trial starts the others.

All of them train, with Lightning's DDP; only the first one writes, and it alone tests.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from mmbench.runner.rank import Rank
from mmbench.runner.troubles import MachineError

LOST = re.compile(r"connection (closed|reset)|broken pipe|gloo|nccl|socket|store", re.I)
"""What a process says when it was another one that ended."""
FAREWELL = 10.0
"""Seconds that the others have to end by themselves."""


@contextmanager
def others(first: Rank, follow: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Have the other processes of a training run within the block, and end them with it.

    Args:
        first: The place of this process.
        follow: What the others run: called with the arguments and their :class:`Rank`.
        arguments: What it is given; it goes to the processes.

    Raises:
        MachineError: When one of them was killed.
        RuntimeError: When one of them failed, with what it said.
    """
    if first.world == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    threads = torch.get_num_threads()
    processes = [
        context.Process(target=_run, args=(follow, arguments, Rank(number, first.world, first.port), threads, said))
        for number in range(1, first.world)
    ]
    try:
        for process in processes:
            process.start()
        yield
    except Exception as error:
        deadline = time.monotonic() + FAREWELL
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()) if LOST.search(str(error)) else 0)
        codes = [process.exitcode for process in processes]
        if not said.empty() and LOST.search(str(error)):
            raise RuntimeError(said.get()) from error
        if killed := [code for code in codes if code is not None and code < 0]:
            raise MachineError(
                f"One of its {first.world} processes was ended by signal {-killed[0]}. It may not have had the memory.",
                everything=False,
            ) from error
        raise
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
        if dist.is_initialized():
            dist.destroy_process_group()  # the next training has processes of its own, or none


def _run(follow: Callable[..., None], arguments: tuple[Any, ...], rank: Rank, threads: int, said: Any) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the first process, which ends this one
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        follow(*arguments, rank)
    except BaseException as error:
        said.put(f"process {rank.number} of {rank.world}: {type(error).__name__}: {error}")
        os._exit(1)  # without waiting for the others


def die_with_parent() -> None:
    """End this process when the one that started it was killed, so that no trial goes on unseen.

    The processes that load for it notice within seconds.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
