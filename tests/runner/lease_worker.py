"""Helpers of the tests of leases, and a process that they start and kill: ``hold`` a lease, or ``work`` on many."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from mmbench.runner import lease as lease_module
from mmbench.runner import owners
from mmbench.runner.lease import Lease


def foreign(path: Path, token: str = "0" * 16, beat: int = 0, process: str = "7.1.abcdef.elsewhere") -> Path:
    """Leave the lease of an owner on another machine."""
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"{token}.{beat}.{process}"
    file.touch()
    return file


def left(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def say(log: Path, text: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{text}\n".encode())  # one write to the end of the file is not mixed with others
    os.close(handle)


def hold(path: Path) -> None:
    """Take the lease, then at each line of the input say whether it is held; end without releasing it."""
    held = Lease.take(path)
    for line in sys.stdin:
        if line.strip() == "release":
            held.release()
        print(held.held(), flush=True)


def work(folder: Path, seed: int, blind: bool, tasks: int) -> None:
    """Do tasks until all are done; die now and then in the middle of one.

    Args:
        folder: Where leases, marks of done tasks and the log lie.
        seed: Of what it does.
        blind: Whether it is on a machine of its own, as far as others can see.
        tasks: How many.
    """
    if blind:
        owners.machine = lambda: ""
    chance = random.Random(seed)
    log = folder.parent / "log"
    while missing := [task for task in range(tasks) if not (folder.parent / f"done{task}").exists()]:
        task = chance.choice(missing)
        lease = Lease.take(folder / f"{task}.lease")
        if lease is None:
            time.sleep(0.01)
            continue
        with lease:
            if (folder.parent / f"done{task}").exists():
                continue
            who = f"{task} {seed}.{time.monotonic_ns()}"
            say(log, f"start {who}")
            time.sleep(chance.random() * 0.02)
            if chance.random() < 0.3:
                say(log, f"die {who}")
                os.kill(os.getpid(), signal.SIGKILL)
            say(log, f"sure {who}")
            if lease.held():
                (folder.parent / f"done{task}").touch()
                say(log, f"end {who}")
            else:
                say(log, f"lost {who}")


if __name__ == "__main__":
    lease_module.BEAT, owners.EXPIRY = 0.05, 0.4
    if sys.argv[1] == "hold":
        hold(Path(sys.argv[2]))
    else:
        work(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "blind", int(sys.argv[5]))
