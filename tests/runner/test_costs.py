"""What a method costs: what is counted, and that a file of costs is whole or refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data_modules import FeatureStore
from mmbench.cli import main
from mmbench.runner import costs
from mmbench.runner.cost import product_counter
from mmbench.runner.costs import CostError, Costs, MethodCost, measure, read_cost
from mmbench.runner.plan import Trial
from tests.report.factory import MACHINE, TRACK, only, runs
from tests.runner.conftest import Planner


@pytest.fixture
def trial(plan: Planner) -> Trial:
    return plan("late_fusion")[0]


COST = MethodCost(
    track=TRACK,
    method="mult",
    variant="",
    config={"lr": 0.001},
    precision="32-true",
    code="c" * 16,
    version="0.1.0",
    parameters=1_234_567,
    macs=2_500_000,
    seconds_per_epoch=1.5,
    seconds_to_predict=0.25,
    memory=64_000_000,
    memory_of="process",
    others=0.02,
    environment=MACHINE,
)


def test_a_method_is_measured_as_in_a_trial(trial: Trial, small_store: FeatureStore, tmp_path: Path) -> None:
    found = measure(trial, "cpu")
    assert (found.track, found.method, found.config) == (trial.track, "late_fusion", trial.config)
    assert (found.code, found.precision) == (trial.code, "32-true")
    assert min(found.seconds_per_epoch, found.seconds_to_predict) > 0
    assert read_cost(Costs(tmp_path).write(found)) == found
    # By hand: each weight once per real step, scores and what they mix twice per pair of steps.
    expected, config, rows = 0.0, trial.config, small_store.rows("standard", 0)["test"]
    for name, modality in small_store.modalities.items():
        _, offsets = small_store.read(name, rows)
        lengths = offsets[1:] - offsets[:-1]
        per_step = modality.dim * config["width"] + config["layers"] * 12 * config["width"] ** 2
        expected += float((lengths * per_step + 2 * config["layers"] * config["width"] * lengths**2).mean())
    head = (len(small_store.modalities) * config["width"] + 1) * config["width"]
    assert found.macs == pytest.approx(expected + head, rel=1e-3)


def test_the_constant_multiplies_nothing(plan: Planner) -> None:
    found = measure(plan("constant")[0], "cpu")
    assert (found.macs, found.parameters) == (0, 1)


def test_the_share_of_others_is_what_this_process_did_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, second = tmp_path / "stat", costs.os.sysconf("SC_CLK_TCK")
    now = {"wall": 10.0, "own": 1.0}
    monkeypatch.setattr(costs, "STAT", stat)
    monkeypatch.setattr(costs.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(costs.time, "monotonic", lambda: now["wall"])
    monkeypatch.setattr(costs.time, "process_time", lambda: now["own"])
    stat.write_text(f"cpu {5 * second} 0 {second} 99 0 0 0 0\ncpu0 1 2 3\n")
    share = costs._watch_others()
    now |= {"wall": 20.0, "own": 9.0}
    stat.write_text(f"cpu {17 * second} {second} {second} 999 99 {second} 0 0\ncpu0 1 2 3\n")
    assert share() == pytest.approx((14 - 8) / (10 * 4))
    stat.unlink()
    assert share() is None
    assert costs._watch_others()() is None


@pytest.mark.parametrize(("others", "alone"), [(None, True), (0.0, True), (0.1, True), (0.11, False)])
def test_what_ran_beside_other_work_is_not_alone(others: float | None, alone: bool) -> None:
    assert dataclasses.replace(COST, others=others).alone is alone


def test_costs_are_found_by_settings_and_precision(tmp_path: Path) -> None:
    stored = Costs(tmp_path)
    other = dataclasses.replace(COST, config={"lr": 0.1}, macs=7)
    for one in (COST, other, dataclasses.replace(COST, macs=8)):  # the last one replaces the first
        stored.write(one)
    found, problems = stored.load()
    assert problems == []
    assert {cost.macs for cost in found.values()} == {7, 8}
    assert found[costs.cost_key(TRACK, "mult", {"lr": 0.1}, {"precision": "32-true"})] == other
    assert found[costs.cost_key(TRACK, "mult", {"lr": 0.1}, {"precision": "32-true", "devices": 1})] == other
    for other_training in ({"precision": "64-true"}, {"precision": "32-true", "devices": 2}):
        assert costs.cost_key(TRACK, "mult", {"lr": 0.1}, other_training) not in found


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace("1.5", '"soon"'),
        lambda text: text.replace("1.5", "-1.5"),
        lambda text: text.replace('"macs"', '"mac"'),
        lambda text: text.replace("mult", "lmf").replace("0.001", "0.002"),
    ],
)
def test_a_file_that_holds_no_costs_is_named_and_skipped(damage: object, tmp_path: Path) -> None:
    path = Costs(tmp_path).write(COST)
    path.write_text(damage(path.read_text()))
    with pytest.raises(CostError, match="it holds no costs"):
        read_cost(path)
    found, (problem,) = Costs(tmp_path).load()
    assert found == {}
    assert problem.startswith(f"{path}: it holds no costs")


def test_a_row_takes_its_costs_from_there_and_nowhere_else() -> None:
    records = [*runs("mult", [0.7, 0.7, 0.7]), *runs("lmf", [0.8, 0.8, 0.8])]
    rows = {row.method: row for row in only(records, costs={COST.key: COST}).rows}
    assert rows["mult"].cost == COST
    assert rows["lmf"].cost is None


def test_the_command_measures_each_row_alone(
    small_store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def found(trial: Trial, accelerator: str) -> MethodCost:
        if trial.method == "tfn":
            raise RuntimeError("no memory")
        others = 0.5 if trial.method == "lmf" else 0.0
        return dataclasses.replace(COST, track=trial.track, method=trial.method, config=trial.config, others=others)

    monkeypatch.setattr(costs, "measure_alone", found)
    monkeypatch.chdir(tmp_path)
    command = ["cost", "--store", str(small_store.path), "--dataset", "synthetic", "--method", "constant", "lmf", "tfn"]
    assert main([*command, "--leaderboard", "mine"]) == 1
    said = capsys.readouterr().out
    assert "tfn was not measured: no memory" in said
    assert "Other processes used 50% of the processors meanwhile" in said
    assert "1,234,567" in said
    stored = [json.loads(path.read_text()) for path in Path("mine/costs").glob("**/*.json")]
    assert {(cost["method"], cost["others"]) for cost in stored} == {("constant", 0.0), ("lmf", 0.5)}
    # The folder that costs were the first to be written to is one's own from then on.
    alone = ["cost", "--store", str(small_store.path), "--dataset", "synthetic", "--method", "lmf"]
    assert main([*alone, "--method.rank", "5", "--leaderboard", "mine"]) == 0
    ranks = [json.loads(path.read_text())["config"]["rank"] for path in Path("mine/costs").glob("**/lmf/*.json")]
    assert sorted(ranks) == [3, 5]
    with pytest.raises(SystemExit):
        main([*alone, "--data.limit", "5", "--leaderboard", "mine"])
    assert "--data.* belongs to `mmbench run`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_fails_says_why(trial: Trial) -> None:
    with pytest.raises(RuntimeError, match="DataError: There is no store"):
        costs.measure_alone(dataclasses.replace(trial, path="nowhere.h5"), "cpu")


def test_attention_in_one_kernel_is_counted() -> None:
    q, k, v = (torch.randn(2, 3, steps, 8, requires_grad=True) for steps in (5, 7, 7))
    with product_counter() as counter:
        F.scaled_dot_product_attention(q, k, v).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * (2 * 3 * 5 * 7 * 8)
