"""Where trials run: in this process, or in several processes that each take what is left of the plan.

A trial is claimed by a lock on its folder under ``runs``, so any number of commands and processes on one file system
can work on the same leaderboard; what another one is running is waited for, never run twice.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_modules.streaming import READERS, automatic_workers
from mmbench.runner.plan import Trial
from mmbench.runner.records import RecordDict, Records
from mmbench.runner.trial import Tracker, run_trial

GRACE = 10.0
"""Seconds that a process has to end by itself, once it was told so."""
Notify = Callable[[Trial, RecordDict | None, int], None]


@dataclass(frozen=True)
class Options:
    """How trials are run; nothing here decides a result.

    Attributes:
        leaderboard: Folder with ``records``.
        runs: Folder for checkpoints, logs and locks.
        tracker: ``csv`` or ``wandb``.
        accelerator: Lightning's accelerator.
        jobs: Processes; on a machine with GPUs each process gets one, in turn.
        retry: Whether to run failed and diverged trials again.
    """

    leaderboard: Path = Path("leaderboard")
    runs: Path = Path("runs")
    tracker: Tracker = "csv"
    accelerator: str = "auto"
    jobs: int = 1
    retry: bool = False

    @property
    def records(self) -> Records:
        """The records of the leaderboard."""
        return Records(self.leaderboard / "records")


@contextmanager
def claimed(folder: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; gives False when another process has it and ``wait`` is False."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # processes that were forked meanwhile hold the file too


def work(trials: Sequence[Trial], options: Options, notify: Notify) -> None:
    """Run what is left of a plan in this process; trials that another process holds come last.

    Args:
        trials: The plan.
        options: How to run.
        notify: Called with a trial, its record (None while it runs) and its finished epochs.
    """
    busy: list[Trial] = []
    for wait, queue in ((False, trials), (True, busy)):
        for trial in queue:
            with claimed(options.runs / trial.id, wait) as mine:
                if not mine:
                    busy.append(trial)
                    continue
                record = options.records.find(trial)
                if record is None or (options.retry and record["status"] != "completed"):
                    notify(trial, None, 0)
                    record = run_trial(
                        trial,
                        options.records,
                        options.runs,
                        tracker=options.tracker,
                        accelerator=options.accelerator,
                        on_epoch=lambda epochs, trial=trial: notify(trial, None, epochs),  # type: ignore[misc] # mypy cannot type a default in a lambda
                    )
            notify(trial, record, 0)


def automatic_jobs(trials: int) -> int:
    """Return one process per GPU, or per core on a machine without, but no more than there are trials."""
    return max(1, min(trials, torch.cuda.device_count() or os.cpu_count() or 1))


def launch(trials: Sequence[Trial], options: Options, console: Console) -> list[RecordDict]:
    """Run a plan and return its records, in the order of the plan."""
    options = replace(options, jobs=min(options.jobs, len(trials)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        display = _Display(progress, console, trials)
        if options.jobs <= 1:
            work(trials, options, display)
        else:
            _work_in_processes(trials, options, display)
    records = [options.records.find(trial) for trial in trials]
    return [record for record in records if record is not None]


class _Display:
    """Shows trials as they go: bars on a terminal, one line per finished trial elsewhere."""

    def __init__(self, progress: Progress, console: Console, trials: Sequence[Trial]) -> None:
        self.progress, self.console = progress, console
        self.total = progress.add_task("trials", total=len(trials))
        self.tasks: dict[str, object] = {}
        self.started: dict[str, float] = {}
        self.count, self.size = 0, len(trials)

    def __call__(self, trial: Trial, record: RecordDict | None, epochs: int) -> None:
        if record is None:
            if trial.id not in self.tasks:
                self.started[trial.id] = time.monotonic()
                self.tasks[trial.id] = self.progress.add_task(trial.title, total=trial.training["max_epochs"])
            self.progress.update(self.tasks[trial.id], completed=epochs)  # type: ignore[arg-type] # rich's own id type
            return
        if trial.id in self.tasks:
            self.progress.remove_task(self.tasks.pop(trial.id))  # type: ignore[arg-type] # rich's own id type
        self.count += 1
        self.progress.advance(self.total)
        took = f" in {time.monotonic() - self.started[trial.id]:.0f} s" if trial.id in self.started else " (kept)"
        self.console.print(f"[{self.count}/{self.size}] {trial.title}: {outcome(record)}{took}", markup=False)


def outcome(record: RecordDict) -> str:
    """Return in a few words how a trial ended."""
    if record["status"] != "completed":
        return f"{record['status']}: {record['error']['message']}"
    metric = record["selection"]["metric"]
    return f"{metric} {record['test'][metric]:.4f} (epoch {record['selection']['epoch']})"


def _work_in_processes(trials: Sequence[Trial], options: Options, display: _Display) -> None:
    """Run the plan in several processes, each with its share of the devices or of the cores."""
    context = multiprocessing.get_context("spawn")
    events: multiprocessing.SimpleQueue[tuple[str, RecordDict | None, int]] = context.SimpleQueue()
    by_id = {trial.id: trial for trial in trials}
    # No daemons, which may not start processes of their own: trials on raw media have some that read.
    processes = [context.Process(target=_worker, args=(list(trials), options, events)) for _ in range(options.jobs)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(device) for device in range(torch.cuda.device_count())]
    try:
        try:
            for number, process in enumerate(processes):
                if devices:  # a new process sees only its own device
                    os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
                process.start()
        finally:
            if visible is None:
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = visible
        shown: set[str] = set()
        while any(process.is_alive() for process in processes) or not events.empty():
            if events.empty():
                time.sleep(0.05)
                continue
            key, record, epochs = events.get()
            if record is None or key not in shown:
                display(by_id[key], record, epochs)
            if record is not None:
                shown.add(key)
    finally:  # on Ctrl-C, of which the others may not know
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(GRACE)
            # Lightning's handler of the signal only takes note of it, and forgets it after the last batch of a test.
            process.kill()
            process.join()


def _worker(
    trials: list[Trial], options: Options, events: multiprocessing.SimpleQueue[tuple[str, RecordDict | None, int]]
) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.jobs))
    os.environ[READERS] = str(automatic_workers(options.jobs))
    with suppress(KeyboardInterrupt):  # the process that started this one says so
        work(trials, options, lambda trial, record, epochs: events.put((trial.id, record, epochs)))


def _die_with_parent() -> None:
    """End this process when the one that started it was killed, so that no trial goes on unseen.

    The processes that read for it notice within seconds, and hold the lock of the trial until then.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
