"""One trial over several devices: processes on a CPU do as one does, and what becomes of one is said."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from data_modules import FeatureStore, FusionDataModule
from mmbench.methods import ConfigError, method
from mmbench.runner import distributed
from mmbench.runner.distributed import LocalProcesses, Reason, SharedTraining, cause
from mmbench.runner.environment import check_devices
from mmbench.runner.executors.local import LocalExecutor, automatic_jobs
from mmbench.runner.executors.worker import run_worker
from mmbench.runner.launch import launch
from mmbench.runner.plan import Trial
from mmbench.runner.rank import Rank
from mmbench.runner.record import Record
from mmbench.runner.settings import Suite
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.training import Training
from mmbench.runner.trial import follow, run_trial
from mmbench.runner.troubles import MachineError, TakenOver
from mmbench.runner.work import Options
from tests.runner.conftest import Broken, Planner
from tests.runner.test_launch import quiet_console

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = {"dropout": 0.0, "batch_size": 8}


def spread(trials: list[Trial], devices: int) -> list[Trial]:
    """Return the same trials over several devices."""
    changes = {"devices": devices} if devices > 1 else {}
    return [
        dataclasses.replace(
            trial, training={**trial.training, **changes}, changed={**trial.changed, **changes}, path=trial.path
        )
        for trial in trials
    ]


def run(trial: Trial, options: Options, **more: object) -> Record:
    return run_trial(trial, options.records, options.runs, accelerator="cpu", **more)


def test_one_device_is_no_news_and_several_are_part_of_the_trial(plan: Planner) -> None:
    """Trials of before there were several keep their ids."""
    assert Training().to_dict() == {"max_epochs": 40, "patience": 8, "precision": "32-true"}
    assert Training(devices=2).to_dict()["devices"] == 2
    with pytest.raises(ConfigError, match="devices is 0"):
        Training(devices=0)
    (alone,) = plan("lf_dnn")
    (several,) = plan("lf_dnn", training=Training(max_epochs=3, patience=3, devices=2))
    assert (alone.devices, several.devices) == (1, 2)
    assert alone.id != several.id
    assert several.label == "lf_dnn [devices=2]"


def test_batches_that_cannot_be_shared_and_negatives_that_nobody_else_has_are_refused(plan: Planner) -> None:
    with pytest.raises(ConfigError, match="lf_dnn has batches of 9 samples, and 2 devices cannot share them"):
        plan("lf_dnn", overrides={"batch_size": 9}, training=Training(devices=2))
    with pytest.raises(ConfigError, match="mmim: 'gather_negatives' has no effect on one device"):
        plan("mmim", overrides={"gather_negatives": True})
    assert plan("mmim", overrides={"gather_negatives": True}, training=Training(devices=2))


def test_devices_that_are_not_there_are_refused_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_devices("auto", 2, 1, "local")
    check_devices("cpu", 4, 1, "local")
    check_devices("auto", 4, 1, "ray")  # the cluster knows what it has
    with pytest.raises(ConfigError, match="--devices is 4, and this machine has 2 GPUs"):
        check_devices("auto", 4, 1, "local")
    with pytest.raises(ConfigError, match="--devices 2 gives a trial several GPUs and --per-gpu 3 a share of one"):
        check_devices("auto", 2, 3, "local")


def test_workers_see_the_gpus_of_their_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert automatic_jobs(9, devices=2) == 2
    executor = LocalExecutor(2, per_trial=2)
    assert [executor._visible_to(number) for number in (0, 1)] == [["0", "1"], ["2", "3"]]
    assert executor.text == "2 processes on 4 of 4 GPUs"
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    on_cores = LocalExecutor(2, cpu=True, per_trial=2)
    assert (on_cores.threads, automatic_jobs(9, cpu=True, devices=2)) == (2, 4)
    assert on_cores.text == "2 processes of 2 threads, 2 for each trial"


def test_two_devices_do_as_one_with_the_whole_batch(plan: Planner, options: Options) -> None:
    """Statistics of batches included; without dropout only rounding is left."""
    (trial,) = plan("late_fusion", epochs=2, overrides=EXACT, training=Training(2, 2, "64-true"))
    alone, together = (run(one, options) for one in (trial, *spread([trial], 2)))
    assert together.status == "completed", together.error
    assert together.training["devices"] == 2
    for one, other in zip(alone.curve, together.curve, strict=True):
        assert other == pytest.approx(one, rel=1e-5, nan_ok=True)
    assert together.test == pytest.approx(alone.test, rel=1e-5)
    assert together.samples == alone.samples
    one, two = (dataclasses.asdict(record.calibration) for record in (alone, together))
    assert json.loads(json.dumps(two), parse_float=lambda x: round(float(x), 4)) == json.loads(
        json.dumps(one), parse_float=lambda x: round(float(x), 4)
    )


@pytest.mark.cluster
def test_a_stopped_training_over_two_devices_goes_on_to_the_same_record(plan: Planner, options: Options) -> None:
    """Dropout of every process, order, optimiser, and memories, which processes have of their own within an epoch."""
    settings = {"batch_size": 8, "width": 8, "heads": 2, "clusters": 2, "memory": 16, "clustering_start": 0}
    (trial,) = spread(plan("scalevlad", epochs=3, overrides=settings), 2)
    whole = run(trial, options)
    assert whole.status == "completed", whole.error
    elsewhere = dataclasses.replace(options, leaderboard=options.leaderboard / "b", runs=options.runs / "b")
    epochs: list[int] = []
    with pytest.raises(TakenOver):
        run(trial, elsewhere, on_epoch=epochs.append, still_mine=lambda: not epochs)
    assert (elsewhere.runs / trial.id / "last.ckpt").is_file()
    resumed = run(trial, elsewhere, on_epoch=epochs.append)
    assert epochs == [1, 2, 3], "the second epoch was not finished, and the first one is not trained again"
    assert (resumed.curve, resumed.test) == (whole.curve, whole.test)


def test_what_fails_in_another_process_is_a_failed_record_that_says_so(
    plan: Planner, options: Options, broken: Broken
) -> None:
    broken("Raising", 'raise ValueError("too much")')
    record = run(*spread(plan("raising", epochs=1), 2), options)
    assert (record.status, record.error.type) == ("failed", "RuntimeError")
    assert "process 1 of 2: ValueError: too much" in record.error.message


class Gone:
    """A process that has ended."""

    def __init__(self, exitcode: int) -> None:
        self.exitcode = exitcode

    def join(self, timeout: float) -> None:
        pass


@pytest.mark.parametrize(
    ("reason", "everything", "number", "kind", "message"),
    [
        ("process 1 of 2: Connection closed by peer", None, signal.SIGKILL, MachineError, "ended by signal 9"),
        ("process 1 of 2: it is full", True, 0, MachineError, "it is full"),
        ("process 1 of 2: ValueError: no", None, 0, RuntimeError, "ValueError: no"),
        ("process 1 of 2: Connection reset by peer", None, 0, MachineError, "have lost each other"),
    ],
)
def test_of_several_reasons_the_one_that_began_it_counts(
    plan: Planner, reason: str, everything: bool | None, number: int, kind: type[Exception], message: str
) -> None:
    """What others say who have lost a process is no reason, and who is killed says nothing."""
    (trial,) = spread(plan("lf_dnn"), 2)
    training = SharedTraining(trial, Path(), "", "cpu", None)
    processes = LocalProcesses(follow, training, Rank.first(2).beside(0))
    processes._said.put(Reason(reason, everything))
    processes.processes = [Gone(-number)]
    why = cause([processes])
    assert type(why) is kind
    assert message in str(why)


class Ended:
    """Processes of which one has ended."""

    def ended(self) -> bool:
        return True

    def reasons(self) -> list[Reason]:
        return []


@pytest.mark.parametrize("noticed", [True, False])
def test_a_process_that_waits_for_one_that_has_ended_is_told_of(noticed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    left, ends = threading.Event(), []
    monkeypatch.setattr(distributed, "NOTICED", 60.0 if noticed else 0.01)
    if noticed:
        threading.Timer(1.2, left.set).start()
    distributed._watch([Ended()], left, ends.append)
    assert [type(end) for end in ends] == ([] if noticed else [MachineError])


@pytest.mark.cluster
def test_a_trial_whose_process_waits_for_good_has_its_record_and_the_rest_goes_on(
    plan: Planner, options: Options, broken: Broken
) -> None:
    """As on GPUs, where nothing ends a wait for a process that has ended: its worker is replaced."""
    broken("Waiting", 'raise ValueError("too much")', "distributed.NOTICED = 0.5", waits="True")
    trials = spread([*plan("waiting", epochs=1), *plan("constant", epochs=1)], 2)
    ran = launch(trials, options, quiet_console())
    failed, completed = ran.records
    assert (failed.status, completed.status) == ("failed", "completed")
    assert "process 1 of 2: ValueError: too much" in failed.error.message
    assert not [*options.runs.glob("*.lease/*")], "nobody waits for what it held"


def test_who_ends_before_the_others_are_met_is_not_waited_for(plan: Planner, options: Options, broken: Broken) -> None:
    broken("Early", "pass", "if multiprocessing.parent_process(): raise ValueError('too early')")
    record = run(*spread(plan("early", epochs=1), 2), options)
    assert record.error is not None
    assert "process 1 of 2: ValueError: too early" in record.error.message


def test_too_few_gpus_stop_the_plan_and_make_no_record(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    (trial,) = spread(plan("lf_dnn", epochs=1), 2)
    with pytest.raises(MachineError, match=r"spread over 2 devices, and this process sees 1 GPUs") as caught:
        run_trial(trial, options.records, options.runs, accelerator="auto")
    assert caught.value.everything


def test_a_process_that_is_killed_is_no_fault_of_the_method(plan: Planner, options: Options, broken: Broken) -> None:
    broken("Killed", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(MachineError, match=f"One of its 2 processes was ended by signal {signal.SIGKILL:d}"):
        run(*spread(plan("killed", epochs=1), 2), options)


@pytest.mark.cluster
def test_who_is_told_to_end_gives_the_trial_back(plan: Planner, options: Options) -> None:
    """Though all processes are told at once, wherever each of them is in its step."""
    (trial,) = spread(plan("lf_dnn", epochs=100_000), 2)
    shared = SharedPlan.create([trial], dataclasses.replace(options, accelerator="cpu"), "local")
    process = multiprocessing.get_context("spawn").Process(target=run_worker, args=(shared.folder, "one", 1))
    process.start()
    while not (options.runs / trial.id / "last.ckpt").is_file():
        time.sleep(0.1)
        assert process.is_alive()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (*map(int, children), process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
    assert not [news for _, news in shared.news() if isinstance(news, MachineError)]
    assert not options.records.path(trial).exists()
    assert not [*options.runs.glob("*.lease/*")], "its lease was not given back"


def test_another_number_of_devices_cannot_go_on(small_store: FeatureStore, tmp_path: Path) -> None:
    """Not with Lightning's own trainer either; what was trained can be used with any."""
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    data = FusionDataModule(small_store.path)
    model = method("lf_dnn")(data.spec)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, default_root_dir=tmp_path, **settings)
    trainer.fit(model, data)
    path = tmp_path / "one.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert saved["devices"] == 1
    torch.save({**saved, "devices": 2}, path)
    other = method("lf_dnn")(data.spec)
    again = Trainer(max_epochs=2, enable_checkpointing=False, default_root_dir=tmp_path, **settings)
    again.test(other, data, ckpt_path=path, verbose=False, weights_only=True)
    with pytest.raises(ConfigError, match=r"ran on 2 devices and cannot go on with 1.*Give devices=2"):
        again.fit(other, data, ckpt_path=path, weights_only=True)


def test_the_row_says_on_how_many_devices(plan: Planner) -> None:
    (trial,) = plan("lf_dnn", training=dataclasses.replace(Suite("x").training, devices=4))
    assert "devices=4" in trial.title
