"""One training over several devices: a process for each, of which the one that has the trial starts the others.

All of them train, with Lightning's DDP; only the first one writes, and it alone tests.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from mmbench.runner.interruption import deaf
from mmbench.runner.plan import Trial
from mmbench.runner.rank import Rank
from mmbench.runner.troubles import MachineError, machine_error

LOST = re.compile(r"connection (closed|reset|refused)|broken pipe|\bgloo\b|\bnccl\b|\bsocket\b", re.I)
"""What a process says when it was another one that ended."""
POLL = 0.02
"""Seconds between two looks whether the others are ready."""
LATE = 60.0
"""Seconds in which a file of the first process has to be seen by the others."""
FAREWELL = 10.0
"""Seconds that the others have to end by themselves."""
NOTICED = 60.0
"""Seconds within which this process has to notice that another one has ended."""


@dataclass(frozen=True)
class SharedTraining:
    """What the processes of a training are told.

    Attributes:
        trial: What is trained.
        folder: Where the first process writes checkpoints.
        stamp: Names the code and the data.
        accelerator: Lightning's accelerator.
        media_workers: Processes that load frames and waveforms for each; None for as many as the data module takes.
        state: The checkpoint that they go on from; None from the start.
        state_digest: What that holds, for machines that may see it late.
    """

    trial: Trial
    folder: Path
    stamp: str
    accelerator: str
    media_workers: int | None
    state: Path | None = None
    state_digest: str = ""

    def going_on(self, state: Path | None) -> SharedTraining:
        """Return the same training, from a checkpoint on."""
        return replace(self, state=state, state_digest=_digest(state) if state else "")

    def wait_for_state(self) -> None:
        """Wait until this machine sees the checkpoint that the first process sees.

        Raises:
            MachineError: When it sees another one, or none, for too long.
        """
        deadline = time.monotonic() + LATE
        while self.state and (found := _digest(self.state)) != self.state_digest:
            if time.monotonic() > deadline:
                what = "another state of" if found else "no"
                raise MachineError(
                    f"{socket.gethostname()} sees {what} {self.state}, from which the training goes on: give --runs on "
                    "a file system that all machines share.",
                    everything=True,
                )
            time.sleep(1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for another machine."""
        state = str(self.state) if self.state else None
        return {**asdict(self), "trial": asdict(self.trial), "folder": str(self.folder), "state": state}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> SharedTraining:
        """Return what :meth:`to_dict` was made from."""
        state = Path(content["state"]) if content["state"] else None
        return cls(**{**content, "trial": Trial(**content["trial"]), "folder": Path(content["folder"]), "state": state})


def _digest(path: Path) -> str:
    """Return the digest of a file; an empty text of one that is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


Follow = Callable[[SharedTraining, Rank, Callable[[], None]], None]
"""Trains in a process of a place, which calls the last argument when it is about to."""


@dataclass(frozen=True)
class Reason:
    """Why a process of a training ended.

    Attributes:
        text: What there is to say.
        everything: Whether what was no fault of the method would hit all trials; None when the method failed.
    """

    text: str
    everything: bool | None


class Processes(Protocol):
    """Some of the processes of a training."""

    def start(self) -> None:
        """Start them."""

    def ready(self) -> bool:
        """Say whether all are about to train."""

    def ended(self) -> bool:
        """Say whether one of them has ended before the training has."""

    def reasons(self) -> list[Reason]:
        """Wait a moment for them to end, and return why they did, what began it first."""

    def end(self) -> None:
        """End them."""


@contextmanager
def others(
    first: Rank,
    follow: Follow,
    training: SharedTraining,
    stuck: Callable[[Exception], None],
    elsewhere: Sequence[Processes] = (),
) -> Iterator[None]:
    """Have the other processes of a training run within the block, and end them with it.

    Args:
        first: The place of this process.
        follow: What the others run.
        training: What they are told.
        stuck: Called from a thread with what ended another process, when this one goes on waiting for that in PyTorch,
            where no exception reaches it. It has to end this process.
        elsewhere: Those of other machines.

    Raises:
        MachineError: When one of them was killed.
        RuntimeError: When one of them failed, with what it said.
    """
    if first.world == 1:
        yield
        return
    groups: list[Processes] = [LocalProcesses(follow, training, first.beside(0)), *elsewhere]
    left = threading.Event()
    watch = threading.Thread(target=_watch, args=(groups, left, stuck), daemon=True)
    try:
        for group in groups:
            group.start()
        while not all(group.ready() for group in groups):
            # Or this one would wait for them at the meeting point, for half an hour.
            if any(group.ended() for group in groups):
                raise ConnectionError("Connection closed before the training began: a process of it has ended.")
            time.sleep(POLL)
        watch.start()
        try:
            yield
        finally:
            left.set()
            watch.join()
    except Exception as error:
        if LOST.search(str(error)) and (why := cause(groups)):
            raise why from (error if isinstance(why, MachineError) else None)  # else what this one saw is no cause
        raise
    finally:
        for group in groups:
            group.end()
        if dist.is_initialized():
            dist.destroy_process_group()  # the next training has processes of its own, or none


def _watch(groups: Sequence[Processes], left: threading.Event, stuck: Callable[[Exception], None]) -> None:
    """Have this process ended where it waits for one that has ended: PyTorch does so for half an hour, or for good."""
    while not left.wait(1.0):
        if any(group.ended() for group in groups) and not left.wait(NOTICED):
            stuck(cause(groups) or MachineError("One of its processes has ended, and does not say why.", False))
            return


def cause(groups: Sequence[Processes]) -> MachineError | RuntimeError | None:
    """Return what ended another process, where this one has only lost it.

    Returns:
        A MachineError when one was killed, or ended for no fault of the method, or all have but lost each other; a
        RuntimeError when the method failed in one of them; None when nothing is known.
    """
    reasons = [reason for group in groups for reason in group.reasons()]
    for reason in reasons:
        if reason.everything is not None:
            return MachineError(reason.text, reason.everything)
    for reason in reasons:
        if not LOST.search(reason.text):
            return RuntimeError(reason.text)
    return MachineError(f"Its processes have lost each other: {reasons[0].text}", False) if reasons else None


class LocalProcesses:
    """Processes of this machine.

    Args:
        follow: What they run.
        training: What they are told.
        ranks: Their places.
    """

    def __init__(self, follow: Follow, training: SharedTraining, ranks: Sequence[Rank]) -> None:
        context = multiprocessing.get_context("spawn")
        self._said, self._ready = context.SimpleQueue(), context.SimpleQueue()
        self._waited_for = len(ranks)
        shared = (torch.get_num_threads(), self._said, self._ready)
        self._world = ranks[0].world if ranks else 1
        self.processes = [context.Process(target=_run, args=(follow, training, rank, *shared)) for rank in ranks]

    def start(self) -> None:
        """Start them."""
        for process in self.processes:
            process.start()

    def ready(self) -> bool:
        """Say whether all are about to train."""
        while self._waited_for and not self._ready.empty():
            self._ready.get()
            self._waited_for -= 1
        return not self._waited_for

    def ended(self) -> bool:
        """Say whether one of them has ended by a fault."""
        return any(process.exitcode for process in self.processes)

    def reasons(self) -> list[Reason]:
        """Wait a moment for them to end, and return why they did; one that was killed cannot say so itself."""
        deadline = time.monotonic() + FAREWELL
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        found = [
            Reason(
                f"One of its {self._world} processes was ended by signal {-code}. It may not have had the memory.",
                everything=False,
            )
            for process in self.processes
            if (code := process.exitcode) is not None and code < 0
        ]
        while not self._said.empty():
            found.append(self._said.get())
        return found

    def end(self) -> None:
        """End them at once: what they have computed is in the first process as well."""
        for process in self.processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _run(follow: Follow, training: SharedTraining, rank: Rank, threads: int, said: Any, ready: Any) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    deaf()  # all may be told to end; the first process ends the others
    torch.set_num_threads(threads)
    try:
        follow(training, rank, lambda: ready.put(rank.number))
    except BaseException as error:
        trouble = machine_error(error)
        text = str(trouble) if trouble else f"{type(error).__name__}: {error} ({traceback.format_exc(limit=-1)})"
        where = f"process {rank.number} of {rank.world}"
        said.put(Reason(f"{where}: {text}", trouble.everything if trouble else None))
        os._exit(1)  # without waiting for the others


def die_with_parent() -> None:
    """End this process when the one that started it was killed, so that no trial goes on unseen.

    The processes that load for it notice within seconds.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
