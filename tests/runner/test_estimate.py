"""How long a plan will take: from costs, from recorded trials, or from neither."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mmbench.cli import main
from mmbench.runner.costs import Costs, MethodCost
from mmbench.runner.environment import environment
from mmbench.runner.estimate import RowEstimate, estimate
from mmbench.runner.facts import Cost, Environment
from mmbench.runner.plan import Trial
from mmbench.runner.record import Record, plain
from mmbench.runner.settings import benchmarks_folder
from mmbench.runner.trial import describe, run_trial
from mmbench.runner.work import Options
from tests.runner.conftest import Planner

MACHINE = Environment("3.11", "2.9", "2.6", "1.9", "2.4", "A CPU", 1)


def cost_of(trial: Trial, seconds: float) -> MethodCost:
    return MethodCost(
        trial.track,
        trial.method,
        trial.variant,
        plain(trial.config),
        "32-true",
        "c" * 16,
        "0.1.0",
        parameters=1,
        macs=1,
        seconds_per_epoch=seconds,
        seconds_to_predict=1.0,
        memory=1,
        memory_of="process",
        others=0.0,
        environment=MACHINE,
    )


def recorded(trial: Trial, epochs: int, seconds: float, **changes: Any) -> Record:
    cost = Cost(1, epochs, epochs * seconds, seconds, 1, "process")
    return dataclasses.replace(describe(trial), cost=cost, **changes)


def test_measured_costs_count_before_recorded_times(plan: Planner) -> None:
    trials = plan("lf_dnn", "lmf", "constant", epochs=10, seeds=(1, 2, 3))
    first = {method: next(trial for trial in trials if trial.method == method) for method in ("lf_dnn", "lmf")}
    measured = cost_of(first["lf_dnn"], 2.0)
    records = [recorded(first["lf_dnn"], 4, 30.0), recorded(first["lmf"], 6, 5.0), recorded(first["lmf"], 8, 7.0)]
    found = {row.label: row for row in estimate(trials, {measured.key: measured}, [records], MACHINE.device)}
    track = trials[0].track
    assert found["lf_dnn"] == RowEstimate(track, "lf_dnn", 3, 2.0, True, 4, 10)
    assert (found["lf_dnn"].expected, found["lf_dnn"].limit) == (3 * 4 * 2, 3 * 10 * 2)
    assert found["lmf"] == RowEstimate(track, "lmf", 3, 6.0, False, 7, 10)
    assert found["constant"] == RowEstimate(track, "constant", 3, None, False, None, 10)
    assert (found["constant"].expected, found["constant"].limit) == (None, None)


def test_times_of_another_machine_or_beside_other_work_are_not_called_measured(plan: Planner) -> None:
    (trial,) = plan("lf_dnn")
    own = cost_of(trial, 2.0)
    for cost, device in ((own, "Another CPU"), (dataclasses.replace(own, others=0.6), MACHINE.device)):
        assert [row.measured for row in estimate([trial], {own.key: cost}, [], device)] == [False]


def test_other_settings_or_data_say_nothing(plan: Planner) -> None:
    (trial,) = plan("lf_dnn")
    (other,) = plan("lf_dnn", overrides={"dropout": 0.77})
    measured = cost_of(other, 2.0)
    elsewhere = dataclasses.replace(recorded(trial, 4, 1.0), track="synthetic/other/standard")
    (row,) = estimate([trial], {measured.key: measured}, [[elsewhere]], MACHINE.device)
    assert (row.seconds_per_epoch, row.epochs) == (None, None)


def test_a_short_trial_says_how_long_an_epoch_takes_and_not_how_many_there_are(plan: Planner) -> None:
    (trial,) = plan("lf_dnn", epochs=40)
    short = recorded(trial, 1, 3.0, training={**trial.training, "max_epochs": 1})
    (row,) = estimate([trial], {}, [[short]], MACHINE.device)
    assert (row.seconds_per_epoch, row.epochs, row.expected) == (3.0, None, 120.0)


def test_ones_own_trials_count_before_published_ones(plan: Planner) -> None:
    (trial,) = plan("lf_dnn")
    own, published = [recorded(trial, 2, 1.0)], [recorded(trial, 3, 50.0)] * 3
    (row,) = estimate([trial], {}, [own, published], MACHINE.device)
    assert (row.seconds_per_epoch, row.epochs) == (1.0, 2)


def test_the_command_says_what_is_left_and_runs_nothing(
    plan: Planner,
    options: Options,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmbench.cli.estimate.published_records", lambda: None)
    shipped = benchmarks_folder(None)
    trials = plan("lf_dnn", "constant", epochs=1, patience=8, seeds=(1111, 1112), benchmarks=shipped)
    run_trial(trials[0], options.records, options.runs, accelerator="cpu")
    Costs(options.leaderboard / "costs").write(dataclasses.replace(cost_of(trials[0], 36.0), environment=environment()))
    before = sorted(options.leaderboard.rglob("*"))
    places = {"store": trials[0].path, "leaderboard": options.leaderboard, "runs": tmp_path / "runs"}
    arguments = ["run", "--estimate", *(f"--{name}={place}" for name, place in places.items())]
    arguments += ["--accelerator=cpu", "--jobs=2", "--max-epochs=1"]
    assert main([*arguments, "--method", "lf_dnn", "constant", "--seeds", "1111", "1112"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "lf_dnn [max_epochs=1] 1 36 1 of 1 0.6 min 0.6 min" in said
    assert "constant [max_epochs=1] 2 ? 1 ? ?" in said
    assert "3 of 4 trials are left: about 0.6 min of one process, at most 0.6 min without constant" in said
    assert "by 2 processes, which may slow each other down, 0.3 min" in said
    assert "~" not in said
    assert sorted(options.leaderboard.rglob("*")) == before
    assert main([*arguments, "--method", "lf_dnn", "--seeds", "1111"]) == 0
    assert "All 1 trials are recorded: nothing is left to run." in capsys.readouterr().out
