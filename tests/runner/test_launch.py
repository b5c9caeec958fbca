"""Many trials: nothing runs twice, several processes share a plan, an interrupt loses nothing."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from rich.console import Console

from data_modules.datasets.synthetic.clips import write_clips
from mmbench.runner import launch as launch_module
from mmbench.runner import work as work_module
from mmbench.runner.executors import local, worker
from mmbench.runner.launch import launch
from mmbench.runner.lease import Lease
from mmbench.runner.plan import Trial
from mmbench.runner.record import Record
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.trial import describe
from mmbench.runner.troubles import MachineError, TakenOver
from mmbench.runner.work import Options, run_trials
from tests.runner.conftest import Planner, find


def quiet_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def test_a_finished_trial_is_never_run_again(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = plan("lf_dnn", epochs=1, seeds=(1, 2))
    first = launch(trials, options, quiet_console()).records
    monkeypatch.setattr(work_module, "run_trial", lambda *args, **kwargs: pytest.fail("ran again"))
    console = quiet_console()
    assert launch(trials, options, console).records == first
    assert console.file.getvalue().count("(kept)") == 2


def test_failed_trials_run_again_only_when_asked(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(type(trial), "datamodule", lambda self, *sizes: 1 / 0)
        assert launch([trial], options, quiet_console()).records[0].status == "failed"
    assert launch([trial], options, quiet_console()).records[0].status == "failed"
    again = dataclasses.replace(options, retry=True)
    assert launch([trial], again, quiet_console()).records[0].completed


def test_two_runs_over_one_leaderboard_share_the_work(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end with all records, and each trial was run by one of them only."""
    trials = plan("lf_dnn", epochs=1, seeds=(1, 2, 3, 4))
    ran: list[str] = []
    lock = threading.Lock()

    def record_of(trial: Trial, *arguments: object, **settings: object) -> Record:
        with lock:
            ran.append(trial.id)
        finished[trial.id] = dataclasses.replace(describe(trial), status="completed")
        return finished[trial.id]

    finished: dict[str, Record] = {}
    monkeypatch.setattr(work_module, "run_trial", record_of)
    monkeypatch.setattr(Options, "finished_record", lambda self, trial: finished.get(trial.id))
    ends: list[list[str]] = [[], []]

    def go(which: int) -> None:
        run_trials(
            trials, options, lambda trial, news: ends[which].append(trial.id) if isinstance(news, Record) else None
        )

    threads = [threading.Thread(target=go, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == sorted(trial.id for trial in trials)
    assert sorted(ends[0]) == sorted(ends[1]) == sorted(ran)


def test_several_processes_give_the_records_of_one(plan: Planner, options: Options, tmp_path: Path) -> None:
    trials = plan("lf_dnn", epochs=2, seeds=(1, 2, 3))
    one = Options(tmp_path / "one", tmp_path / "one-runs", accelerator="cpu")
    alone = launch(trials, one, quiet_console()).records
    console = quiet_console()
    together = launch(trials, dataclasses.replace(options, jobs=2), console).records
    assert [record.test for record in together] == [record.test for record in alone]
    assert "[3/3]" in console.file.getvalue()


def test_an_interrupt_keeps_what_is_done(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = plan("lf_dnn", epochs=1, seeds=(1, 2))
    run_trial = work_module.run_trial

    def second_is_interrupted(trial, *args, **kwargs):
        if trial.seed == 2:
            raise KeyboardInterrupt
        return run_trial(trial, *args, **kwargs)

    monkeypatch.setattr(work_module, "run_trial", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(trials, options, quiet_console())
    assert [find(options.records, trial) is not None for trial in trials] == [True, False]
    monkeypatch.setattr(work_module, "run_trial", run_trial)
    assert len(launch(trials, options, quiet_console()).records) == 2


def test_an_interrupt_ends_the_processes(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this process hears of it here, while another one trains; no trial goes on unseen."""
    daemons: list[bool] = []

    def interrupted(self: object, trial: object, news: object) -> None:
        if not news:
            return
        daemons.extend(process.daemon for process in multiprocessing.active_children())
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_module.Display, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(plan("lf_dnn", epochs=2000), options, quiet_console(), local.LocalExecutor(1, cpu=True))
    assert not multiprocessing.active_children()
    assert daemons == [False], "a daemon may not start processes that read media"


def deaf(folder: Path, name: str, threads: int, beside: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    plan = SharedPlan(folder)
    with plan.reporter(name) as report:
        report(plan.trials[0], 1)
    time.sleep(600)


def test_an_interrupt_ends_processes_that_do_not_listen(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library may take note of the signal and go on."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch_module.Display, "__call__", interrupted)
    monkeypatch.setattr(local, "_work", deaf)
    monkeypatch.setattr(local, "GRACE", 0.5)
    with pytest.raises(KeyboardInterrupt):
        launch(plan("lf_dnn", epochs=1), options, quiet_console(), local.LocalExecutor(1, cpu=True))
    assert not multiprocessing.active_children()


def test_a_second_interrupt_ends_the_processes_at_once(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the first one is being obeyed: nothing is waited for, and nothing trains on."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    join = SpawnProcess.join

    def impatient(self: SpawnProcess, timeout: float | None = None) -> None:
        if timeout is not None:
            raise KeyboardInterrupt
        join(self)

    monkeypatch.setattr(launch_module.Display, "__call__", interrupted)
    monkeypatch.setattr(local, "_work", deaf)
    monkeypatch.setattr(SpawnProcess, "join", impatient)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch(plan("lf_dnn", epochs=1), options, quiet_console(), local.LocalExecutor(1, cpu=True))
    assert not multiprocessing.active_children()
    assert time.monotonic() - start < 600, "the processes would have slept for longer"


def test_processes_that_train_share_those_that_read(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(worker, "run_trials", lambda trials, options, *rest: given.append(options.media_workers))
    monkeypatch.setattr(worker, "automatic_workers", lambda trainings: 10 * trainings)
    shared = SharedPlan.create(plan("lf_dnn"), options, "local")
    worker.run_worker(shared.folder, "one", beside=3)
    assert given == [30]


def test_trials_on_raw_media_run_side_by_side(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MMBENCH_WORKERS", "1")
    store = write_clips(tmp_path / "clips.h5", clips=(4, 2, 2))
    trials = plan("constant", epochs=1, seeds=(1, 2), dataset="synthetic_clips", path=store.path)
    records = launch(trials, dataclasses.replace(options, jobs=2), quiet_console()).records
    assert [record.status for record in records] == ["completed"] * 2


def test_what_another_process_runs_is_waited_for_and_said(plan: Planner, options: Options) -> None:
    """The other one ends without a record here: this one runs the trial then."""
    (trial,) = plan("lf_dnn", epochs=1)
    path = options.records.path(trial).with_suffix(".lease")
    held = Lease.take(path)
    assert held is not None
    threading.Timer(1.0, held.release).start()
    console = quiet_console()
    assert launch([trial], options, console).records[0].completed
    said = f"lf_dnn seed 1111: waiting for process {os.getpid()} on "
    assert said in console.file.getvalue()
    assert not path.exists()


def test_code_that_is_edited_between_plan_and_start_stops_the_plan(plan: Planner, options: Options) -> None:
    """Else a record would name code that did not make it."""
    trials = [dataclasses.replace(trial, code="before") for trial in plan("lf_dnn", epochs=1, seeds=(1, 2))]
    ran = launch(trials, dataclasses.replace(options, jobs=2), quiet_console())
    assert ran.stopped is not None
    assert "The code was edited while it started" in str(ran.stopped)
    assert options.records.paths() == []


def test_a_trial_that_was_taken_over_is_waited_for_and_not_given_up(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process had not been heard of for a while; whoever took the trial leaves without a record."""
    trial, other = plan("lf_dnn", epochs=1, seeds=(1, 2))
    run_trial, lost, given_up = work_module.run_trial, [trial.id], set()

    def taken(one: Trial, *arguments: object, **settings: object) -> Record:
        if one.id in lost:
            lost.remove(one.id)
            raise TakenOver("Another process took it.")
        return run_trial(one, *arguments, **settings)

    monkeypatch.setattr(work_module, "run_trial", taken)
    news: list[tuple[int, object]] = []
    run_trials([trial, other], options, lambda one, said: news.append((one.seed, said)), given_up)
    assert not given_up
    assert (1, "Another process took it.") in news
    assert [seed for seed, said in news if isinstance(said, Record)] == [2, 1]


class Elsewhere:
    """An executor whose workers are told to have ended, and one of which has said something."""

    name, one_machine, text = "elsewhere", False, "Workers elsewhere"

    def __init__(self, says: Callable[[SharedPlan], None]) -> None:
        self.says, self.ended = says, 0

    def start(self, shared: SharedPlan) -> Elsewhere:
        self.says(shared)
        return self

    def alive(self) -> bool:
        return False

    def end(self) -> None:
        self.ended += 1

    def go_on_alone(self) -> bool:
        return False

    def silent(self) -> MachineError:
        return MachineError("nobody came", everything=True)


def test_workers_that_never_begin_are_told_of(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_module, "LATE", 0.3)
    executor = Elsewhere(lambda shared: None)
    ran = launch(plan("lf_dnn", epochs=1), options, quiet_console(), executor)
    assert str(ran.stopped) == "nobody came"
    assert executor.ended == 1
    assert not [*(options.runs / "plans").iterdir()]


def test_one_bad_machine_does_not_end_the_plan_and_late_records_count(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "LATE", 0.3)
    trials = plan("lf_dnn", epochs=1, seeds=(1, 2))

    def says(shared: SharedPlan) -> None:
        with shared.reporter("bad") as report:
            report(trials[0], MachineError("no such folder here", everything=True))
        for trial in trials:  # by another worker, whose news are not seen
            work_module.run_trial(trial, options.records, options.runs, accelerator="cpu")

    ran = launch(trials, options, quiet_console(), Elsewhere(says))
    assert ran.stopped is None
    assert [record.seed for record in ran.records] == [1, 2]
    assert not ran.troubles
