"""The measurements beside MMSA and beside the limit: what is counted, and that both do the same work."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.speed import limit, methods, mmsa_training, mosi, peer
from benchmarks.speed.measure import QUICK, Setting
from benchmarks.speed.process import Failed
from mmbench.runner.cost import product_counter

SAMPLES = {"train": 6, "valid": 4, "test": 4}


@pytest.fixture(autouse=True)
def _small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in {"text": 20, "audio": 80, "vision": 90}.items():
        monkeypatch.setitem(mosi.STEPS, name, steps)
    monkeypatch.setitem(mosi.DIMS, "text", 8)


@pytest.mark.parametrize("directions", [1, 2])
def test_products_of_lstms_are_counted(directions: int) -> None:
    steps, inputs, hidden = 7, 5, 6
    lstm = nn.LSTM(inputs, hidden, bidirectional=directions == 2)
    with product_counter() as counter:
        lstm(torch.randn(steps, 1, inputs, requires_grad=True))[0].sum().backward()
    forward = 2 * steps * 4 * hidden * (inputs + hidden) * directions
    assert counter.get_total_flops() == pytest.approx(3 * forward, rel=0.15)  # the first state is zero


def test_the_limit_counts_real_steps_of_the_last_epoch(tmp_path: Path) -> None:
    """Late fusion by hand: every weight meets every real step in two operations forward and four backward."""
    store = mosi.write_mosi_like(tmp_path / "store.h5", SAMPLES)
    model = methods.train(store.path, "late_fusion", {}, "cpu", counter := limit.Counter(), batch_size=1)
    expected = 0
    for name, branch in model.network.branches.items():
        _, offsets = store.read(name, store.rows("standard", 0)["train"])
        steps, squares = int(offsets[-1]), int((np.diff(offsets) ** 2).sum())
        layers = sum(value.numel() for key, value in branch.layers.named_parameters() if value.dim() == 2)
        width = model.config.width
        scores = 2 * 2 * 3 * model.config.layers * width * squares
        expected += steps * (6 * layers + 4 * branch.project.weight.numel()) + scores
    head = sum(value.numel() for value in model.network.head.parameters() if value.dim() == 2)
    assert counter.operations == pytest.approx(expected + 6 * head * SAMPLES["train"], rel=0.02)
    assert limit.products_per_second("cpu", 1) > 0


class Trainer:
    """As those of MMSA: trains until patience runs out."""

    def __init__(self) -> None:
        self.args = types.SimpleNamespace(early_stop=1)
        self.seen: list[str] = []

    def do_train(self) -> int:
        """Return how many epochs it took."""
        epochs = 0
        while True:
            epochs += 1
            self.do_test(None, None, mode="VAL")
            best = 1
            if epochs - best >= self.args.early_stop:
                return epochs

    def do_test(self, model: object, loader: object, mode: str = "VAL") -> dict[str, str]:
        """Note the split."""
        self.seen.append(mode)
        return {"mode": mode}


@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_the_peer_trains_so_many_epochs(epochs: int) -> None:
    trainer = Trainer()
    ends = mmsa_training.watch(trainer, epochs)
    assert trainer.do_train() == epochs == len(ends)
    assert trainer.do_test(None, None, mode="TEST") == {"mode": "TEST"}
    assert len(ends) == epochs
    assert sorted(ends) == ends


@pytest.mark.slow
def test_ours_trains_by_the_command_to_its_test_scores(tmp_path: Path) -> None:
    case = replace(peer.CASES[-1], epochs=2)
    assert (case.method, case.tokens) == ("mmim", True)
    peer.prepare(case, tmp_path, SAMPLES)
    found = peer.ours(case, Setting(tmp_path, tmp_path, QUICK, threads=1), tmp_path)
    (record,), problems = peer.Records(tmp_path / "leaderboard" / "records").load()
    assert not problems
    assert record.completed, record.error
    assert (record.cost.epochs, record.samples) == (2, SAMPLES)
    assert record.config["text_encoder"] == str(tmp_path / peer.ENCODER)
    assert 0 < 2 * found.epoch < found.total
    assert found.memory > 100e6


def test_rows_say_how_many_times_faster_ours_is() -> None:
    mine = [peer.Training(1.0, 30.0, 50_000_000), peer.Training(2.0, 40.0, 50_000_000)]
    other = [peer.Training(4.0, 60.0, 100_000_000), peer.Training(6.0, 80.0, 100_000_000)]
    setting = Setting(Path(), Path(), QUICK, threads=2)
    epoch, total, memory = peer.rows_of(peer.CASES[0], setting, mine, other)
    assert (epoch.ours, epoch.reference, epoch.ratio, epoch.met) == (1.5, 5.0, 3.5, True)
    assert (total.ratio, total.required, total.device) == (2.0, None, "cpu, 2 threads")
    assert (memory.ours, memory.ratio, memory.unit) == (50.0, 0.5, "MB")
    assert len({row.measurement for row in (epoch, total, memory)}) == 3


def test_without_the_peer_nothing_is_measured_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def failing(*_: object) -> str:
        raise Failed("no network")

    monkeypatch.setattr(peer, "run_python", failing)
    assert list(peer.measure(Setting(tmp_path, tmp_path, QUICK))) == []
    assert "nothing is measured beside it: no network" in capsys.readouterr().err
