"""One training over several devices: a process for each, of which the one that has the trial starts the others.

All of them train, with Lightning's DDP; only the first one writes, and it alone tests.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from typing import Any

import torch
import torch.distributed as dist

from mmbench.runner.rank import Rank
from mmbench.runner.troubles import MachineError, machine_error

LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|\bgloo\b|\bnccl\b|\bsocket\b", re.I)
"""What a process says when it was another one that ended."""
POLL = 0.02
"""Seconds between two looks whether the others are ready."""
FAREWELL = 10.0
"""Seconds that the others have to end by themselves."""


@contextmanager
def others(first: Rank, follow: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[None]:
    """Have the other processes of a training run within the block, and end them with it.

    Args:
        first: The place of this process.
        follow: What the others run: called with the arguments, their :class:`Rank`, and what they call when they are
            about to train.
        arguments: What it is given; it goes to the processes.

    Raises:
        MachineError: When one of them was killed.
        RuntimeError: When one of them failed, with what it said.
    """
    if first.world == 1:
        yield
        return
    context = multiprocessing.get_context("spawn")
    said, ready = context.SimpleQueue(), context.SimpleQueue()
    shared = (torch.get_num_threads(), said, ready)
    processes = [
        context.Process(target=_run, args=(follow, arguments, dataclasses.replace(first, number=number), *shared))
        for number in range(1, first.world)
    ]
    try:
        for process in processes:
            process.start()
        for _ in processes:  # or this one would wait for them at the meeting point, for half an hour
            while ready.empty():
                if any(process.exitcode for process in processes):
                    raise RuntimeError("Connection closed before the training began.")
                time.sleep(POLL)
            ready.get()
        yield
    except Exception as error:
        if not LOST.search(str(error)):
            raise
        _explain(processes, said, error)
        raise
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
        if dist.is_initialized():
            dist.destroy_process_group()  # the next training has processes of its own, or none


def _explain(processes: Sequence[SpawnProcess], said: Any, error: Exception) -> None:
    """Raise what ended another process, where this one has only lost it.

    Raises:
        MachineError: When one was killed, or ended for no fault of the method.
        RuntimeError: When the method failed in one of them.
    """
    deadline = time.monotonic() + FAREWELL
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    if killed := [code for process in processes if (code := process.exitcode) is not None and code < 0]:
        raise MachineError(
            f"One of its {len(processes) + 1} processes was ended by signal {-killed[0]}. It may not have had the "
            "memory.",
            everything=False,
        ) from error
    reasons = []
    while not said.empty():
        reasons.append(said.get())
    for text, everything in reasons:
        if everything is not None:
            raise MachineError(text, everything) from error
    for text, _ in reasons:
        if not LOST.search(text):
            raise RuntimeError(text) from error


def _run(
    follow: Callable[..., None], arguments: tuple[Any, ...], rank: Rank, threads: int, said: Any, ready: Any
) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):  # for the first process, which ends this one
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        follow(*arguments, rank, lambda: ready.put(rank.number))
    except BaseException as error:
        trouble = machine_error(error)
        text = str(trouble) if trouble else f"{type(error).__name__}: {error} ({traceback.format_exc(limit=-1)})"
        said.put((f"process {rank.number} of {rank.world}: {text}", trouble.everything if trouble else None))
        os._exit(1)  # without waiting for the others


def die_with_parent() -> None:
    """End this process when the one that started it was killed, so that no trial goes on unseen.

    The processes that load for it notice within seconds.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
