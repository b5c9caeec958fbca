"""A package of its own, outside the repository: installed by pip, then listed, checked, trained, tested and ranked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmbench.cli import main
from tests.plugin_files import ROOT, commands, method_file, python

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "acme-fusion"
version = "1.0"

[project.entry-points."mmbench.methods"]
acme_mean = "acme.mean:AcmeMean"
acme_broken = "acme.broken:AcmeBroken"
mmim = "acme.mean:MMIM"

[project.entry-points."mmbench.datasets"]
interviews = "acme.interviews"

[tool.setuptools]
packages = ["acme"]
"""


def command(*arguments: str, folder: Path, installed: Path, code: int = 0) -> str:
    """Run the command in a process of its own, in which the package is installed, and return what it says."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(installed)]), "OMP_NUM_THREADS": "1"}
    ran = [sys.executable, "-m", "mmbench", *arguments]
    done = subprocess.run(ran, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_is_listed_checked_trained_tested_and_ranked(plugged: Path) -> None:
    source, installed, folder = plugged / "source", plugged / "installed", plugged / "elsewhere"
    (source / "acme").mkdir(parents=True)
    folder.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "acme" / "__init__.py").write_text("")
    (source / "acme" / "mean.py").write_text(f"{method_file('acme_mean')}\n\nclass MMIM(AcmeMean):\n    pass\n")
    (source / "acme" / "broken.py").write_text("import acme.nowhere\n")
    made, described = python("Add a data set")
    (source / "acme" / "interviews.py").write_text(described)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True)

    os.chdir(folder)
    exec(compile(made, "README.md", "exec"), {})
    assert main(commands("Add a data set")[0]) == 0
    assert main(["data", "synth"]) == 0

    def run(*arguments: str, code: int = 0) -> str:
        return command(*arguments, folder=folder, installed=installed, code=code)

    listed = run("list", "methods", "--json")
    assert '"method": "acme_mean"' in listed
    assert f"{installed / 'acme' / 'broken.py'}:1: `import acme.nowhere`: ModuleNotFoundError" in listed
    assert "Two methods are called 'mmim': one of this project (mmim.py), one of the package acme-fusion 1.0" in listed
    # Processes of their own load it, too; the published mmim is still there.
    short = ["--max-epochs", "2", "--accelerator", "cpu"]
    assert "acme.nowhere" in run("run", "--dataset", "interviews", "--method", "acme_broken", code=2)
    ran = run("run", "--dataset", "interviews", "--method", "acme_mean", "mmim", "--jobs", "2", *short)
    assert ran.count("acme_mean [max_epochs=2] seed") == ran.count("mmim [max_epochs=2] seed") == 6
    assert "acme_mean" in run("report", "--dataset", "interviews")

    shutil.copytree(ROOT / "benchmarks" / "suites", folder / "benchmarks" / "suites")
    only = ["check", "--method", "acme_mean", "--jobs", "1"]
    assert "new rows" in run(*only, "--accept")
    assert "all where the baseline has them" in run(*only)
    assert " passed" in run("test-method", "acme_mean")

    record = next((folder / "leaderboard" / "local").rglob("acme_mean/*.json"))
    assert json.loads(record.read_text())["card"]["title"] == "My fusion"
    mean = installed / "acme" / "mean.py"
    mean.write_text(mean.read_text().replace("relu", "tanh"))
    again = run("run", "--dataset", "interviews", "--method", "acme_mean", "mmim", "--jobs", "1", *short)
    assert again.count("(kept)") == 3, "the edited method is trained again, the other is not"


@pytest.mark.slow
def test_processes_that_share_a_plan_load_the_plugin(plugged: Path) -> None:
    (plugged / "my_fusion.py").write_text(method_file())
    assert main(["data", "synth"]) == 0
    ran = command(
        *("--plugin", "my_fusion.py", "run", "--method", "my_fusion", "--seeds", "1", "2", "--jobs", "2"),
        *("--max-epochs", "1", "--accelerator", "cpu"),
        folder=plugged,
        installed=plugged / "nowhere",
    )
    assert "[2/2] my_fusion" in ran
