"""The examples in docstrings: each runs as it stands, and every metric, method and data set has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import mmbench.metrics
from data_modules import FusionDataModule, datasets
from mmbench.methods import methods
from mmbench.metrics import METRICS
from mmbench.runner.code import PROJECT, ROOT


def modules() -> Iterator[str]:
    """Yield the dotted names of the files that have examples."""
    for package in PROJECT:
        for path in sorted((ROOT / package).rglob("*.py")):
            if ">>>" in path.read_text():
                parts = path.relative_to(ROOT).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def examples() -> dict[str, doctest.DocTest]:
    """Return every docstring that has examples, by the dotted name of what it is of."""
    finder = doctest.DocTestFinder()
    found = [test for name in modules() for test in finder.find(importlib.import_module(name))]
    return {test.name: test for test in found if test.examples}


def name_of(item: Any) -> str:
    return f"{item.__module__}.{item.__qualname__}"


def to_look_up() -> dict[str, Any]:
    """Return by dotted name what must have an example."""
    items = [FusionDataModule, *METRICS.values(), *methods().values(), *datasets().values()]
    items += [value for value in vars(mmbench.metrics).values() if inspect.isclass(value)]
    for info in pkgutil.iter_modules(mmbench.metrics.__path__, f"{mmbench.metrics.__name__}."):
        here = vars(importlib.import_module(info.name))
        items += [value for name, value in here.items() if inspect.isfunction(value) and not name.startswith("_")]
    return {name_of(item): item for item in items if item.__module__.partition(".")[0] in PROJECT}


@pytest.mark.parametrize("name", to_look_up())
def test_there_is_an_example_that_shows_a_value(name: str) -> None:
    test = examples().get(name)
    assert test, f"the docstring of {name} has no example"
    assert any(example.want or example.exc_msg for example in test.examples), f"the example of {name} shows no value"


@pytest.mark.parametrize("name", examples())
def test_an_example_runs_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own imports, wherever it is typed in, whatever was drawn at random before, and without a trace."""
    monkeypatch.chdir(tmp_path)
    test, told = examples()[name], []
    test.globs = {}
    with torch.random.fork_rng(devices=[]):
        result = doctest.DocTestRunner(verbose=False).run(test, out=told.append)
    assert not result.failed, "".join(told)
    assert list(tmp_path.iterdir()) == []
