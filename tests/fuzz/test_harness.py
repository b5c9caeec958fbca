"""The harness sees what it is there to see."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from data_modules.schema import DataError
from data_modules.store.hdf5 import reading
from tests.fuzz.harness import BUDGET, REACH, Form, cases
from tests.fuzz.mutations import mutate


def make(folder: Path) -> Path:
    (folder / "a.txt").write_text("valid 12 " * 20)
    return folder / "a.txt"


def refuse(path: Path) -> None:
    raise DataError(f"{path} is damaged: get it again.")


def refuse_something(path: Path) -> None:
    raise DataError("It is damaged.")


def refuse_for_memory(path: Path) -> None:
    with reading(path):
        take(2 * REACH * BUDGET)


def fail(path: Path) -> None:
    raise KeyError("text")


def take(size: int) -> None:
    np.ones(size, np.uint8)


@pytest.mark.parametrize(
    ("read", "kind", "text"),
    [
        (lambda path: None, "ok", ""),
        (refuse, "message", "a.txt is damaged"),
        (refuse_something, "nameless", "It is damaged"),
        (fail, "traceback", "KeyError: 'text'"),
        (refuse_for_memory, "memory", "a.txt needs more memory than there is"),
        (lambda path: time.sleep(60), "hang", "of 0.2 s"),
        (lambda path: take(2 * BUDGET), "memory", "1.0"),
        (lambda path: take(2 * REACH * BUDGET), "memory", "Unable to allocate"),
        (lambda path: os.kill(os.getpid(), signal.SIGSEGV), "crash", "exit code -11"),
    ],
)
def test_outcomes_are_told_apart(read, kind: str, text: str) -> None:
    valid = "valid 12 " * 20
    seconds = 0.2 if kind == "hang" else 20.0
    form = Form("one", make, lambda path: None if path.read_text() == valid else read(path), (lower,), seconds)
    found = [outcome for outcome in cases(form, 6) if outcome.how == "lower"]
    assert len(found) > 1
    assert {outcome.kind for outcome in found} == {kind}, "and the next case has a process of its own"
    assert all(text in outcome.text for outcome in found)


def lower(path: Path, rng: np.random.Generator) -> None:
    path.write_text("another")


def test_a_case_is_the_same_again() -> None:
    form = Form("one", make, lambda path: path.read_bytes().decode("ascii"))
    once = list(cases(form, 30, seed=3))
    assert len({outcome.how for outcome in once}) > 5
    assert [str(outcome) for outcome in cases(form, 10, seed=3, first=20)] == [str(outcome) for outcome in once[20:]]


def test_every_change_takes_any_bytes() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 3, 9, 100):
        for _ in range(100):
            mutate(rng.bytes(length), rng)
