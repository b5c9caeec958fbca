"""What a worker does: it takes what is left of a plan, trial by trial, in this process.

A trial is claimed by a lease beside its record, so any number of commands and workers on one file system can work on
the same records; what another one is running is waited for, never run twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from mmbench.methods import methods
from mmbench.runner.code import code_hash
from mmbench.runner.environment import Tracker
from mmbench.runner.interruption import heed
from mmbench.runner.lease import Lease, LeaseError, owner, wait
from mmbench.runner.nodes import Nodes
from mmbench.runner.plan import Trial
from mmbench.runner.progress import News
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import Records
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError, TakenOver, dead_context
from mmbench.runner.verify import verify_file

EDITED = MachineError("The code was edited while it started: start again.", everything=True)
AGAIN = 75
"""Exit status of a worker that could do nothing more, though another one in its place could."""
Notify = Callable[[Trial, News], None]


def exit_stuck(again: bool) -> None:
    """End this process at once; its status says whether another one in its place could go on."""
    os._exit(AGAIN if again else 1)


class Marks(Protocol):
    """Names that several workers see and add to."""

    def __contains__(self, name: object) -> bool:
        """Say whether a name was added."""

    def add(self, name: str, /) -> None:
        """Add a name."""


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
        outdated: By id of a trial the date of a record that is to be made again.
        threads: Threads of each process; 0 for its share of the cores. They decide the last digits of numbers.
        media_workers: Processes that load frames and waveforms for each one that trains; by default as many as the
            data module takes.
        nodes: Machines that each trial is spread over, with as many of its devices each.
    """

    leaderboard: Path = Path("leaderboard/local")
    runs: Path = Path("runs")
    tracker: Tracker = "csv"
    accelerator: str = "auto"
    jobs: int = 1
    retry: bool = False
    outdated: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    media_workers: int | None = None
    nodes: int = 1

    @property
    def records(self) -> Records:
        """The records of the leaderboard."""
        return Records(self.leaderboard / "records")

    def finished_record(self, trial: Trial) -> Record | None:
        """Return the record that makes it needless to run a trial: one that holds, and that the present code made."""
        path = self.records.path(trial)
        if not path.is_file():
            return None
        try:
            record = verify_file(path)
        except RecordError:
            return None
        if record.code != trial.code or record.environment.date == self.outdated.get(trial.id):
            return None
        return record if record.completed or not self.retry else None

    def afresh(self, trials: Iterable[Trial]) -> Options:
        """Return options with which the records that trials have now are made again.

        Records are told by their dates, and no clocks are compared: those of two machines may differ.
        """
        dates = {trial.id: record.environment.date for trial in trials if (record := self.finished_record(trial))}
        return replace(self, outdated=dates)


def run_trials(
    trials: Sequence[Trial],
    options: Options,
    notify: Notify,
    given_up: Marks | None = None,
    nodes: Nodes | None = None,
    leave: Callable[[bool], None] = exit_stuck,
) -> None:
    """Run what is left of a plan in this process; trials that another process holds come last.

    A trouble that hits all trials ends it.

    Args:
        trials: The plan.
        options: How to run.
        notify: Called with a trial and what there is to say of it.
        given_up: Ids of the trials that are not to be tried, since they ended in trouble in a process that shares the
            plan.
        nodes: The other machines of this worker, if it has any.
        leave: Ends this process, which can do nothing more; told whether one in its place could go on.
    """
    given_up = set() if given_up is None else given_up

    def on_stuck(trial: Trial, leases: ExitStack, end: Record | MachineError) -> None:
        try:
            with leases:
                notify(trial, end)
                if isinstance(end, MachineError) and not isinstance(end, TakenOver):
                    given_up.add(trial.id)
        finally:
            leave(not (isinstance(end, MachineError) and end.everything))

    busy: list[Trial] = []
    for patient, queue in ((False, trials), (True, busy)):
        for trial in queue:
            heed()
            record = options.finished_record(trial)
            if record is None and trial.id in given_up:
                continue
            if record is None:
                try:
                    record = _claim_and_run(trial, options, notify, patient, nodes, on_stuck)
                except TakenOver as error:
                    notify(trial, str(error))
                    busy.append(trial)
                    continue
                except MachineError as error:
                    notify(trial, error)
                    if error.everything:  # in this process; those of other machines may do better
                        return
                    given_up.add(trial.id)
                    continue
            if record is None:
                busy.append(trial)
                continue
            notify(trial, record)
            if dead_context(record) and torch.cuda.is_initialized():
                notify(trial, MachineError("It left the GPU unusable for its process: start again.", everything=True))
                return


def _claim_and_run(
    trial: Trial,
    options: Options,
    notify: Notify,
    patient: bool,
    nodes: Nodes | None,
    on_stuck: Callable[[Trial, ExitStack, Record | MachineError], None],
) -> Record | None:
    """Run a trial unless it is done by now; None when another process has it and this one is not patient."""

    def done() -> bool:
        heed()
        return options.finished_record(trial) is not None

    # Beside the record, for commands with other checkpoints; and beside these, for commands with other records.
    paths = (options.records.path(trial).with_suffix(".lease"), options.runs / f"{trial.id}.lease")
    with ExitStack() as stack:
        leases = []
        for path in paths:
            try:
                lease = Lease.take(path)
                if lease is None and patient:
                    notify(trial, f"waiting for {owner(path) or 'another process'}, which runs it")
                    lease = wait(path, done)
            except LeaseError as error:
                raise MachineError(str(error), everything=True) from error
            if lease is None:
                return options.finished_record(trial) if patient else None
            leases.append(stack.enter_context(lease))
        if record := options.finished_record(trial):
            return record
        notify(trial, 0)
        return run_trial(
            trial,
            options.records,
            options.runs,
            tracker=options.tracker,
            accelerator=options.accelerator,
            media_workers=options.media_workers,
            on_epoch=lambda epochs: notify(trial, epochs),
            still_mine=lambda: all(lease.held() for lease in leases),
            on_stuck=partial(on_stuck, trial, stack),
            nodes=nodes,
        )


def edited(trials: Sequence[Trial]) -> Trial | None:
    """Return a trial whose method or data set was loaded by this process in another state than the plan knows."""
    methods()  # loads them
    codes = {(trial.method, trial.dataset): trial.code for trial in trials}
    changed = {keys for keys, code in codes.items() if code_hash(*keys) != code}
    return next((trial for trial in trials if (trial.method, trial.dataset) in changed), None)
