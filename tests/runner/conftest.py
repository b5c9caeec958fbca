"""A plan of short trials and a place for what they leave."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_modules import FeatureStore
from mmbench.runner.plan import Trial, make_plan
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import Records, read_record
from mmbench.runner.settings import Suite
from mmbench.runner.training import Training
from mmbench.runner.work import Options

Planner = Callable[..., list[Trial]]
Broken = Callable[..., None]
BROKEN = """
    import multiprocessing, os, pathlib, signal, time
    import torch.distributed as dist
    from mmbench.methods import FusionMethod, MethodCard, Output
    from mmbench.runner import distributed
    from torch import nn

    class {name}(FusionMethod):
        card = MethodCard(title="Broken", authors="Nobody", year=2026, fidelity="own")

        def __init__(self, spec, task=None, config=None):
            super().__init__(spec, task, config)
            {early}
            self.head = nn.Linear(self.dims["text"], self.task.outputs)

        def forward(self, batch):
            if self.training and dist.is_initialized():
                if dist.get_rank() == 1:
                    {what}
                elif {waits}:
                    time.sleep(3600)
            return Output(self.head(batch.inputs["text"].values.sum(1)))
"""


@pytest.fixture
def plan(small_store: FeatureStore, tmp_path: Path) -> Planner:
    """Return the trials of some methods on the small store."""

    def make(
        *methods: str, epochs: int = 3, patience: int = 0, seeds: tuple[int, ...] = (1111,), **changes: Any
    ) -> list[Trial]:
        suite = Suite("default", seeds=seeds, training=Training(max_epochs=epochs, patience=patience or epochs))
        options: dict[str, Any] = {"dataset": "synthetic", "path": small_store.path, "benchmarks": tmp_path / "none"}
        return make_plan(suite, methods_wanted=methods, **{**options, **changes})[0]

    return make


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Return a place of its own for records and checkpoints."""
    return Options(leaderboard=tmp_path / "leaderboard", runs=tmp_path / "runs", accelerator="cpu")


def find(records: Records, trial: Trial | Record) -> Record | None:
    """Return the record of a trial, if there is a readable one."""
    try:
        return read_record(records.path(trial))
    except RecordError:
        return None


def write_broken(folder: Path, name: str, what: str, early: str = "pass", waits: str = "False") -> Path:
    """Write a method whose second process does something when it trains.

    Args:
        folder: Where it goes.
        name: Its class.
        what: What the second process does, as a statement.
        early: What every process does when it makes the method.
        waits: Whether the first process does nothing more when it trains, as an expression.

    Returns:
        The file, for ``MMBENCH_PLUGINS``.
    """
    text = textwrap.dedent(BROKEN)
    for key, value in {"what": what, "name": name, "early": early, "waits": waits}.items():
        text = text.replace(f"{{{key}}}", value)
    path = folder / f"{name.lower()}.py"
    path.write_text(text)
    return path


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """Return what adds a method as :func:`write_broken` writes them."""
    return lambda *how, **more: monkeypatch.setenv("MMBENCH_PLUGINS", str(write_broken(tmp_path, *how, **more)))
