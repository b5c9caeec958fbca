"""The hash of the code: it changes with what decides a result, and with nothing else."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mmbench.methods
from mmbench.methods import methods
from mmbench.runner import code
from mmbench.runner.code import ROOT, code_hash, code_sources

COUNT = itertools.count(1)
MMIM, NETWORK = "mmbench/methods/mmim/__init__.py", "mmbench/methods/mmim/network.py"
CONFIG, MULT = "mmbench/methods/mmim/config.py", "mmbench/methods/mult/__init__.py"
BASE = "mmbench/methods/base.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project that can be edited."""
    folder = tmp_path_factory.mktemp("project")
    for package in code.PROJECT:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(text, newline="")
    os.utime(path, ns=(0, next(COUNT)))


@contextmanager
def edited(root: Path, file: str, edit: Callable[[str], str]) -> Iterator[None]:
    before = (root / file).read_text()
    after = edit(before)
    assert after != before, "nothing was edited"
    write(root / file, after)
    try:
        yield
    finally:
        write(root / file, before)


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


def appended(line: str) -> Callable[[str], str]:
    return lambda text: f"{text}\n\n{line}\n"


def test_a_hash_depends_neither_on_the_place_nor_on_the_method_asked_before(root: Path) -> None:
    hashes = {key: code_hash(key) for key in methods()}
    assert len(set(hashes.values())) == len(hashes)
    assert {key: code_hash(key, root=root) for key in reversed(list(methods()))} == hashes
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes.values())


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        (MMIM, appended("# a remark")),
        (NETWORK, replaced("        c = settings\n", "        c = settings  # a remark\n\n")),
        (NETWORK, replaced("= c.text_pooling", "= (\n            c.text_pooling\n        )")),
        (MMIM, lambda text: text.replace("\n", "\r\n")),
        (MMIM, replaced('"""MMIM, MultiModal', '"""This is MMIM, MultiModal')),
        (NETWORK, replaced('        """Return prediction', '        """Give prediction')),
        (NETWORK, replaced('"""Return what the first pass of an epoch may change: the', '"""Return the')),
        ("mmbench/nn/pooling.py", replaced('    """Return the mean', '    """The mean')),
        (MMIM, replaced("LSTMs of several layers give the final", "Several layers give the final")),
        (CONFIG, replaced('"width of the fused vector"', '"units of the fused vector"')),
        (MMIM, replaced("(0.700, ", "(0.701, ")),
        (MMIM, replaced('SOURCE = "with', 'SOURCE = "from')),
        (MULT, appended("X = 1")),
        ("mmbench/nn/transformer.py", appended("X = 1")),
        ("data_modules/importers/clips.py", appended("X = 1")),
        ("data_modules/__init__.py", appended("X = 1")),
        ("mmbench/cli/run.py", appended("X = 1")),
        ("mmbench/runner/lease.py", appended("X = 1")),
        ("mmbench/methods/__init__.py", appended("from mmbench.methods.mult import MulT")),
    ],
)
def test_what_decides_nothing_changes_nothing(root: Path, file: str, edit: Callable[[str], str]) -> None:
    with edited(root, file, edit):
        assert code_hash("mmim", root=root) == code_hash("mmim")


@pytest.mark.parametrize(
    ("file", "edit"),
    [
        (CONFIG, replaced("setting(128, ", "setting(129, ")),
        (NETWORK, replaced("// 4)", "// 5)")),
        (NETWORK, replaced("z = self.fusion(", "z = self.fusion.eval()(")),
        (NETWORK, replaced("            nn.Tanh(),\n", "            nn.Tanh(),\n            nn.Dropout(0.1),\n")),
        (MMIM, replaced("needs=Needs(at_least=2)", "needs=Needs(at_least=3)")),
        (CONFIG, replaced('choices=("first", "mean")', 'choices=("mean", "first")')),
        (MMIM, appended("torch.set_num_threads(1)")),
        (MMIM, appended("print(SOURCE)")),
        ("mmbench/nn/pooling.py", replaced("min=1", "min=2")),
        ("mmbench/metrics/confusion.py", appended("X = 1")),
        ("mmbench/metrics/families.py", appended("X = 1")),
        ("mmbench/tasks.py", appended("X = 1")),
        ("data_modules/batches/loading.py", appended("X = 1")),
        (BASE, appended("X = 1")),
        ("mmbench/runner/callbacks.py", appended("X = 1")),
        ("mmbench/methods/__init__.py", appended("print(methods())")),
    ],
)
def test_what_may_decide_changes_the_hash(root: Path, file: str, edit: Callable[[str], str]) -> None:
    with edited(root, file, edit):
        assert code_hash("mmim", root=root) != code_hash("mmim")
    assert code_hash("mmim", root=root) == code_hash("mmim")


def test_a_part_counts_for_the_methods_that_use_it_through_another(root: Path) -> None:
    """``unimodal`` is built on ``late_fusion``, which reads with ``encoders``, which import ``recurrent``."""
    with edited(root, "mmbench/nn/recurrent.py", appended("X = 1")):
        assert code_hash("unimodal", root=root) != code_hash("unimodal")
        assert code_hash("mult", root=root) == code_hash("mult")
    with edited(root, "mmbench/methods/late_fusion.py", appended("X = 1")):
        assert code_hash("unimodal", root=root) != code_hash("unimodal")
        assert code_hash("lf_dnn", root=root) == code_hash("lf_dnn")


def test_the_files_are_those_that_the_method_needs() -> None:
    files = sorted(code_sources("mmim"))
    assert files == sorted(set(files))
    assert {
        "mmbench.methods.mmim",
        "mmbench.methods.mmim.config",
        "mmbench.methods.mmim.network",
        "mmbench.methods.base",
        "mmbench.runner.training",
        "mmbench.runner.callbacks",
        "mmbench.nn.mutual_information",
        "mmbench.nn.pooling",
        "mmbench.metrics.base",
        "mmbench.metrics.families",
        "mmbench.metrics.sentiment",
        "mmbench.tasks",
        "data_modules.batches.data_module",
        "data_modules.batches.loading",
    } <= set(files)
    unwanted = (
        "mmbench.report",
        "mmbench.cli",
        "mmbench.runner.launch",
        "data_modules.importers",
        "data_modules.datasets",
    )
    assert not [file for file in files if file.startswith(unwanted)]
    others = {f"mmbench.methods.{key}" for key in methods()} - {"mmbench.methods.mmim"}
    assert not others & set(files)
    assert "mmbench.methods.mult.network" in code_sources("mcmult")


def test_no_file_imports_by_a_computed_name() -> None:
    for file in {file for key in methods() for file in code_sources(key).values()}:
        text = file.read_text()
        assert "import_module" not in text, file
        assert "__import__" not in text, file


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Give a method of another distribution, ``plugin.fusion.own``, with these files."""

    def make(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            write(tmp_path / name, text)
        module = types.ModuleType("plugin.fusion.own")
        module.__file__ = str(tmp_path / "plugin/fusion/own.py")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(mmbench.methods, "method", lambda key: type("Own", (), {"__module__": module.__name__}))

    return make


def of_plugin() -> list[str]:
    return [file for file in sorted(code_sources("own")) if file.startswith("plugin")]


def test_every_form_of_import_is_followed(plugin: Callable[[dict[str, str]], None]) -> None:
    plugin(
        {
            "plugin/__init__.py": "",
            "plugin/fusion/__init__.py": "from .never import thing\n",
            "plugin/fusion/never.py": "",
            "plugin/fusion/own.py": (
                "from typing import TYPE_CHECKING\nimport torch, plugin.a\nimport plugin.b as b\nfrom . import near\n"
                "from .. import c\nfrom ..d import *\nfrom plugin.package import inside, Given, late\n"
                "from plugin.nowhere import part\nfrom mmbench.methods.scalevlad.vlad import SharedVLAD\n"
                "if TYPE_CHECKING:\n    from plugin import unseen\nelse:\n    from plugin import seen\n"
                "def later():\n    if True:\n        from plugin import e\n"
                "async def also():\n    try:\n        from plugin import f\n"
                "    except ImportError:\n        import plugin.g\n"
                "match 1:\n    case 1:\n        from plugin import h\n"
            ),
            "plugin/fusion/near.py": "",
            **{f"plugin/{name}.py": "" for name in ("a", "b", "c", "d", "e", "f", "g", "h", "seen", "unseen", "other")},
            "plugin/nowhere/part.py": "",
            "plugin/package/__init__.py": (
                "from .one import Thing as Given\nfrom .two import Other\nfrom .three import late as late\n"
                "from .three import early\n"
            ),
            **{f"plugin/package/{name}.py": "" for name in ("one", "two", "inside")},
            "plugin/package/three.py": "from plugin.package import early\n",
        }
    )
    packaged = ["plugin.package.inside", "plugin.package.one", "plugin.package.three"]
    near = ["plugin.fusion.near", "plugin.fusion.own", "plugin.nowhere.part", *packaged]
    assert of_plugin() == sorted([*near, *(f"plugin.{name}" for name in "abcdefgh"), "plugin.seen"])
    assert "mmbench.methods.scalevlad.vlad" in code_sources("own")
    assert "mmbench.methods.base" in code_sources("own")


def test_a_package_counts_when_it_defines_what_is_taken_or_acts(plugin: Callable[[dict[str, str]], None]) -> None:
    files = {"plugin/fusion/own.py": "from plugin.package.one import x\n", "plugin/package/one.py": "x = 1\n"}
    quiet = '"""Doc."""\nfrom plugin.two import y\n__all__ = ["y"]\ndef z():\n    return y\n'
    plugin({**files, "plugin/package/__init__.py": quiet, "plugin/two.py": ""})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package.one"]
    plugin({"plugin/package/__init__.py": f"{quiet}z()\n"})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package", "plugin.package.one", "plugin.two"]
    plugin({"plugin/package/__init__.py": quiet, "plugin/fusion/own.py": "from plugin.package import z\n"})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package", "plugin.two"]
    plugin({"plugin/package/__init__.py": "from plugin.two import y\ny = y + 1\n"})
    plugin({"plugin/fusion/own.py": "from plugin.package import y\n"})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package", "plugin.two"], "it is not only passed on"


def test_what_a_package_defines_comes_before_a_file_of_that_name(plugin: Callable[[dict[str, str]], None]) -> None:
    files = {"plugin/fusion/own.py": "from plugin.package import x\n", "plugin/package/x.py": ""}
    plugin({**files, "plugin/package/__init__.py": "def x():\n    return 1\n"})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package"]
    plugin({"plugin/package/__init__.py": "def y():\n    return 1\n"})
    assert of_plugin() == ["plugin.fusion.own", "plugin.package.x"]


def test_texts_that_another_file_takes_count(plugin: Callable[[dict[str, str]], None]) -> None:
    def both(value: int, takes: str) -> str:
        card = f"from mmbench.methods import MethodCard\nYEAR = {value}\ncard = MethodCard(year=YEAR)\n"
        plugin({"plugin/fusion/own.py": takes, "plugin/card.py": card})
        return code_hash("own")

    assert both(1, "from plugin.card import card\n") == both(2, "from plugin.card import card\n")
    for takes in ("from plugin.card import YEAR\n", "from plugin import card\n", "import plugin.card\n"):
        assert both(1, takes) != both(2, takes)


def test_a_method_without_a_source_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmbench.methods, "method", lambda key: type("Own", (), {"__module__": "builtins"}))
    with pytest.raises(FileNotFoundError, match="'own' is defined in builtins, which has no source file"):
        code_hash("own")
