"""Where curves go while a trial trains, and what of Lightning's words is shown."""

from __future__ import annotations

import csv
import importlib.util
import logging
from pathlib import Path
from typing import get_args

import pytest

from mmbench.methods import ConfigError
from mmbench.runner import trial as trial_module
from mmbench.runner.environment import Tracker, check_machine
from mmbench.runner.training import quiet
from mmbench.runner.trial import run_trial
from mmbench.runner.work import Options
from tests.runner.conftest import Planner


def curve(folder: Path) -> list[float]:
    """Return what the table in CSV says of validation, epoch by epoch."""
    (path,) = folder.glob("log/version_0/metrics.csv")
    with path.open() as file:
        return [float(row["valid/mae"]) for row in csv.DictReader(file) if row["valid/mae"]]


def test_tensorboard_gets_the_curve_and_so_does_the_table(plan: Planner, options: Options) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (trial,) = plan("lf_dnn", epochs=2)
    record = run_trial(trial, options.records, options.runs, tracker="tensorboard", accelerator="cpu")
    assert record.completed, record.error
    folder = options.runs / trial.id
    found = EventAccumulator(str(folder / "tensorboard/version_0")).Reload()
    values = [event.value for event in found.Scalars("valid/mae")]
    assert values == pytest.approx([row["valid/mae"] for row in record.curve], abs=1e-6)
    assert curve(folder) == pytest.approx(values, abs=1e-6)


def test_with_wandb_the_table_stays(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    (trial,) = plan("lf_dnn", epochs=2)
    csv_logger = trial_module.CSVLogger
    monkeypatch.setattr(trial_module, "WandbLogger", lambda name, folder, **settings: csv_logger(folder, name="other"))
    record = run_trial(trial, options.records, options.runs, tracker="wandb", accelerator="cpu")
    assert curve(options.runs / trial.id) == pytest.approx([row["valid/mae"] for row in record.curve], abs=1e-6)
    assert list((options.runs / trial.id).glob("other/version_0/metrics.csv"))


@pytest.mark.parametrize("name", [name for name in get_args(Tracker) if name != "csv"])
def test_a_logger_that_is_not_installed_is_said_before_anything_is_planned(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else find(wanted, *rest)
    )
    with pytest.raises(ConfigError, match=f"--logger {name} needs .* pip install {name}"):
        check_machine("cpu", "32-true", name)
    check_machine("cpu", "32-true", "csv")


def test_quiet_gives_the_level_of_the_log_back_after_an_error_too() -> None:
    log = logging.getLogger("lightning.pytorch")
    level = log.level

    def fail() -> None:
        with quiet():
            assert log.level == logging.WARNING != level
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert log.level == level
