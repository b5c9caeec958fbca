"""Workers as processes of this machine, each with its share of the GPUs or of the cores."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from mmbench.runner.distributed import die_with_parent
from mmbench.runner.executors.worker import run_worker
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import AGAIN

GRACE = 10.0
"""Seconds that a process has to end by itself, once it was told so."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def automatic_jobs(trials: int, per_gpu: int = 1, cpu: bool = False, devices: int = 1) -> int:
    """Return the workers of a machine: so many per GPU, or one per core without GPUs; no more than there are trials.

    Args:
        trials: How many there are.
        per_gpu: Workers that share a GPU.
        cpu: Whether they compute on the CPU though there may be GPUs.
        devices: GPUs, or cores, of one trial.
    """
    gpus = 0 if cpu else torch.cuda.device_count()
    return max(1, min(trials, (gpus * per_gpu or os.cpu_count() or 1) // devices))


class LocalExecutor:
    """Starts processes.

    Args:
        jobs: How many.
        cpu: Whether they compute on the CPU though there may be GPUs.
        threads: Threads of each; 0 for its share of the cores.
        per_trial: Devices of one trial: GPUs that each process sees, or processes that it shares its cores with.
    """

    name, one_machine = "local", True

    def __init__(self, jobs: int, cpu: bool = False, threads: int = 0, per_trial: int = 1) -> None:
        self.jobs, self.per_trial = jobs, per_trial
        visible = os.environ.get(VISIBLE)
        found = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
        self.devices = [] if cpu else found[: torch.cuda.device_count()]
        self.threads = threads or (0 if self.devices else max(1, (os.cpu_count() or 1) // (jobs * per_trial)))

    @property
    def text(self) -> str:
        """What will be used, in a line."""
        what = f"{self.jobs} process{'es' * (self.jobs > 1)}"
        if self.devices:
            return f"{what} on {min(self.jobs * self.per_trial, len(self.devices))} of {len(self.devices)} GPUs"
        with_others = f", {self.per_trial} for each trial" if self.per_trial > 1 else ""
        return f"{what} of {self.threads} thread{'s' * (self.threads > 1)}{with_others}"

    def _visible_to(self, number: int) -> list[str]:
        """Return the GPUs that a process sees: those of its trials, in turn."""
        turns = range(number * self.per_trial, (number + 1) * self.per_trial)
        return [self.devices[turn % len(self.devices)] for turn in turns] if self.devices else []

    def start(self, plan: SharedPlan) -> LocalWorkers:
        """Start the processes of a plan; each sees only its own device."""
        workers = LocalWorkers(lambda number: self._start(plan, number))
        try:
            for number in range(self.jobs):
                workers.processes.append(self._start(plan, number))
        except BaseException:
            workers.end()
            raise
        return workers

    def _start(self, plan: SharedPlan, number: int) -> SpawnProcess:
        """Start the process of a number."""
        # No daemon, which may not start processes of its own: trials on raw media have some that read.
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(plan.folder, f"process{number}", self.threads, self.jobs)
        )
        visible = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(self._visible_to(number))
        try:
            process.start()
        except BaseException:
            if process.pid is not None:  # else it would train on, and the command wait for it
                process.kill()
            raise
        finally:
            if visible is None:
                os.environ.pop(VISIBLE, None)
            else:
                os.environ[VISIBLE] = visible
        return process


class LocalWorkers:
    """Processes of this machine.

    Args:
        start: Starts the process of a number, in the place of one that could do nothing more.

    Attributes:
        processes: What was started, by number.
    """

    def __init__(self, start: Callable[[int], SpawnProcess]) -> None:
        self.processes: list[SpawnProcess] = []
        self._start = start

    def alive(self) -> bool:
        """Say whether any of them runs, once those that can be replaced have been."""
        for number, process in enumerate(self.processes):
            if process.exitcode == AGAIN:
                self.processes[number] = self._start(number)
        return any(process.is_alive() for process in self.processes)

    def end(self) -> None:
        """End them: in a while by themselves, at once on another Ctrl-C."""
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + GRACE
        try:
            for process in self.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    def go_on_alone(self) -> bool:
        """They end with the command."""
        return False

    def silent(self) -> MachineError:
        """Return what is said when all have ended and none began."""
        codes = ", ".join(str(process.exitcode) for process in self.processes)
        return MachineError(f"No process has begun to work: they ended with {codes}.", everything=True)


def _work(folder: Path, name: str, threads: int, beside: int) -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    run_worker(folder, name, threads, beside)
