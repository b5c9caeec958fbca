"""A plan from start to end: in this process, or by workers that an executor starts, whose news are shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from rich.console import Console

from mmbench.runner.executors import Executor, Workers
from mmbench.runner.executors.local import LocalExecutor
from mmbench.runner.plan import Trial
from mmbench.runner.progress import Display
from mmbench.runner.record import Record
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import EDITED, Options, edited, run_trials

POLL = 0.1
"""Seconds between two looks at what workers say."""
LATE = 60.0
"""Seconds that a record may take to be seen here after its worker has ended."""


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


def launch(trials: Sequence[Trial], options: Options, console: Console, executor: Executor | None = None) -> Ran:
    """Run a plan and return what became of it.

    Args:
        trials: The plan.
        options: How to run it.
        console: Where to show it.
        executor: Where workers start; by default in this process for one, else in processes of this machine.
    """
    options = replace(options, jobs=min(options.jobs, len(trials)))
    devices = max((trial.devices for trial in trials), default=1)
    display = Display(console, trials)
    with display.shown():
        if changed := edited(trials):
            display(changed, EDITED)
        # A training over several devices may take its process along when it fails: that is never the command itself.
        elif executor is None and options.jobs <= 1 and devices == 1:
            own = torch.get_num_threads()
            torch.set_num_threads(options.threads or own)
            try:
                run_trials(trials, options, display)
            finally:
                torch.set_num_threads(own)
        else:
            executor = executor or LocalExecutor(options.jobs, options.accelerator == "cpu", options.threads, devices)
            console.print(f"{executor.text}.", style="dim", markup=False, highlight=False, soft_wrap=True)
            _by_workers(trials, options, executor, display)
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


def _by_workers(trials: Sequence[Trial], options: Options, executor: Executor, display: Display) -> None:
    """Let workers run the plan, and show what they say until nothing is left or none of them is there any more."""
    plan = SharedPlan.create(trials, options, executor.name)
    workers: Workers | None = None
    stay = False
    try:
        workers = executor.start(plan)
        _watch(plan, workers, display, executor.one_machine)
    except KeyboardInterrupt:
        stay = workers is not None and workers.go_on_alone()
        raise
    finally:
        if not stay:
            try:
                if workers is not None:
                    workers.end()
            finally:
                plan.remove(logs=workers is None or not _left(plan, display))


def _left(plan: SharedPlan, display: Display) -> list[Trial]:
    """Return the trials without a record; that one worker has given up one does not mean that another has."""
    return [trial for trial in plan.trials if not isinstance(display.ended.get(trial.id), Record)]


def _watch(plan: SharedPlan, workers: Workers, display: Display, one_machine: bool) -> None:
    gone = 0.0  # since when there are no workers
    while left := _left(plan, display):
        alive = workers.alive()  # asked first: who has ended has said everything
        stop = False
        with suppress(OSError):  # the next look may see what this one does not
            for trial, news in plan.news():
                if isinstance(news, MachineError) and news.everything and not one_machine:
                    news = MachineError(str(news), everything=False)  # of the machine of that worker
                display(trial, news)
                stop = stop or (isinstance(news, MachineError) and news.everything)
        if stop:
            return
        gone = 0.0 if alive else gone or time.monotonic()
        # What was written on another machine may be seen here a while later.
        if gone and time.monotonic() - gone >= (0.0 if one_machine and not plan.promised else LATE):
            break
        time.sleep(POLL)
    for trial in left:
        if record := plan.options.finished_record(trial):
            display(trial, record)
    if left and not plan.heard_of:
        display(left[0], workers.silent())
