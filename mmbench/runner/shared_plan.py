"""A plan in a folder that several workers see: what they read of it, and what they say of it.

Whoever starts workers, in processes, as jobs of SLURM or as tasks of Ray, hands them this folder and no more. It lies
beside the checkpoints, so it is on a file system that all of them share, or they cannot work on one plan at all: a
worker that does not find the folder of records as the command sees it says so and ends. Each worker writes what there
is to say of a trial as lines of a file of its own; nothing is written by two.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from data_modules.files import atomic_path
from mmbench.runner.lease import owner
from mmbench.runner.plan import Trial
from mmbench.runner.progress import News, outcome
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import read_record
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import Options

FOLDER = "plans"
"""Folder of plans, beside the checkpoints."""
VARIABLES = ("MMBENCH_", "OMP_", "MKL_", "GOMP_")
"""How the environment variables begin that workers get as the command has them."""


class SharedPlan:
    """The folder of a plan.

    Args:
        folder: Where it lies.

    Attributes:
        trials: The plan.
        options: How to run it.
        executor: Where its workers start.
        variables: Environment variables of the command that workers get.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        content = json.loads((folder / "plan.json").read_text("utf-8"))
        self._started_in = Path(content["place"])
        self.executor: str = content["executor"]
        self.variables: dict[str, str] = content["variables"]
        self.trials = [Trial(**trial) for trial in content["trials"]]
        # As the command means them, wherever this is read.
        paths = {name: self._started_in / content["options"][name] for name in ("leaderboard", "runs")}
        self.options = Options(**{**content["options"], **paths})
        self._by_id = {trial.id: trial for trial in self.trials}
        self._read: dict[Path, int] = {}
        self._promised: dict[str, Trial] = {}

    @classmethod
    def create(cls, trials: Sequence[Trial], options: Options, executor: str) -> SharedPlan:
        """Write a plan.

        Raises:
            OSError: When the folder of checkpoints or that of records cannot be written.
        """
        folder = options.runs / FOLDER / secrets.token_hex(6)
        (folder / "news").mkdir(parents=True)
        (folder / "given-up").mkdir()
        content = {
            "place": str(Path.cwd()),
            "executor": executor,
            "variables": {
                **{name: value for name, value in os.environ.items() if name.startswith(VARIABLES)},
                **({"CUDA_VISIBLE_DEVICES": ""} if options.accelerator == "cpu" else {}),
            },
            "trials": [dataclasses.asdict(trial) for trial in trials],
            "options": {
                **dataclasses.asdict(options),
                "leaderboard": str(options.leaderboard),
                "runs": str(options.runs),
            },
        }
        with atomic_path(folder / "plan.json") as part:
            part.write_text(json.dumps(content), "utf-8")
        plan = cls(folder)
        plan._probe.parent.mkdir(parents=True, exist_ok=True)
        plan._probe.touch()
        return plan

    @property
    def _probe(self) -> Path:
        """An empty file beside the records, by which a worker sees that these are the command's."""
        return self.options.leaderboard / f".{self.folder.name}.plan"

    def enter(self) -> None:
        """Go where the command was started, for its paths are relative to that; with its environment variables."""
        os.chdir(self._started_in)
        os.environ.update(self.variables)

    def apart(self) -> MachineError | None:
        """Return what is wrong where this process does not see the records that the command sees."""
        if self._probe.is_file():
            return None
        return MachineError(
            f"{socket.gethostname()} does not see the folder {self.options.leaderboard} of the command: give folders "
            "on a file system that all workers share (--leaderboard, --runs).",
            everything=True,
        )

    def reporter(self, worker: str) -> Reporter:
        """Return what a worker says its news by; a name that is used again goes on where it stopped."""
        return Reporter(self.folder / "news" / f"{worker}.jsonl")

    def meeting(self, worker: str) -> Path:
        """Return the file by which the machines of a worker find each other."""
        return self.folder / "meetings" / worker

    @property
    def given_up(self) -> FolderMarks:
        """The trials that ended in trouble in one of the workers."""
        return FolderMarks(self.folder / "given-up")

    @property
    def promised(self) -> bool:
        """Whether a worker has written a record that is not seen here yet."""
        return bool(self._promised)

    @property
    def heard_of(self) -> bool:
        """Whether any worker has begun."""
        return any((self.folder / "news").iterdir())

    def news(self) -> Iterator[tuple[Trial, News]]:
        """Yield what workers have said since the last time."""
        for path in sorted((self.folder / "news").glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().split(b"\n")
            self._read[path] = self._read.get(path, 0) + sum(len(line) + 1 for line in lines[:-1])
            for line in lines[:-1]:
                with suppress(ValueError):  # half a line of a worker that was killed
                    yield from self._understood(json.loads(line))
        for key, trial in list(self._promised.items()):
            # A file system may show the file of another machine late.
            with suppress(RecordError):
                record = read_record(self.options.records.path(trial))
                del self._promised[key]
                yield trial, record

    def _understood(self, line: dict[str, Any]) -> Iterator[tuple[Trial, News]]:
        trial = self._by_id[line["trial"]]
        if line["kind"] == "record":
            self._promised[trial.id] = trial
        elif line["kind"] == "trouble":
            yield trial, MachineError(line["text"], line["everything"])
        else:
            yield trial, line["text"]

    @property
    def logs(self) -> Path:
        """Folder of what its workers print, where an executor keeps that."""
        return self.folder / "logs"

    def troubles(self) -> Iterator[tuple[Trial, MachineError]]:
        """Yield why trials were given up, from all that workers have said."""
        for trial, news in SharedPlan(self.folder).news():
            if isinstance(news, MachineError):
                yield trial, news

    def remove(self, logs: bool = True) -> None:
        """Remove the folder, or all of it but what workers printed."""
        with suppress(OSError):
            self._probe.unlink()
        if logs or not self.logs.is_dir():
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            (self.folder / "plan.json").unlink(missing_ok=True)


def plans(runs: Path) -> list[SharedPlan]:
    """Return the plans that lie beside checkpoints, the oldest first."""
    found: list[tuple[float, SharedPlan]] = []
    for path in (runs / FOLDER).glob("*/plan.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):  # gone meanwhile, or of another version
            found.append((path.stat().st_mtime, SharedPlan(path.parent)))
    return [plan for _, plan in sorted(found, key=lambda pair: pair[0])]


def state(trial: Trial, options: Options) -> tuple[str, str]:
    """Return how a trial of a plan is doing, from its record and its lease.

    Returns:
        ``done``, ``failed``, ``running`` or ``waiting``, and what there is to say of it.
    """
    if record := options.finished_record(trial):
        return "done" if record.completed else "failed", outcome(record)
    if holder := owner(options.records.path(trial).with_suffix(".lease")):
        return "running", f"by {holder}"
    return "waiting", ""


class Reporter:
    """Writes the news of a worker, a line each. A context manager that closes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Reporter:
        self._file: TextIO = self.path.open("a", encoding="utf-8")
        self._file.write("\n")  # ends the line in which an earlier worker of this name was killed
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __call__(self, trial: Trial, news: News) -> None:
        """Write what there is to say of a trial."""
        line: dict[str, Any] = {"trial": trial.id, "kind": "progress", "text": news}
        if isinstance(news, Record):
            line = {"trial": trial.id, "kind": "record"}
        elif isinstance(news, MachineError):
            line = {"trial": trial.id, "kind": "trouble", "text": str(news), "everything": news.everything}
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:  # news are not worth a training
            print(f"{trial.title}: {news if isinstance(news, MachineError) else error}", file=sys.stderr, flush=True)


class FolderMarks:
    """Names as empty files of a folder, which all workers see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, name: object) -> bool:
        return (self.folder / str(name)).exists()

    def add(self, name: str) -> None:
        """Add a name; where none can be written, as on a full disk, others find out for themselves."""
        with suppress(OSError):
            (self.folder / name).touch()
