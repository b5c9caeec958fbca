"""One trial: selection on validation, the test split read once, records, resuming."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch

from data_modules import FeatureStore, FusionDataModule, SplitLocked
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main
from mmbench.methods import FusionMethod, method
from mmbench.metrics import SplitMetric, fit_thresholds, multilabel_metrics
from mmbench.runner import trial as trial_module
from mmbench.runner.callbacks import TrainingHistory
from mmbench.runner.plan import Trial, make_plan
from mmbench.runner.record import Record
from mmbench.runner.settings import Suite
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError
from mmbench.runner.verify import verify, verify_file
from mmbench.runner.work import Options, run_trials
from tests.runner.conftest import Planner, find

VARYING = ("cost", "environment", "digest")
"""What two equal trials may differ in: time, memory and machine."""


def result(record: Record) -> dict[str, object]:
    """Return what two equal trials have in common, the bytes of the predictions (by their digest) among it."""
    return {key: value for key, value in record.to_dict().items() if key not in VARYING}


def run(trial: Trial, options: Options) -> Record:
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    record = find(options.records, trial)
    assert record is not None
    return record


def make_best(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Let an epoch have the best score on validation: what is tested must not rest on how a training happens to end."""
    score = FusionMethod._score

    def steered(self: FusionMethod, split: str, metric: SplitMetric, reset: bool = True) -> None:
        score(self, split, metric, reset)
        if split == "valid":
            away = abs(self.current_epoch - epoch) + 0.5
            better = metric.higher_is_better_of(self.task.selection)
            self.log(f"valid/{self.task.selection}", 1 / away if better else away)

    patch.setattr(FusionMethod, "_score", steered)


def test_record_is_complete_and_selected_on_validation(plan: Planner, options: Options) -> None:
    (trial,) = plan("late_fusion", epochs=4)
    record = run(trial, options)
    assert record.status == "completed"
    assert verify_file(options.records.path(trial)) == record
    values = [row["valid/mae"] for row in record.curve]
    assert record.selection.epoch == int(np.argmin(values))
    assert record.selection.value == min(values)
    assert record.samples == {"train": 64, "valid": 24, "test": 24}
    assert record.cost.parameters == sum(p.numel() for p in _model(trial).parameters())
    assert (record.identity, record.content) == (trial.identity, trial.content)


def test_test_scores_are_those_of_the_stored_predictions_of_the_selected_epoch(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("late_fusion", epochs=6)
    with monkeypatch.context() as patch:
        make_best(patch, epoch=1)
        record = run(trial, options)
    assert (record.selection.epoch, len(record.curve)) == (1, 6)
    table = pd.read_csv(options.records.path(trial).with_suffix(".csv.gz"))
    assert list(table.columns) == ["id", "group", "fold", "target0", "prediction0"]
    target, prediction = table["target0"].to_numpy(), table["prediction0"].to_numpy()
    assert record.test["mae"] == pytest.approx(np.abs(target - prediction).mean(), abs=1e-6)
    store = trial.datamodule(8).store
    test_rows = store.rows("standard", 0)["test"]
    assert list(table["id"]) == list(store.ids[test_rows])
    assert list(table["group"]) == list(store.groups[test_rows])
    assert target == pytest.approx(store.targets[test_rows], abs=1e-6)
    best = next((options.runs / trial.id).glob("epoch=*.ckpt"))
    model = type(_model(trial)).load_from_checkpoint(best).eval()
    data = trial.datamodule(24)
    data.setup("test")
    with torch.no_grad():
        again = model(next(iter(data.test_dataloader()))).prediction
    assert prediction == pytest.approx(again.squeeze(1).numpy(), abs=1e-5)


def _model(trial: Trial):
    cls = method(trial.method)
    return cls(trial.datamodule(8).spec, config=cls.Config.parse(trial.config))


def test_the_record_in_memory_is_that_of_the_file(plan: Planner, options: Options) -> None:
    """Also where a metric is not defined, as the correlation of a constant."""
    (trial,) = plan("constant", epochs=1)
    record = run_trial(trial, options.records, options.runs, accelerator="cpu")
    assert record.test["corr"] is None
    assert find(options.records, trial) == record


def test_the_test_split_is_locked_while_training(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that asks for test batches while it trains fails, and no test sample is in memory until selection."""
    (trial,) = plan("lf_dnn", epochs=1)
    seen: list[str] = []

    def peek(self: TrainingHistory, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seen.extend(trainer.datamodule._splits)
        with pytest.raises(SplitLocked):
            trainer.datamodule.setup("test")
        with pytest.raises(KeyError):
            trainer.datamodule.test_dataloader()

    monkeypatch.setattr(TrainingHistory, "on_train_epoch_start", peek)
    assert run(trial, options).completed
    assert set(seen) == {"train", "valid"}


def test_a_method_that_reads_the_test_split_early_becomes_a_failed_record(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=1)
    monkeypatch.setattr(
        TrainingHistory, "on_train_epoch_start", lambda self, trainer, module: trainer.datamodule.setup("test")
    )
    record = run(trial, options)
    assert record.status == "failed"
    assert record.error.type == "SplitLocked"
    assert record.test == {}
    assert record.code


def test_the_test_split_is_loaded_once(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = FusionDataModule._load
    monkeypatch.setattr(FusionDataModule, "_load", lambda self, split: loads.append(split) or load(self, split))
    run(plan("lf_dnn", epochs=2)[0], options)
    assert loads.count("test") == 1
    assert loads.index("test") == len(loads) - 1


def test_same_seed_same_result_other_seed_other_result(plan: Planner, options: Options, tmp_path: Path) -> None:
    first, other = plan("late_fusion", epochs=2, seeds=(1111, 1112))
    again = Options(leaderboard=tmp_path / "again", runs=tmp_path / "again-runs")
    record = run(first, options)
    assert result(record) == result(run(first, again))
    assert record.test["mae"] != run(other, options).test["mae"]


@pytest.mark.parametrize("method_key", ["late_fusion", "mmim"])
def test_a_run_stopped_after_any_epoch_resumes_to_the_same_record(
    plan: Planner, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method_key: str
) -> None:
    """Dropout, order, optimiser states, scheduler, early stopping and memories continue where they were."""
    overrides = {"plateau_patience": 1, "lr": 3e-3}
    (trial,) = plan(method_key, epochs=5, overrides=overrides)
    whole = run(trial, Options(leaderboard=tmp_path / "whole", runs=tmp_path / "whole-runs"))
    start = TrainingHistory.on_train_epoch_start
    for stop_at in (1, 3):

        def stop(
            self: TrainingHistory, trainer: pl.Trainer, module: pl.LightningModule, stop_at: int = stop_at
        ) -> None:
            start(self, trainer, module)
            if trainer.current_epoch == stop_at:
                raise KeyboardInterrupt

        monkeypatch.setattr(TrainingHistory, "on_train_epoch_start", stop)
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial, options.records, options.runs, accelerator="cpu")
        assert find(options.records, trial) is None
    monkeypatch.setattr(TrainingHistory, "on_train_epoch_start", start)
    assert result(run(trial, options)) == result(whole)


def test_kill_in_the_middle_then_the_same_command_gives_the_record_of_an_uninterrupted_run(
    options: Options, tmp_path: Path, small_store: FeatureStore
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (tmp_path / "none").mkdir()

    def command(place: Options) -> list[str]:
        return [
            *(sys.executable, "-m", "mmbench", "run", "--method", "mmim", "--seeds", "1111", "--max-epochs", "12"),
            *("--store", str(small_store.path), "--leaderboard", str(place.leaderboard), "--runs", str(place.runs)),
            *("--benchmarks", str(tmp_path / "none"), "--jobs", "1", "--accelerator", "cpu"),
        ]

    def finish(place: Options) -> Record:
        assert main(command(place)[3:]) == 0
        (record,), problems = verify(place.records)
        assert problems == []
        assert (place.leaderboard / "README.md").is_file()
        return record

    process = subprocess.Popen(command(options), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(options.runs.glob("*/last.ckpt")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not options.records.paths(), "the run ended before it could be killed"
    whole = Options(tmp_path / "whole", tmp_path / "whole-runs")
    assert result(finish(options)) == result(finish(whole))


def test_a_loss_that_is_no_number_is_recorded_as_diverged(plan: Planner, options: Options) -> None:
    (trial,) = plan("late_fusion", epochs=2, overrides={"lr": 1e30, "gradient_clip": 0.0})
    record = run(trial, options)
    assert record.status == "diverged"
    assert "after epoch" in record.error.message
    assert verify_file(options.records.path(trial)) == record


def test_an_error_in_a_method_is_recorded_and_the_rest_goes_on(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = plan("lf_dnn", "late_fusion", epochs=1)
    monkeypatch.setattr(method("lf_dnn"), "forward", lambda self, batch: 1 / 0)
    ended: list[tuple[str, str]] = []
    run_trials(
        [bad, good],
        options,
        lambda trial, news: ended.append((trial.method, news.status)) if isinstance(news, Record) else None,
    )
    assert ended == [("lf_dnn", "failed"), ("late_fusion", "completed")]
    record = find(options.records, bad)
    assert record is not None
    assert record.error.type == "ZeroDivisionError"


def test_wandb_runs_offline_without_a_key(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (trial,) = plan("lf_dnn", epochs=1)
    calls: dict[str, object] = {}
    csv = trial_module.CSVLogger

    def fake(name: str, folder: Path, **settings: object) -> object:
        calls.update(settings, name=name)
        return csv(folder)

    monkeypatch.setattr(trial_module, "WandbLogger", fake)
    run_trial(trial, options.records, options.runs, tracker="wandb", accelerator="cpu")
    assert calls["offline"] is True
    assert calls["id"] == trial.id
    assert math.isfinite(find(options.records, trial).test["mae"])


def test_training_stops_after_patience_epochs_without_gain(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=40, patience=2)
    make_best(monkeypatch, epoch=2)
    record = run(trial, options)
    assert (record.selection.epoch, len(record.curve)) == (2, 5)


def test_the_learning_rate_drops_on_a_plateau(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without a gradient change nothing, so after two epochs without gain the factor applies."""
    rates: list[float] = []
    start = TrainingHistory.on_train_epoch_start

    def look(self: TrainingHistory, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        start(self, trainer, module)
        rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    (trial,) = plan("lf_dnn", epochs=5, overrides={"lr": 1.0, "plateau_patience": 1, "plateau_factor": 0.25})
    monkeypatch.setattr(TrainingHistory, "on_train_epoch_start", look)
    monkeypatch.setattr(type(_model(trial)), "training_step", lambda self, batch, index: self.optimizers().step())
    assert run(trial, options).completed
    assert rates == [1.0, 1.0, 1.0, 0.25, 0.25]


def test_thresholds_are_fitted_on_validation_and_applied_to_test(tmp_path: Path, options: Options) -> None:
    store = write_synthetic(tmp_path / "labels.h5", kind="multilabel", samples=(48, 24, 24))
    suite = Suite("default", seeds=(1,), training=Training(max_epochs=2, patience=2))
    (trial,), _ = make_plan(
        suite, dataset="synthetic", path=store.path, methods_wanted=["late_fusion"], benchmarks=tmp_path / "none"
    )
    record = run(trial, options)
    model = type(_model(trial)).load_from_checkpoint(next((options.runs / trial.id).glob("epoch=*.ckpt"))).eval()
    data = trial.datamodule(24)
    data.setup("fit")
    data.setup("test")
    (valid,), (test,) = data.val_dataloader(), data.test_dataloader()
    with torch.no_grad():
        on_valid, on_test = model(valid).prediction, model(test).prediction
    thresholds = fit_thresholds(on_valid, valid.target)
    assert record.task.thresholds == pytest.approx(thresholds.tolist())
    scores = multilabel_metrics(on_test, test.target, store.target.names, thresholds)
    assert {name: record.test[name] for name in scores} == pytest.approx(scores, abs=1e-6)
    for other in (torch.full_like(thresholds, 0.5), fit_thresholds(on_test, test.target)):
        assert multilabel_metrics(on_test, test.target, store.target.names, other) != pytest.approx(scores, abs=1e-6)


def test_a_store_replaced_after_the_plan_was_made_is_not_trained_on(tmp_path: Path, options: Options) -> None:
    store = write_synthetic(tmp_path / "a.h5", samples=(16, 8, 8))
    (trial,), _ = make_plan(
        Suite("default", seeds=(1,)), dataset="synthetic", path=store.path, methods_wanted=["lf_dnn"]
    )
    write_synthetic(tmp_path / "a.h5", samples=(16, 8, 8), seed=2)
    with pytest.raises(MachineError, match="was replaced") as caught:
        run(trial, options)
    assert caught.value.everything
    assert find(options.records, trial) is None


@pytest.mark.slow
def test_wandb_itself_writes_an_offline_run_for_each_trial(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for trial in plan("lf_dnn", epochs=1, seeds=(1, 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what wandb itself warns of is not ours
            run_trial(trial, options.records, options.runs, tracker="wandb", accelerator="cpu")
        record = find(options.records, trial)
        assert record is not None
        assert record.completed, record.error
        assert len(list((options.runs / trial.id).glob("wandb/offline-run-*/*.wandb"))) == 1
