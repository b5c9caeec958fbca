"""The suite as a library: plain Lightning, and a method of one's own in one file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import lightning
import pytest
import torch

import mmbench
from data_modules import FeatureStore
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.methods.mmim import MMIM
from mmbench.runner.predict import predict

ROOT = Path(__file__).parents[1]

NINTH = '''
"""A ninth method: a linear map of the averaged text."""

from dataclasses import dataclass

from torch import nn

from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard
from mmbench.methods.config import MethodConfig, setting


class NinthWonder(FusionMethod):
    """Text average, one linear layer."""

    card = MethodCard(title="Ninth wonder", authors="A user", year=2026, fidelity="own")

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings."""

        scale: float = setting(1.0, "factor of the average", low=0.0)

    def __init__(self, spec, task=None, config=None):
        super().__init__(spec, task, config)
        self.head = nn.Linear(self.dims["text"], self.task.outputs)

    def forward(self, batch):
        text = self.features(batch)["text"]
        return Output(self.head(self.config.scale * text.values.sum(1) / text.lengths[:, None]))
'''


def test_adding_a_method_takes_one_file(tmp_path: Path, small_store: FeatureStore) -> None:
    """In a copy of the package it is listed, trained and ranked without another edit; a broken one disturbs nobody."""
    for package in ("mmbench", "data_modules"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mmbench" / "methods" / "ninth_wonder.py").write_text(NINTH)
    (tmp_path / "mmbench" / "methods" / "tenth_wonder.py").write_text(NINTH)  # its class has another name
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def mmbench_command(*arguments: str) -> str:
        command = [sys.executable, "-m", "mmbench", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    listed = mmbench_command("list", "methods", "--json")
    assert '"method": "ninth_wonder"' in listed
    assert "tenth_wonder.py:13: `class NinthWonder(FusionMethod):`: a method has the name of its file" in listed
    mmbench_command(
        *("run", "--method", "ninth_wonder", "--method.scale", "2", "--store", str(small_store.path)),
        *("--seeds", "1", "--max-epochs", "1", "--jobs", "1", "--accelerator", "cpu"),
    )
    (table,) = (tmp_path / "leaderboard" / "local").glob("synthetic*.md")
    assert "ninth_wonder" in table.read_text()


def readme_example() -> str:
    """Return the library example of the README."""
    return next(
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "Trainer" in code
    )


def test_the_readme_example_trains_and_tests_the_best_epoch_in_ten_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As printed, but for the epochs: MMIM on another store, of two epochs of which the second is worse."""
    code = readme_example()
    assert len(code.strip().splitlines()) <= 10
    assert "MMIM(" in code
    assert "CMUMOSI(" in code
    write_synthetic(tmp_path / "data" / "mosi.h5", samples=(64, 24, 24))
    with h5py.File(tmp_path / "data" / "mosi.h5", "r+") as file:
        file.attrs["dataset"] = "mosi"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lightning.Trainer, "__init__", _short(lightning.Trainer.__init__))
    monkeypatch.setattr(MMIM, "on_train_epoch_start", _worse(MMIM.on_train_epoch_start))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    trainer, data = names["trainer"], names["data"]
    assert isinstance(trainer, lightning.Trainer)
    assert {"test/mae", "test/acc2_non0"} <= set(trainer.callback_metrics)
    (best,) = tmp_path.rglob("*.ckpt")
    assert best.name.startswith("epoch=0")
    tested = trainer.callback_metrics["test/mae"]
    again = MMIM.load_from_checkpoint(best)
    trainer.test(again, data, verbose=False)
    assert trainer.callback_metrics["test/mae"] == tested
    table = predict(best, tmp_path / "data" / "mosi.h5", accelerator="cpu")
    prediction, _, index = again.test_metric.gathered()
    assert table["sentiment"].iloc[index.numpy()].tolist() == pytest.approx(prediction.flatten().tolist(), abs=1e-4)


def _short(init):
    def short(self, **options):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        init(self, **{**options, "max_epochs": 2, "accelerator": "cpu", **quiet})

    return short


def _worse(start):
    def worse(self):
        start(self)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(1 + 9 * self.current_epoch)

    return worse


def test_the_version_is_said_once() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', text, re.MULTILINE)[1] == mmbench.__version__
    assert f"version: {mmbench.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert mmbench.__version__ in (ROOT / "CHANGELOG.md").read_text()
