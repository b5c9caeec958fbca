"""A trial that was interrupted, however often and wherever, ends as one that was not: record and predictions."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from mmbench.methods import FusionMethod
from mmbench.runner import callbacks
from mmbench.runner.callbacks import SelectionModelCheckpoint, TrainingHistory
from mmbench.runner.plan import Trial
from mmbench.runner.records import Records, predictions_path
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import Options, run_trials
from tests.runner.conftest import Planner, find
from tests.runner.test_trial import make_best, result


def left(trial: Trial, options: Options) -> tuple[dict[str, object], bytes]:
    """Return what a trial left: its record but for time and machine, and the bytes of its predictions."""
    record = find(options.records, trial)
    assert record is not None
    return result(record), predictions_path(options.records.path(trial)).read_bytes()


def uninterrupted(trial: Trial, folder: Path) -> tuple[dict[str, object], bytes]:
    options = Options(folder / "whole", folder / "whole-runs", accelerator="cpu")
    go_on(trial, options)
    return left(trial, options)


def interrupt(patch: pytest.MonkeyPatch, cls: type, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Let a method of a class raise Ctrl-C before it does anything, when it is time."""
    usual = getattr(cls, name)

    def stopped(self: object, *arguments: object, **settings: object) -> object:
        if when(self, *arguments):
            raise KeyboardInterrupt
        return usual(self, *arguments, **settings)

    patch.setattr(cls, name, stopped)


def at_epoch(epoch: int) -> Callable[..., bool]:
    return lambda _, trainer, *rest: trainer.current_epoch == epoch


def go_on(trial: Trial, options: Options) -> None:
    run_trial(trial, options.records, options.runs, accelerator="cpu")


def stopped_run(
    trial: Trial, options: Options, cls: type, name: str, when: Callable[..., bool] = lambda *_: True
) -> None:
    """Run a trial until it comes to some place at some time, where Ctrl-C is pressed."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, cls, name, when)
        with pytest.raises(KeyboardInterrupt):
            go_on(trial, options)
    assert find(options.records, trial) is None


def epochs_begun(patch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the epochs that training begins from here on."""
    begun: list[int] = []
    start = TrainingHistory.on_train_epoch_start

    def noted(self: TrainingHistory, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        begun.append(trainer.current_epoch)
        start(self, trainer, module)

    patch.setattr(TrainingHistory, "on_train_epoch_start", noted)
    return begun


@pytest.mark.parametrize("patience", [2, 6], ids=["early stop", "last epoch"])
@pytest.mark.parametrize(
    ("cls", "name"),
    [(FusionMethod, "on_test_epoch_start"), (Records, "write")],
    ids=["before the test", "before the record"],
)
def test_a_training_that_has_ended_is_not_trained_further(
    plan: Planner,
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cls: type,
    name: str,
    patience: int,
) -> None:
    """Interrupted, continued to its end, interrupted before the record, and continued: the decision to stop stands."""
    (trial,) = plan("lf_dnn", epochs=6, patience=patience)
    make_best(monkeypatch, epoch=2)
    whole = uninterrupted(trial, tmp_path)
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_start", at_epoch(1))
    for _ in range(2):
        stopped_run(trial, options, cls, name)
    steps: list[int] = []
    training_step = FusionMethod.training_step
    monkeypatch.setattr(FusionMethod, "training_step", lambda *given: steps.append(1) or training_step(*given))
    go_on(trial, options)
    assert left(trial, options) == whole
    assert not steps, "a finished training only tests"


def test_at_most_the_epoch_that_was_running_is_repeated(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch is kept, not the last one that was the best."""
    (trial,) = plan("lf_dnn", epochs=6)
    make_best(monkeypatch, epoch=0)
    whole = uninterrupted(trial, tmp_path)
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_end", at_epoch(4))
    begun = epochs_begun(monkeypatch)
    go_on(trial, options)
    assert begun == [4, 5]
    assert left(trial, options) == whole


def test_a_stop_between_the_best_epoch_and_the_state_leaves_files_that_fit(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of before still finds its own best epoch."""
    (trial,) = plan("lf_dnn", epochs=5)
    make_best(monkeypatch, epoch=3)
    whole = uninterrupted(trial, tmp_path)
    stopped_run(trial, options, SelectionModelCheckpoint, "_save", at_epoch(2))
    folder = options.runs / trial.id
    assert {path.name for path in folder.glob("*.ckpt")} == {"epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"}
    assert torch.load(folder / "last.ckpt", weights_only=True)["callbacks"]["SelectionModelCheckpoint"]["epoch"] == 1
    go_on(trial, options)
    assert left(trial, options) == whole
    assert {path.name for path in folder.glob("*.ckpt")} == {"epoch=3.ckpt"}


def test_a_state_of_other_code_is_not_continued(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=3)
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_start", at_epoch(2))
    begun = epochs_begun(monkeypatch)
    go_on(dataclasses.replace(trial, code="other"), options)
    assert begun == [0, 1, 2]


@pytest.mark.parametrize("name", ["last.ckpt", "epoch=1.ckpt"])
def test_files_that_a_crash_cut_off_mean_a_new_start(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (trial,) = plan("lf_dnn", epochs=4)
    make_best(monkeypatch, epoch=1)
    whole = uninterrupted(trial, tmp_path)
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_start", at_epoch(3))
    path = options.runs / trial.id / name
    path.write_bytes(path.read_bytes()[:-100])
    begun = epochs_begun(monkeypatch)
    go_on(trial, options)
    assert begun == [0, 1, 2, 3]
    assert left(trial, options) == whole


def test_where_saving_is_slow_the_state_is_saved_once_a_minute_and_at_the_end(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=7)
    make_best(monkeypatch, epoch=4)
    whole = uninterrupted(trial, tmp_path)
    clock = [0.0]
    saved: list[int] = []
    save, start = SelectionModelCheckpoint._save, TrainingHistory.on_train_epoch_start

    def slow(self: SelectionModelCheckpoint, trainer: pl.Trainer) -> None:
        saved.append(trainer.current_epoch)
        wanted = {path.name for path in self.folder.glob("epoch=*.ckpt")}
        clock[0] += 2.0
        save(self, trainer)
        clock[0] += 2.0
        assert wanted >= {self.best.name}

    def tick(self: TrainingHistory, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        clock[0] += 25.0
        start(self, trainer, module)

    monkeypatch.setattr(SelectionModelCheckpoint, "_save", slow)
    monkeypatch.setattr(SelectionModelCheckpoint, "SLOW", -1.0)  # what was saved took some time
    monkeypatch.setattr(TrainingHistory, "on_train_epoch_start", tick)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock[0])
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_end", at_epoch(5))
    assert saved == [0, 3]
    saved.clear()
    go_on(trial, options)
    assert saved[0] == 4, "epoch 4 was trained again, from the state of epoch 3"
    assert left(trial, options) == whole


def test_checkpoints_are_written_where_they_stay(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder for temporary files on another disk, or a full one, has no part in it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (trial,) = plan("lf_dnn", epochs=2)
    go_on(trial, options)
    assert list((options.runs / trial.id).glob("epoch=*.ckpt"))


def test_a_method_that_draws_when_it_predicts_draws_the_same_after_a_restart(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("mib", epochs=2, overrides={"eval_noise": True})
    whole = uninterrupted(trial, tmp_path)
    stopped_run(trial, options, Records, "write")
    go_on(trial, options)
    assert left(trial, options) == whole


def test_who_has_lost_the_trial_touches_nothing_any_more(plan: Planner, options: Options) -> None:
    """It was suspended for so long that another process took over; the checkpoints are that one's now."""
    (trial,) = plan("lf_dnn", epochs=5)
    folder = options.runs / trial.id
    epochs: list[int] = []

    def mine() -> bool:
        if epochs == [1, 2]:
            for path in folder.glob("*.ckpt"):
                path.unlink()
            (folder / "epoch=3.ckpt").write_text("the other's")
            return False
        return True

    with pytest.raises(MachineError, match="took the trial over"):
        run_trial(trial, options.records, options.runs, accelerator="cpu", on_epoch=epochs.append, still_mine=mine)
    assert [path.name for path in folder.glob("*.ckpt")] == ["epoch=3.ckpt"]
    assert find(options.records, trial) is None


def test_a_state_of_another_number_of_threads_is_not_continued(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names one environment, so one environment made it."""
    (trial,) = plan("lf_dnn", epochs=3)
    stopped_run(trial, options, TrainingHistory, "on_train_epoch_start", at_epoch(2))
    begun = epochs_begun(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    go_on(trial, options)
    assert begun == [0, 1, 2]


def kill_at_random(trial: Trial, options: Options, chance: random.Random, longest: float, kills: int) -> int:
    """Run a trial in a process that is killed after a random time, again and again; return how often it was."""
    for count in range(kills + 1):
        if (child := os.fork()) == 0:
            try:
                run_trials([trial], options, lambda trial, news: None)
            finally:
                os._exit(0)
        if count < kills:
            time.sleep(chance.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if find(options.records, trial) is not None:
            return count
    raise AssertionError("the last process, which nobody killed, left no record")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks.*:DeprecationWarning")
def test_random_kills_change_nothing(plan: Planner, options: Options, tmp_path: Path, kills: int) -> None:
    chance, done = random.Random(7), 0
    for seed in range(1000):
        (trial,) = plan("mmim" if seed % 2 else "late_fusion", epochs=8, patience=3, seeds=(seed,))
        start = time.monotonic()
        whole = uninterrupted(trial, tmp_path)
        longest = time.monotonic() - start
        done += kill_at_random(trial, options, chance, longest, min(8, kills - done))
        assert left(trial, options) == whole
        if done >= kills:
            break
    assert done >= kills
