"""A plan in a folder: what workers read of it, what they say, and that they see what the command sees."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import weakref
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer

from mmbench.runner import work as work_module
from mmbench.runner.callbacks import EpochSeed
from mmbench.runner.executors.worker import run_worker
from mmbench.runner.interruption import SIGNALS, heed, listening
from mmbench.runner.shared_plan import SharedPlan, plans, state
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import EDITED, Options
from tests.runner.conftest import Planner


@pytest.fixture
def shared(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> SharedPlan:
    """Return a plan of two trials in a folder; what a worker does to its process is undone afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.chdir(Path.cwd())
    return SharedPlan.create(plan("lf_dnn", epochs=1, seeds=(1, 2)), options, "local")


def test_a_worker_reads_the_plan_as_it_was_made(shared: SharedPlan, plan: Planner, options: Options) -> None:
    read = SharedPlan(shared.folder)
    made = plan("lf_dnn", epochs=1, seeds=(1, 2))
    assert [(trial.id, trial.code, trial.path) for trial in read.trials] == [
        (trial.id, trial.code, trial.path) for trial in made
    ]
    assert read.options == options
    assert [found.folder for found in plans(options.runs)] == [shared.folder]


def test_what_workers_say_arrives_once_and_half_lines_do_not(shared: SharedPlan) -> None:
    first, second = shared.trials
    with shared.reporter("a") as one, shared.reporter("b") as other:
        one(first, 3)
        other(second, "waiting for somebody")
        other(second, MachineError("no disk", everything=True))
        found = [
            (trial.seed, news if not isinstance(news, MachineError) else str(news)) for trial, news in shared.news()
        ]
        assert found == [(1, 3), (2, "waiting for somebody"), (2, "no disk")]
        assert [*shared.news()] == []
    with (shared.folder / "news/a.jsonl").open("a") as file:
        file.write('{"trial": "')  # killed here; the next worker of this name ends the line
    assert [*shared.news()] == []
    with shared.reporter("a") as again:
        again(first, 4)
    assert [news for _, news in shared.news()] == [4]


def test_a_record_is_news_when_it_is_seen(shared: SharedPlan, options: Options) -> None:
    """A file system may show the file of another machine later than what that machine says of it."""
    trial = shared.trials[0]
    record = run_trial(trial, options.records, options.runs, accelerator="cpu")
    path = options.records.path(trial)
    hidden = path.rename(path.with_suffix(".hidden"))
    with shared.reporter("a") as report:
        report(trial, record)
    assert [*shared.news()] == []
    assert shared.promised
    hidden.rename(path)
    assert [news.id for _, news in shared.news()] == [trial.id]
    assert not shared.promised


def test_a_worker_that_sees_another_folder_of_records_trains_nothing(shared: SharedPlan, options: Options) -> None:
    for probe in options.leaderboard.glob(".*.plan"):
        probe.unlink()
    run_worker(shared.folder, "far")
    ((_, said),) = shared.news()
    assert isinstance(said, MachineError)
    assert said.everything
    assert f"does not see the folder {options.leaderboard} of the command" in str(said)
    assert not options.records.paths()


def test_a_worker_with_other_code_trains_nothing(plan: Planner, options: Options, shared: SharedPlan) -> None:
    trials = [dataclasses.replace(trial, code="other") for trial in shared.trials]
    other = SharedPlan.create(trials, options, "slurm")
    run_worker(other.folder, "far")
    ((_, said),) = other.news()
    assert str(said) == str(EDITED)


def test_what_one_worker_gave_up_no_other_tries(shared: SharedPlan) -> None:
    first, second = shared.trials
    shared.given_up.add(first.id)
    run_worker(shared.folder, "one")
    assert {trial.seed for trial, _ in shared.news()} == {second.seed}


def test_a_worker_that_is_told_to_end_gives_its_trial_back(
    shared: SharedPlan, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes the trial next goes on with it."""
    before = signal.getsignal(signal.SIGTERM)
    trial = shared.trials[0]
    seen: list[tuple[str, str]] = []

    def told(*arguments: object, **settings: object) -> None:
        seen.append(state(trial, options))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(work_module, "run_trial", told)
    assert run_worker(shared.folder, "one") == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before
    assert [what for what, _ in seen] == ["running"]
    assert f"process {os.getpid()}" in seen[0][1]
    assert state(trial, options) == ("waiting", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_ends_though_python_loses_what_told_it_so(
    number: int, shared: SharedPlan, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is raised in the callback of a weak reference is printed and forgotten."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)

    def seeded(self: EpochSeed, trainer: Trainer, model: LightningModule) -> None:
        something = EpochSeed(0)
        reference = weakref.ref(something, lambda _: signal.raise_signal(number))
        del something
        assert reference() is None

    monkeypatch.setattr(EpochSeed, "on_train_epoch_start", seeded)
    assert run_worker(shared.folder, "one") == [number]
    assert [type(one.exc_value) for one in lost] == [KeyboardInterrupt]
    assert not options.records.path(shared.trials[0]).exists()
    assert state(shared.trials[0], options) == ("waiting", "")


def test_only_the_first_signal_interrupts() -> None:
    """Others come while what the first one interrupted is being cleaned up."""
    with listening() as told:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert told == [signal.SIGTERM, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            heed()
    with listening():
        heed()


def test_workers_have_the_variables_and_the_folder_of_the_command(
    shared: SharedPlan, plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MMBENCH_DATA", "somewhere")
    made = SharedPlan.create(plan("lf_dnn", epochs=1), options, "ray")
    place = Path.cwd()
    monkeypatch.delenv("MMBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    SharedPlan(made.folder).enter()
    assert os.environ["MMBENCH_DATA"] == "somewhere"
    assert Path.cwd() == place
