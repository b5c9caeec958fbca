"""Damaged files, read as the commands read them, in a process whose end, time and memory are seen.

A :class:`Form` says how a valid file is made and how it is read. :func:`cases` damages the file, by seeds, and tells
what reading each damaged one comes to. Forms lie in the lists ``FORMS`` of the modules ``tests/fuzz/forms_*.py``.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import pkgutil
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
import torch

from data_modules.budget import VARIABLE
from data_modules.schema import DataError
from mmbench.methods.config import ConfigError
from tests.fuzz.mutations import mutate

BUDGET = int(0.5e9)
"""Bytes that a file may take in memory."""
ALLOWED = 1.25
"""What a process may really take, over the budget."""
REACH = 6
"""What a process can have at all, over the budget, so that no case takes the memory of the machine."""
NO_MEMORY = ("memory allocation failed", "needs more memory than there is")
"""What is said where far more than the budget was asked for and refused."""
SECONDS = 20.0

Damage = Callable[[Path, np.random.Generator], None]
"""Changes the file at a path in place, keeping its form but not its sense."""
Kind = Literal["ok", "message", "nameless", "traceback", "hang", "memory", "crash"]
GOOD: tuple[Kind, ...] = ("ok", "message")


@dataclass(frozen=True)
class Form:
    """A kind of file that users bring.

    Attributes:
        name: Of letters, digits, ``-`` and ``_``.
        make: Writes a small valid file, or a folder of files, into an empty folder and returns its path.
        read: Reads it as a command does, to the end. Whatever it writes goes beside the path.
        damages: Changes of its structure; without them its bytes alone are changed.
        seconds: Time that one reading may take.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    damages: tuple[Damage, ...] = ()
    seconds: float = SECONDS


@dataclass(frozen=True)
class Outcome:
    """What reading one damaged file came to.

    Attributes:
        form: Name of the form.
        number: Number of the case.
        how: What was done to the file.
        kind: ``ok``, a ``message`` that names the file, a ``nameless`` one, a ``traceback``, a ``hang``, ``memory``
            over the budget (taken, or asked for in vain), or a ``crash`` of the process.
        text: The message, the traceback, or how the process ended.
    """

    form: str
    number: int
    how: str
    kind: Kind
    text: str = ""

    @property
    def good(self) -> bool:
        """Whether nobody could complain."""
        return self.kind in GOOD

    def __str__(self) -> str:
        return f"{self.form} {self.number} ({self.how}): {self.kind} {self.text}"


def forms() -> dict[str, Form]:
    """Return every form by its name."""
    found: dict[str, Form] = {}
    folder = Path(__file__).parent
    for info in sorted(pkgutil.iter_modules([str(folder)]), key=lambda info: info.name):
        if info.name.startswith("forms_"):
            for form in importlib.import_module(f"{__package__}.{info.name}").FORMS:
                assert form.name not in found, form.name
                found[form.name] = form
    return found


def cases(form: Form, count: int, seed: int = 0, first: int = 0) -> Iterator[Outcome]:
    """Damage a file ``count`` times, each time the valid one anew, and yield what reading it came to.

    Args:
        form: The form.
        count: Number of cases.
        seed: Decides all of them.
        first: Number of the first one, to see a case again.
    """
    torch.set_num_threads(1)  # a fork has none of the threads, and would wait for them
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{form.name}-") as folder:
        valid = Path(folder, "valid")
        valid.mkdir()
        worker: _Worker | None = None
        try:
            name = form.make(valid).relative_to(valid)
            for number in range(first, first + count):
                worker = worker or _Worker(form, valid, name, seed)
                outcome = worker.ask(number)
                yield outcome
                if outcome.kind in ("hang", "memory", "crash"):
                    worker.end()
                    worker = None
        finally:
            if worker:
                worker.end()


class _Worker:
    """A process that damages and reads one file after the other."""

    def __init__(self, form: Form, valid: Path, name: Path, seed: int) -> None:
        self.form = form
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(form, valid, name, seed, theirs), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads, which take no part in it
            self._process.start()
        theirs.close()
        self._how = "nothing"
        ready = self._wait(-1, 3 * form.seconds)
        assert ready.kind == "ok", f"the valid file: {ready}"

    def ask(self, number: int) -> Outcome:
        self._ours.send(number)
        assert self._ours.poll(10 * self.form.seconds), f"{self.form.name} {number}: no end to damaging the file"
        self._how = self._ours.recv()  # an EOFError here is a mistake of the damage
        return self._wait(number, self.form.seconds)

    def _wait(self, number: int, seconds: float) -> Outcome:
        if not self._ours.poll(seconds):
            return Outcome(self.form.name, number, self._how, "hang", f"of {seconds:g} s")
        try:
            kind, text = self._ours.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            kind, text = "crash", f"with the exit code {self._process.exitcode}"
        return Outcome(self.form.name, number, self._how, kind, text)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _work(form: Form, valid: Path, name: Path, seed: int, pipe: Connection) -> None:
    faulthandler.disable()
    with open(os.devnull, "w") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                os.dup2(nowhere.fileno(), stream.fileno())
        sys.stdout = sys.stderr = nowhere
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)  # numpy's, of numbers that make no sense
        os.environ[VARIABLE] = f"{BUDGET}B"
        pipe.send(_read(form, valid / name, {name.name}))  # a first time, with whatever is loaded for it
        resource.setrlimit(resource.RLIMIT_AS, (_size() + REACH * BUDGET, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        while True:
            try:
                number = pipe.recv()
            except EOFError:
                return
            with tempfile.TemporaryDirectory(dir=valid.parent, prefix="case-") as folder:
                shutil.copytree(valid, folder, dirs_exist_ok=True)
                rng = np.random.default_rng([seed, number, crc32(form.name.encode())])
                how, changed = damage(form, Path(folder, name), rng)
                pipe.send(how)
                base = _start()
                kind, text = _read(form, Path(folder, name), {name.name, changed.name})
                if (taken := _peak() - base) > ALLOWED * BUDGET:
                    kind, text = "memory", f"{taken / 1e9:.2f} GB; {kind} {text}"
                pipe.send((kind, text))


def damage(form: Form, path: Path, rng: np.random.Generator) -> tuple[str, Path]:
    """Damage a valid file; return how, and which file was changed."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if form.damages and rng.random() < 0.6:
        chosen = form.damages[rng.integers(len(form.damages))]
        chosen(path, rng)
        return getattr(chosen, "__name__", "structure"), path
    changed = files[rng.integers(len(files))]
    data, how = mutate(changed.read_bytes(), rng)
    changed.write_bytes(data)
    return how, changed


def _read(form: Form, path: Path, names: set[str]) -> tuple[Kind, str]:
    try:
        form.read(path)
    except (DataError, ConfigError) as error:
        text = str(error)
        if isinstance(error.__cause__, MemoryError) or any(words in text for words in NO_MEMORY):
            return "memory", text
        return ("message" if any(name in text for name in names) else "nameless"), text
    except MemoryError:
        return "memory", traceback.format_exc(limit=-6)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-6)
    return "ok", ""


def _start() -> int:
    """Let the measure of memory begin anew, where that can be done, and return where it stands."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the most memory that this process had, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _size() -> int:
    """Return the addresses that this process has, in bytes; where the system does not tell, some beyond all need."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 40
