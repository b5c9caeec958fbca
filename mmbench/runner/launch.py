"""A plan from start to end: in this process, or by workers that an executor starts, whose news are shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
from mmbench.runner.work import EDITED, Options, edited, work

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
    display = Display(console, trials)
    with display.shown():
        if changed := edited(trials):
            display(changed, EDITED)
        elif executor is None and options.jobs <= 1:
            own = torch.get_num_threads()
            torch.set_num_threads(options.threads or own)
            try:
                work(trials, options, display)
            finally:
                torch.set_num_threads(own)
        else:
            executor = executor or LocalExecutor(options.jobs, options.accelerator == "cpu", options.threads)
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
        _watch(plan, workers, display)
    except KeyboardInterrupt:
        stay = workers is not None and workers.go_on_alone()
        raise
    finally:
        if not stay:
            if workers is not None:
                workers.end()
            plan.remove()


def _watch(plan: SharedPlan, workers: Workers, display: Display) -> None:
    gone = 0.0  # since when there are no workers
    wanted = {trial.id for trial in plan.trials}
    while display.ended.keys() < wanted:
        alive = workers.alive()  # asked first: who has ended has said everything
        for trial, news in plan.news():
            display(trial, news)
            if isinstance(news, MachineError) and news.everything:
                return
        if not alive and not plan.promised:
            if not plan.heard_of:
                display(plan.trials[0], workers.silent())
            return
        gone = 0.0 if alive else gone or time.monotonic()
        if gone and time.monotonic() - gone > LATE:
            return
        time.sleep(POLL)
