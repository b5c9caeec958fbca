"""How a plan is doing: bars on a terminal; elsewhere a line per ended trial, and a line a minute where it is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mmbench.runner.plan import Trial
from mmbench.runner.record import Record
from mmbench.runner.troubles import MachineError

News = int | str | Record | MachineError
"""What there is to say of a trial: its finished epochs, whom it waits for, its record, or why it has none."""
INTERVAL = 60.0
"""Seconds between two lines that say where a plan is, where there is no terminal."""


class Display:
    """Shows trials as they go, and remembers how they ended.

    Args:
        console: Where to print.
        trials: The plan.

    Attributes:
        ended: By id of an ended trial its record, or why it has none.
        stopped: What stopped the whole plan, if anything did.
    """

    def __init__(self, console: Console, trials: Sequence[Trial]) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.console = console
        self.ended: dict[str, Record | MachineError] = {}
        self.stopped: MachineError | None = None
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._total = self._progress.add_task("trials", total=len(trials))
        self._titles = titles(trials)
        self._tasks: dict[str, TaskID] = {}
        self._running: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._begin = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show bars, or a line a minute, as long as the plan runs."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(INTERVAL):
                self.console.print(self.where(), markup=False, soft_wrap=True)

        if not self.console.is_terminal:
            threading.Thread(target=tell, daemon=True).start()
        try:
            with self._progress:
                yield
        finally:
            over.set()

    def where(self) -> str:
        """Return in a line how far the plan is and what it is at."""
        minutes = int(time.monotonic() - self._begin) // 60
        now = "; ".join(list(self._running.values())) or "nothing is running here"
        return f"[{len(self.ended)}/{len(self._titles)}] after {minutes} min: {now}"

    def __call__(self, trial: Trial, news: News) -> None:
        """Take note of news of a trial."""
        title = self._titles[trial.id]
        if isinstance(news, str):
            if trial.id not in self._tasks and self._told.get(trial.id) != news:  # another command has it
                self.console.print(f"{title}: {news}", markup=False, soft_wrap=True)
            self._told[trial.id] = news
            return
        if isinstance(news, int):
            if trial.id not in self._tasks:
                self._started[trial.id] = time.monotonic()
                self._tasks[trial.id] = self._progress.add_task(title, total=trial.training["max_epochs"])
            self._progress.update(self._tasks[trial.id], completed=news)
            self._running[trial.id] = f"{title}, epoch {news} of at most {trial.training['max_epochs']}"
            return
        self._running.pop(trial.id, None)
        if trial.id in self._tasks:
            self._progress.remove_task(self._tasks.pop(trial.id))
        if isinstance(news, MachineError) and news.everything:
            self.stopped = news
        if isinstance(self.ended.get(trial.id), Record):
            return  # another process has said so, or had less luck
        first = trial.id not in self.ended
        self.ended[trial.id] = news
        if first:
            self._progress.advance(self._total)
        took = f" in {time.monotonic() - self._started[trial.id]:.0f} s" if trial.id in self._started else " (kept)"
        text = outcome(news) if isinstance(news, Record) else f"no result: {news}"
        self.console.print(
            f"[{len(self.ended)}/{len(self._titles)}] {title}: {text}{took}", markup=False, soft_wrap=True
        )


def titles(trials: Sequence[Trial]) -> dict[str, str]:
    """Return by id a name that no other trial of the plan has: with its track, then its id, where titles are alike."""
    names = {trial.id: trial.title for trial in trials}
    for more in ("track", "id"):
        often = Counter(names.values())
        names |= {
            trial.id: f"{names[trial.id]} ({getattr(trial, more)})" for trial in trials if often[names[trial.id]] > 1
        }
    return names


def outcome(record: Record) -> str:
    """Return in a few words how a trial ended."""
    if record.selection is None or record.value is None:
        return f"{record.status}: {record.error.message if record.error else ''}"
    return f"{record.selection.metric} {record.value:.4f} (epoch {record.selection.epoch})"
