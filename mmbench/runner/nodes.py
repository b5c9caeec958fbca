"""The other machines of a worker whose trainings go over several: what its first process asks of them, and is told.

On every other machine a process waits (:func:`serve`) until the first one begins a training, starts the processes of
its machine, and ends them with the training. They speak by PyTorch's key-value store, which the first process keeps;
where that is, a file says that all see. What goes over the network is text.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from data_modules.files import atomic_path
from mmbench.runner.distributed import FAREWELL, POLL, Follow, LocalProcesses, Reason, SharedTraining
from mmbench.runner.rank import Rank
from mmbench.runner.troubles import MachineError

ANSWER = 300.0
"""Seconds within which another machine has to be about to train; a slow file system loads libraries for minutes."""
LOOK = 0.2
"""Seconds between two looks at what the first process wants."""
SILENCE = 60.0
"""Seconds without a sign of life after which a machine is taken for lost."""
CLOSED = "closed"
"""Key that says that no training follows."""


class Nodes:
    """The other machines, as the first process sees them. A context manager that lets them go.

    Args:
        count: Number of machines, this one included.
        meeting: The file that says where the first process is to be found.

    Raises:
        MachineError: When the others could not reach this one.
    """

    def __init__(self, count: int, meeting: Path) -> None:
        self.count, self.address = count, socket.gethostname()
        try:
            self._store = dist.TCPStore(self.address, 0, is_master=True, wait_for_workers=False)
        except dist.DistError as error:
            text = f"{self.address} cannot be reached under its own name by the other machines of a trial: {error}"
            raise MachineError(text, everything=True) from error
        self._trainings = 0
        meeting.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(meeting) as part:
            part.write_text(json.dumps([self.address, self._store.port]), "utf-8")

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *raised: object) -> None:
        self._store.set(CLOSED, "")
        time.sleep(2 * LOOK)  # until they have seen it, for the store goes with this process

    def processes(self, training: SharedTraining, first: Rank) -> list[NodeProcesses]:
        """Return the processes of a training on each of the other machines."""
        self._trainings += 1
        told = json.dumps({"training": training.to_dict(), "first": asdict(first)})
        return [NodeProcesses(self._store, f"{self._trainings}/{node}", told) for node in range(1, self.count)]


class NodeProcesses:
    """The processes of a training on another machine.

    Args:
        store: Where both look.
        name: Of the training and the machine.
        told: What the machine is told.
    """

    def __init__(self, store: dist.Store, name: str, told: str) -> None:
        self._store, self._name, self._told = store, name, told
        self._deadline, self._beats = 0.0, 0

    def start(self) -> None:
        """Have them started."""
        self._deadline = time.monotonic() + ANSWER
        self._store.set(f"{self._name}/start", self._told)

    def ready(self) -> bool:
        """Say whether all are about to train."""
        return self._store.check([f"{self._name}/ready"])

    def ended(self) -> bool:
        """Say whether one of them has ended by a fault, or nothing is heard of the machine."""
        beats = self._store.add(f"{self._name}/beats", 0)
        if beats > self._beats and self.ready():
            self._beats, self._deadline = beats, time.monotonic() + SILENCE
        return self._store.check([f"{self._name}/reasons"]) or time.monotonic() > self._deadline

    def reasons(self) -> list[Reason]:
        """Wait a moment for what the machine says."""
        key, deadline = f"{self._name}/reasons", time.monotonic() + 2 * FAREWELL  # it waits for its own as well
        beats = self._store.add(f"{self._name}/beats", 0)
        while not self._store.check([key]):
            if time.monotonic() > deadline:
                if self._store.add(f"{self._name}/beats", 0) > beats:
                    return []  # it waits for this one
                node = int(self._name.split("/")[1])
                # The machines of a worker are the same for all its trials; those of others may do.
                return [Reason(f"Nothing is heard of its machine {node + 1} any more.", everything=True)]
            time.sleep(POLL)
        return [Reason(**reason) for reason in json.loads(self._store.get(key))]

    def end(self) -> None:
        """Have them ended."""
        self._store.set(f"{self._name}/end", "")


def serve(meeting: Path, node: int, follow: Follow) -> None:
    """Start and end processes of this machine as the first process of a worker wants, until that ends.

    Args:
        meeting: The file that says where that is.
        node: Number of this machine, from 1.
        follow: What processes run.
    """
    deadline = time.monotonic() + ANSWER
    while not meeting.is_file():
        if time.monotonic() > deadline:
            print(f"The first machine has not begun: there is no {meeting}.", flush=True)
            return
        time.sleep(LOOK)
    address, port = json.loads(meeting.read_text("utf-8"))
    try:
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=60))
        number = 1
        while _answered(store, f"{number}/{node}", node, follow):
            number += 1
    except dist.DistError as error:  # the first process has ended, however that was
        print(f"The first machine, {address}, is not reached any more: {error}", flush=True)


def _answered(store: dist.Store, name: str, node: int, follow: Follow) -> bool:
    """Run the processes of the next training; False when there is none."""
    while not store.check([f"{name}/start"]):
        if store.check([CLOSED]):
            return False
        if store.check([f"{name}/end"]):  # it ended before it began
            return True
        time.sleep(LOOK)
    told = json.loads(store.get(f"{name}/start"))
    first = Rank(**told["first"])
    processes = LocalProcesses(follow, SharedTraining.from_dict(told["training"]), first.beside(node))
    ready = said = False
    try:
        processes.start()
        while not store.check([f"{name}/end"]):
            if not ready and processes.ready():
                ready = True
                store.set(f"{name}/ready", "")
            if not said and processes.ended():
                said = True
                store.set(f"{name}/reasons", json.dumps([asdict(reason) for reason in processes.reasons()]))
            store.add(f"{name}/beats", 1)
            time.sleep(LOOK)
    finally:
        processes.end()
    return True
