"""Where trials run: in this process, or in several processes that each take what is left of the plan.

A trial is claimed by a lease beside its record, so any number of commands and processes on one file system can work on
the same records; what another one is running is waited for, never run twice.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from rich.console import Console

from data_modules.batches.streaming import READERS, automatic_workers
from mmbench.methods import methods
from mmbench.runner.code import code_hash
from mmbench.runner.environment import Tracker
from mmbench.runner.lease import Lease, LeaseError, owner, wait
from mmbench.runner.plan import Trial
from mmbench.runner.progress import Display, News
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import Records
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError, dead_context
from mmbench.runner.verify import verify_file

EDITED = MachineError("The code was edited while it started: start again.", everything=True)
GRACE = 10.0
"""Seconds that a process has to end by itself, once it was told so."""
Notify = Callable[[Trial, News], None]
Events = SimpleQueue[tuple[str, News]]


@dataclass(frozen=True)
class Options:
    """How trials are run; nothing here decides a result.

    Attributes:
        leaderboard: Folder with ``records``.
        runs: Folder for checkpoints and logs.
        tracker: Where curves go while training, beside the table in CSV: ``csv`` for nowhere else.
        accelerator: Lightning's accelerator.
        jobs: Processes; on a machine with GPUs each process gets one, in turn.
        retry: Whether to run failed and diverged trials again.
        since: Records that were made before this time are made again; empty keeps all.
        threads: Threads of each process; 0 for its share of the cores. They decide the last digits of numbers.
    """

    leaderboard: Path = Path("leaderboard/local")
    runs: Path = Path("runs")
    tracker: Tracker = "csv"
    accelerator: str = "auto"
    jobs: int = 1
    retry: bool = False
    since: str = ""
    threads: int = 0

    @property
    def records(self) -> Records:
        """The records of the leaderboard."""
        return Records(self.leaderboard / "records")

    def kept(self, trial: Trial) -> Record | None:
        """Return the record that makes it needless to run a trial: one that holds, and that the present code made."""
        path = self.records.path(trial)
        if not path.is_file():
            return None
        try:
            record = verify_file(path)
        except RecordError:
            return None
        if record.code != trial.code or record.environment.date < self.since:
            return None
        return record if record.completed or not self.retry else None


@dataclass
class Ran:
    """What became of a plan.

    Attributes:
        records: The records of its trials, in the order of the plan.
        troubles: The trials that ended without one for no fault of their method, and why.
        unfinished: The trials that nobody finished: their process was ended, or the plan was stopped.
        stopped: What stopped the whole plan, if anything did.
    """

    records: list[Record] = field(default_factory=list)
    troubles: list[tuple[Trial, MachineError]] = field(default_factory=list)
    unfinished: list[Trial] = field(default_factory=list)
    stopped: MachineError | None = None


def work(
    trials: Sequence[Trial], options: Options, notify: Notify, given_up: MutableSequence[bool] | None = None
) -> None:
    """Run what is left of a plan in this process; trials that another process holds come last.

    A trouble that hits all trials ends it.

    Args:
        trials: The plan.
        options: How to run.
        notify: Called with a trial and what there is to say of it.
        given_up: By trial whether it is not to be tried, since it ended in trouble in a process that shares the plan.
    """
    given_up = [False] * len(trials) if given_up is None else given_up
    busy: list[int] = []
    for patient, queue in ((False, range(len(trials))), (True, busy)):
        for place in queue:
            trial = trials[place]
            record = options.kept(trial)
            if record is None and given_up[place]:
                continue
            if record is None:
                try:
                    record = _claim_and_run(trial, options, notify, patient)
                except MachineError as error:
                    given_up[place] = True
                    notify(trial, error)
                    if error.everything:
                        return
                    continue
            if record is None:
                busy.append(place)
                continue
            notify(trial, record)
            if dead_context(record) and torch.cuda.is_initialized():
                notify(trial, MachineError("It left the GPU unusable for its process: start again.", everything=True))
                return


def _claim_and_run(trial: Trial, options: Options, notify: Notify, patient: bool) -> Record | None:
    """Run a trial unless it is done by now; None when another process has it and this one is not patient."""
    # Beside the record, for commands with other checkpoints; and beside these, for commands with other records.
    paths = (options.records.path(trial).with_suffix(".lease"), options.runs / f"{trial.id}.lease")
    with ExitStack() as stack:
        leases = []
        for path in paths:
            try:
                lease = Lease.take(path)
                if lease is None and patient:
                    notify(trial, f"waiting for {owner(path) or 'another process'}, which runs it")
                    lease = wait(path, lambda: options.kept(trial) is not None)
            except LeaseError as error:
                raise MachineError(str(error), everything=True) from error
            if lease is None:
                return options.kept(trial) if patient else None
            leases.append(stack.enter_context(lease))
        if record := options.kept(trial):
            return record
        notify(trial, 0)
        return run_trial(
            trial,
            options.records,
            options.runs,
            tracker=options.tracker,
            accelerator=options.accelerator,
            on_epoch=lambda epochs: notify(trial, epochs),
            still_mine=lambda: all(lease.held() for lease in leases),
        )


def automatic_jobs(trials: int) -> int:
    """Return one process per GPU, or per core on a machine without, but no more than there are trials."""
    return max(1, min(trials, torch.cuda.device_count() or os.cpu_count() or 1))


def launch(trials: Sequence[Trial], options: Options, console: Console) -> Ran:
    """Run a plan and return what became of it."""
    options = replace(options, jobs=min(options.jobs, len(trials)))
    display = Display(console, trials)
    with display.shown():
        if edited := _edited(trials):
            display(edited, EDITED)
        elif options.jobs <= 1:
            own = torch.get_num_threads()
            torch.set_num_threads(options.threads or own)
            try:
                work(trials, options, display)
            finally:
                torch.set_num_threads(own)
        else:
            _work_in_processes(trials, options, display)
    ran = Ran(stopped=display.stopped)
    for trial in trials:
        match display.ended.get(trial.id):
            case Record() as record:
                ran.records.append(record)
            case MachineError() as trouble:
                ran.troubles.append((trial, trouble))
            case _:
                ran.unfinished.append(trial)
    return ran


def _work_in_processes(trials: Sequence[Trial], options: Options, display: Display) -> None:
    """Run the plan in several processes, each with its share of the devices or of the cores."""
    context = multiprocessing.get_context("spawn")
    events: Events = context.SimpleQueue()
    by_id = {trial.id: trial for trial in trials}
    # No daemons, which may not start processes of their own: trials on raw media have some that read.
    given = (list(trials), options, events, context.RawArray(ctypes.c_bool, len(trials)))
    processes = [context.Process(target=_worker, args=given) for _ in range(options.jobs)]
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
        while any(process.is_alive() for process in processes) or not events.empty():
            if events.empty():
                time.sleep(0.05)
                continue
            key, news = events.get()
            display(by_id[key], news)
            if isinstance(news, MachineError) and news.everything:
                break
    finally:  # on Ctrl-C, of which the others may not know
        _end([process for process in processes if process.pid is not None])


def _end(processes: Sequence[SpawnProcess]) -> None:
    """End processes: in a while by themselves, at once on another Ctrl-C."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            # Lightning's handler of the signal only takes note of it, and forgets it after the last batch of a test.
            process.kill()
            process.join()


def _worker(trials: list[Trial], options: Options, events: Events, given_up: MutableSequence[bool]) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    if options.threads or not torch.cuda.is_available():
        torch.set_num_threads(options.threads or max(1, (os.cpu_count() or 1) // options.jobs))
    os.environ[READERS] = str(automatic_workers(options.jobs))
    with suppress(KeyboardInterrupt):  # the process that started this one says so
        if edited := _edited(trials):
            events.put((edited.id, EDITED))
            return
        work(trials, options, lambda trial, news: events.put((trial.id, news)), given_up)


def _edited(trials: Sequence[Trial]) -> Trial | None:
    """Return a trial whose method or data set was loaded by this process in another state than the plan knows."""
    methods()  # loads them
    codes = {(trial.method, trial.dataset): trial.code for trial in trials}
    changed = {keys for keys, code in codes.items() if code_hash(*keys) != code}
    return next((trial for trial in trials if (trial.method, trial.dataset) in changed), None)


def _die_with_parent() -> None:
    """End this process when the one that started it was killed, so that no trial goes on unseen.

    The processes that read for it notice within seconds.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
