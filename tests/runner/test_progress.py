"""What is said of a plan while it runs."""

from __future__ import annotations

import dataclasses
import io
import re
import time

import pytest
from rich.console import Console

from mmbench.runner import progress
from mmbench.runner.launch import launch
from mmbench.runner.progress import Display, titles
from mmbench.runner.work import Options
from tests.runner.conftest import Planner


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=60)


def test_in_a_pipe_a_plan_says_now_and_then_where_it_is(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    out = console()
    launch(plan("lf_dnn", epochs=20), options, out)
    lines = [line for line in out.file.getvalue().splitlines() if "after" in line]
    assert any(re.fullmatch(r"\[0/1\] after 0 min: lf_dnn seed 1111, epoch \d+ of at most 20", line) for line in lines)
    count = out.file.getvalue().count("\n")
    assert count > 1
    assert out.file.getvalue().splitlines()[-1].startswith("[1/1] lf_dnn seed 1111: mae")


def test_lines_come_once_a_minute_and_end_with_the_plan(plan: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    class Event:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 2

        def set(self) -> None:
            waits.append(0.0)

    out, started = console(), []
    display = Display(out, plan("lf_dnn"))
    monkeypatch.setattr(progress.threading, "Event", Event)
    monkeypatch.setattr(progress.threading.Thread, "start", lambda thread: started.append(thread))
    with display.shown():
        for thread in started:
            thread.run()
    assert out.file.getvalue().splitlines() == ["[0/1] after 0 min: nothing is running here"] * 2
    assert waits == [60.0, 60.0, 60.0, 0.0]


def test_on_a_terminal_there_are_bars_instead(plan: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    out = console(terminal=True)
    with Display(out, plan("lf_dnn")).shown():
        time.sleep(0.1)
    assert "trials" in out.file.getvalue()
    assert "after" not in out.file.getvalue()


def test_two_trials_never_have_the_same_name(plan: Planner, options: Options) -> None:
    first, other = plan("lf_dnn", "constant")
    elsewhere = dataclasses.replace(first, track="synthetic/regression/standard+missing-steps0.1")
    settings = dataclasses.replace(elsewhere, data={"normalize": "train"})
    trials = [first, other, elsewhere, settings]
    names = titles(trials)
    assert len(set(names.values())) == 4
    assert names[other.id] == "constant seed 1111"
    assert names[first.id] == "lf_dnn seed 1111 (synthetic/regression/standard)"
    assert names[settings.id] == f"lf_dnn seed 1111 ({settings.track}) ({settings.id})"
    out = console()
    display = Display(out, trials)
    for trial in trials:
        display(trial, 1)
    running = display.where().partition(": ")[2].split("; ")
    assert len(set(running)) == 4
    for trial in trials:
        display(trial, "waiting for another process")
