"""What the command sets for its processes, and what it leaves alone."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbench.cli import machine

ROOT = Path(__file__).parents[1]
OWN = ("OMP_", "GOMP_", "MALLOC_", "GLIBC_TUNABLES")
BARE = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # malloc.h

try:
    IS_GLIBC = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
except (AttributeError, ValueError):
    IS_GLIBC = False
GLIBC = pytest.mark.skipif(not IS_GLIBC, reason="another C library")


class Library:
    """A C library that notes what it is told; blocks above a size it refuses, as before glibc 2.35."""

    def __init__(self, largest: int = 2**31 - 1) -> None:
        self.largest, self.told = largest, []

    def mallopt(self, parameter: int, value: int) -> int:
        taken = parameter != MMAP_THRESHOLD or value <= self.largest
        if taken:
            self.told.append((parameter, value))
        return int(taken)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return library


def test_waiting_threads_soon_sleep_and_free_memory_is_kept(library: Library) -> None:
    environment = {"HOME": "/"}
    machine.prepare(environment)
    assert environment == {"HOME": "/", "GOMP_SPINCOUNT": "2000", **MEMORY}
    assert library.told == [(MMAP_THRESHOLD, 2**28), (TRIM_THRESHOLD, 2**30)]


@pytest.mark.parametrize(
    ("own", "rest"),
    [
        ({"OMP_WAIT_POLICY": "active"}, MEMORY),
        ({"GOMP_SPINCOUNT": "1000"}, MEMORY),
        ({"MALLOC_ARENA_MAX": "1"}, {"GOMP_SPINCOUNT": "2000"}),
        ({"MALLOC_TRIM_THRESHOLD_": "0"}, {"GOMP_SPINCOUNT": "2000"}),
        ({"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}, {"GOMP_SPINCOUNT": "2000"}),
    ],
)
def test_what_the_user_has_set_stays(library: Library, own: dict[str, str], rest: dict[str, str]) -> None:
    environment = dict(own)
    machine.prepare(environment)
    assert environment == {**own, **rest}
    assert bool(library.told) == (rest == MEMORY)


def test_an_older_library_gets_the_largest_size_that_it_takes(library: Library) -> None:
    library.largest = 2**25
    environment: dict[str, str] = {}
    machine.prepare(environment)
    assert environment["MALLOC_MMAP_THRESHOLD_"] == str(2**25)
    assert library.told == [(MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**30)]


def _unknown(name: str) -> str:
    raise ValueError("unrecognized configuration name")


@pytest.mark.parametrize("confstr", [_unknown, None, lambda name: None, lambda name: "NPTL 2.36"])
def test_other_systems_are_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch, confstr: object) -> None:
    """MacOS and musl do not know the name, Windows has no such function."""
    if confstr:
        monkeypatch.setattr(os, "confstr", confstr)
    else:
        monkeypatch.delattr(os, "confstr")
    environment: dict[str, str] = {}
    machine.prepare(environment)
    assert environment == {"GOMP_SPINCOUNT": "2000"}
    assert not library.told


def test_a_library_without_mallopt_is_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    environment: dict[str, str] = {}
    machine.prepare(environment)
    assert environment == {"GOMP_SPINCOUNT": "2000"}


def script(path: Path, *lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines after those that every script here needs, in a process without any such variable."""
    head = """
        import ctypes, json, multiprocessing, os, resource, sys

        def command():
            from mmbench.cli import main
            sys.argv = ["mmbench", "--version"]
            try:
                main()
            except SystemExit as end:
                assert not end.code

        def faults():
            "Pages that are cleared when blocks of 48 MB are written and freed, but for the first."
            libc, size = ctypes.CDLL(None), 48 * 2**20
            libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
            libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
            libc.free.argtypes = [ctypes.c_void_p]
            for turn in range(6):
                block = libc.malloc(size)
                libc.memset(block, 1, size)
                libc.free(block)
                before = before if turn else resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    """
    path.write_text("\n".join([textwrap.dedent(head), *lines]))
    ran = subprocess.run(
        [sys.executable, str(path)],
        env={**BARE, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran


@GLIBC
def test_memory_is_kept_by_the_command_and_by_the_workers_that_it_starts(tmp_path: Path) -> None:
    lines = (
        "if __name__ == '__main__':",
        "    found = [faults()]",
        "    command()",
        "    found.append(faults())",
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:",
        "        found.append(pool.apply(faults))",
        "    print(json.dumps(found))",
    )
    bare, own, worker = json.loads(script(tmp_path / "one.py", *lines).stdout.splitlines()[-1])
    assert bare > 5 * 20  # of 4 KB or of 2 MB
    assert own * 10 < bare
    assert worker * 10 < bare
    bare, own, worker = json.loads(
        script(tmp_path / "two.py", *lines, MALLOC_MMAP_THRESHOLD_="65536").stdout.splitlines()[-1]
    )
    assert min(bare, own, worker) > 5 * 20


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch comes with another OpenMP")
def test_the_threads_of_pytorch_are_told(tmp_path: Path) -> None:
    lines = ("command()", "import torch")
    said = script(tmp_path / "one.py", *lines, OMP_DISPLAY_ENV="verbose").stderr
    assert "GOMP_SPINCOUNT = '2000'" in said
    said = script(tmp_path / "two.py", *lines, OMP_DISPLAY_ENV="true", OMP_WAIT_POLICY="active").stderr
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in said


def test_nothing_is_set_for_those_who_use_the_library(tmp_path: Path) -> None:
    script(
        tmp_path / "library.py",
        "before = dict(os.environ)",
        "import mmbench, mmbench.methods, mmbench.runner.launch",
        "from mmbench.cli import main",
        "assert main(['list', 'suites']) == 0",
        "added = {name for name in os.environ if os.environ[name] != before.get(name)}",
        f"assert not [name for name in added if name.startswith({OWN!r})], added",
    )
