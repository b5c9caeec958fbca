"""What a stranger meets first: help, lists, and commands whose output nobody reads."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import data_modules
from data_modules.formats import importers, options_of
from mmbench import cli
from mmbench.cli import COMMANDS, common, main
from mmbench.cli.common import CLOSED, columns, console
from mmbench.cli.data import data_commands
from mmbench.methods import methods
from mmbench.runner import settings
from mmbench.runner.settings import benchmarks_folder

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "pandas", "scipy", "numpy", "h5py")


def test_help_answers_without_what_is_heavy() -> None:
    """Each of them in one process, which then has to have done without."""
    code = f"""
        import sys
        import mmbench
        from mmbench.cli import main
        for words in ([], ["run"], ["show"], ["list"], ["report"], ["predict"], ["data"], ["data", "info"]):
            for option in ("--help",) if words else ("--help", "--version"):
                try:
                    main([*words, option])
                except SystemExit as end:
                    assert not end.code, (words, option)
        assert not [name for name in {HEAVY} if name in sys.modules]
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "mmbench 0." in ran.stdout


UNIX = ("fcntl", "resource", "termios", "pwd", "grp")


def test_no_file_needs_at_import_what_only_unix_has() -> None:
    """What stands in a ``try`` may be missing."""
    for path in (*ROOT.glob("mmbench/**/*.py"), *ROOT.glob("data_modules/**/*.py")):
        nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not names & set(UNIX), path


@pytest.mark.slow
def test_nothing_needs_what_only_unix_has_to_be_imported() -> None:
    """Everything is imported where these modules are missing, as on Windows."""
    code = f"""
        import importlib, os, pkgutil, sys
        import lightning.pytorch, pandas, scipy.stats  # what they need is not ours
        del os.register_at_fork, os.fork, os.getuid, os.sysconf
        sys.modules.update(dict.fromkeys({UNIX}))
        import data_modules, mmbench, mmbench.cli
        for package in (data_modules, mmbench):
            for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                if not found.name.endswith("__main__"):
                    importlib.import_module(found.name)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), *(["data", name] for name in data_commands())])
def test_every_command_has_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert not end.value.code
    out = capsys.readouterr().out
    command = {**COMMANDS, **{f"data {name}": one for name, one in data_commands().items()}}.get(" ".join(words))
    assert (command.text if command else "benchmark of multimodal") in " ".join(out.split())


def test_every_format_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in importers():
        with pytest.raises(SystemExit) as end:
            main(["data", "import", name, "--help"])
        assert not end.value.code
        out = capsys.readouterr().out
        for option in options_of(name):
            assert f"--{option}" in out


@pytest.mark.parametrize("what", ["methods", "datasets", "suites"])
def test_lists_fit_80_columns_and_break_no_key(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", 80)
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    keys = {"methods": methods(), "datasets": data_modules.datasets(), "suites": settings.suites(ROOT / "benchmarks")}
    assert max(map(len, lines)) <= 80
    assert set(keys[what]) <= {line.split(" ")[0] for line in lines}
    if what == "datasets":
        words = {word.strip(",;:") for line in lines for word in line.split()}
        assert not set(methods()) & words


def test_only_the_last_column_is_wrapped_and_goes_below_where_there_is_no_room() -> None:
    rows = [("a_long_key", "1", "some words to be wrapped here and there"), ("b", "22", "few")]
    assert columns(rows, 50) == [
        "a_long_key  1   some words to be wrapped here and",
        "                there",
        "b           22  few",
    ]
    assert columns(rows, 30) == [
        "a_long_key  1",
        "    some words to be wrapped",
        "    here and there",
        "b           22",
        "    few",
    ]


class Closed(io.StringIO):
    """An output whose reader has left, until it is led elsewhere."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        if not led:
            raise BrokenPipeError

    def fileno(self) -> int:
        return 1


led: list[int] = []
"""The outputs that were led elsewhere."""


class Full(Closed):
    """An output to a full disk."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the test's own output; rich's console is silent after it was closed."""
    led.clear()
    own = SimpleNamespace(open=lambda *file: 0, devnull=os.devnull, O_WRONLY=os.O_WRONLY)
    own.dup2 = lambda source, target: led.append(target)
    monkeypatch.setattr(common, "os", own)  # pytest leads outputs elsewhere too
    yield
    console.quiet = False


@pytest.mark.parametrize("words", [["list", "suites", "--json"], ["list", "suites"], ["--help"]])
def test_a_reader_that_leaves_ends_the_command_without_a_word(
    words: list[str], dropped: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    try:
        status: object = main(words)
    except SystemExit as end:
        status = end.code
    assert status == CLOSED == 141
    assert led == [1]
    assert capsys.readouterr().err == ""


def test_an_output_to_a_full_disk_is_said(
    dropped: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["list", "suites", "--json"]) == 1
    assert "The output cannot be written: [Errno 28]" in capsys.readouterr().err


def test_errors_that_are_no_wrong_use_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arguments: object) -> int:
        raise ValueError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "verify", COMMANDS["verify"]._replace(call=broken))
    with pytest.raises(ValueError, match="a bug"):
        main(["verify"])


def test_settings_come_from_the_working_directory_else_from_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "benchmarks"
    assert benchmarks_folder() == shipped
    (tmp_path / "benchmarks").mkdir()
    assert benchmarks_folder() == shipped  # somebody else's folder of that name
    (tmp_path / "benchmarks/suites").mkdir()
    assert benchmarks_folder() == Path("benchmarks")
    monkeypatch.setattr(settings, "PACKAGE", tmp_path / "site/mmbench")
    (tmp_path / "benchmarks/suites").rmdir()
    inside = tmp_path / "site/mmbench/benchmarks"
    (inside / "suites").mkdir(parents=True)
    (inside / "suites/ci.yaml").touch()
    assert benchmarks_folder() == inside
    assert main(["check", "--accept"]) == 2
    assert "run from the repository" in capsys.readouterr().err
    assert main(["list", "suites", "--benchmarks", "nowhere"]) == 2
    assert "There is no folder nowhere: leave --benchmarks away" in capsys.readouterr().err


@pytest.mark.slow
def test_an_installed_wheel_plans_the_same_trials_as_the_clone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clone = tmp_path / "clone"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        if name.startswith(("mmbench/", "data_modules/", "benchmarks/", "setup.py", "pyproject", "README", "LICENSE")):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            (clone / name).write_bytes((ROOT / name).read_bytes())

    def run(*words: str, cwd: Path = tmp_path, path: Path | None = None) -> str:
        own = {**environment, **({"PYTHONPATH": str(path)} if path else {})}
        ran = subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, env=own)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    pip = ("-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", str(clone))
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    inside = {path.relative_to(site).parts[0] for path in site.iterdir()}
    assert {name for name in inside if not name.endswith(".dist-info")} <= {"mmbench", "data_modules", "bin"}
    for part in ("suites", "methods", "baselines"):
        shipped = {path.name for path in (site / "mmbench/benchmarks" / part).iterdir()}
        assert shipped == {path.name for path in (clone / "benchmarks" / part).iterdir()}
    assert not (site / "mmbench/benchmarks/speed").exists()
    assert {str(path.relative_to(site)) for path in site.glob("mmbench/**/*.py")} >= {
        name for name in files if name.startswith("mmbench/") and name.endswith(".py")
    }

    store = tmp_path / "work/data/synthetic.h5"
    store.parent.mkdir(parents=True)
    run("-m", "mmbench", "data", "synth", cwd=tmp_path / "work", path=site)
    command = ("-m", "mmbench", "run", "--dataset", "synthetic", "--method", "lmf", "mmim", "--dry-run")
    installed = run(*command, cwd=tmp_path / "work", path=site)
    there = run(*command, "--store", str(store), cwd=clone, path=clone)
    assert installed == there
    assert len(installed.splitlines()) == 6
