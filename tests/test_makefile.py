"""Setting up and cleaning by ``make``, with interpreters that only pretend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLD = """#!/bin/sh
# Any Python that calls itself 3.9; `-m venv` would leave a mark.
[ "$1" = -m ] && touch "$PWD/asked-for-venv" && exit 0
exec "{python}" -c "import sys; sys.version_info = (3, 9, 18); sys.version = '3.9.18 (main)'
$2"
"""
NEW = """#!/bin/sh
# `-m venv DIR` makes a folder whose pip fails while the file `broken` is there.
[ "$1" = -m ] || exec "{python}" "$@"
mkdir -p "$3/bin" && ln -sf "{python}" "$3/bin/python"
printf '#!/bin/sh\\necho installed >> installs\\ntest ! -e broken\\n' > "$3/bin/pip" && chmod +x "$3/bin/pip"
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in (("old", OLD), ("new", NEW)):
        path = tmp_path / name
        path.write_text(text.format(python=sys.executable))
        path.chmod(0o755)
    return tmp_path


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, not as a child of the make that runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=clone, capture_output=True, text=True, env=environment)


def test_an_old_python_is_said_first_and_leaves_nothing_behind(clone: Path) -> None:
    ran = make(clone, "setup", "PYTHON=./old")
    assert ran.returncode != 0
    assert "mmbench needs Python 3.11 or newer" in ran.stderr
    assert "3.9.18" in ran.stderr
    assert "make setup PYTHON=python3.11" in ran.stderr
    assert not (clone / ".venv").exists()
    assert not (clone / "asked-for-venv").exists()


def test_an_old_environment_is_to_be_removed(clone: Path) -> None:
    """Another PYTHON would not be asked."""
    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(clone / "old")
    ran = make(clone, "setup", "PYTHON=./new")
    assert ran.returncode != 0
    assert "Remove .venv: make clean" in ran.stderr
    assert "PYTHON=" not in ran.stderr


def test_a_set_up_that_fails_leaves_no_half_environment(clone: Path) -> None:
    (clone / "broken").touch()
    assert make(clone, "setup", "PYTHON=./new").returncode != 0
    assert not (clone / ".venv").exists()
    (clone / "broken").unlink()
    assert make(clone, "setup", "PYTHON=./new").returncode == 0
    assert (clone / ".venv/bin/.done").exists()
    assert make(clone, "setup", "PYTHON=./new").returncode == 0
    assert (clone / "installs").read_text().count("installed") == 2  # a third one was not needed


def test_a_set_up_that_was_killed_is_made_anew_and_an_environment_of_ones_own_is_kept(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv/.unfinished").touch()
    (clone / ".venv/rest").touch()
    assert make(clone, "setup", "PYTHON=./new").returncode == 0
    assert not (clone / ".venv/rest").exists()
    assert not (clone / ".venv/.unfinished").exists()
    (clone / ".venv/bin/.done").unlink()  # as one that make has not made
    (clone / ".venv/mine").touch()
    assert make(clone, "setup", "PYTHON=./new").returncode == 0
    assert (clone / ".venv/mine").exists()
    (clone / ".venv/bin/.done").unlink()
    (clone / "broken").touch()
    assert make(clone, "setup", "PYTHON=./new").returncode != 0
    assert (clone / ".venv/mine").exists()


def test_clean_keeps_checkpoints_and_distclean_says_what_it_removes(clone: Path) -> None:
    kept = [clone / "runs/a/epoch=1.ckpt", clone / "runs/b/epoch=2.ckpt", clone / "data/mosi.h5"]
    kept += [clone / "leaderboard/local/records/x.json"]
    for path in (*kept, clone / ".venv/bin/python"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert make(clone, "clean").returncode == 0
    assert all(path.exists() for path in kept)
    assert not (clone / ".venv").exists()
    said = make(clone, "distclean")
    assert "removing runs/ with 2 checkpoints" in said.stdout
    assert not (clone / "runs").exists()
    assert (clone / "data/mosi.h5").exists()
    assert (clone / "leaderboard/local/records/x.json").exists()
