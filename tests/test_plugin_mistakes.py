"""What authors of plug-ins get wrong disturbs nobody else, and names the line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from data_modules import FeatureStore, broken_datasets, datasets, plugins
from mmbench.cli import main
from mmbench.methods import ConfigError, broken_methods, method, methods
from mmbench.runner.code import code_hash, code_sources
from mmbench.runner.plan import make_plan
from mmbench.runner.settings import Suite
from tests.plugin_files import Named, line_with, method_file, python

SETTING = 'width: int = setting(64, "hidden units", low=1)'
FORWARD = "    def forward(self"


@pytest.fixture
def package(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    """Put an installed package on the path, as pip would, with these entry points of methods and data sets."""

    def install(*points: tuple[str, str], **files: str) -> None:
        (plugged / "acme_fusion-1.0.dist-info").mkdir()
        (plugged / "acme_fusion-1.0.dist-info" / "METADATA").write_text("Name: acme-fusion\nVersion: 1.0\n")
        text = "\n".join(f"[mmbench.{group}]\n{point}\n" for group, point in points)
        (plugged / "acme_fusion-1.0.dist-info" / "entry_points.txt").write_text(text)
        for name, source in files.items():
            (plugged / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(plugged))
        monkeypatch.setenv(plugins.VARIABLE, str(plugged / "nothing.py"))  # the registries remember by the variable
        (plugged / "nothing.py").write_text("")

    return install


@pytest.mark.parametrize("content", ["{}", "{'mosi': 3}", "3"])
def test_an_entry_point_that_is_no_data_set_says_so(
    package: Named, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    package(("datasets", "odd = acme_odd:WHAT"), acme_odd=f"WHAT = {content}\n")
    assert main(["list", "datasets"]) == 0
    place = "the package acme-fusion 1.0 (mmbench.datasets: odd = acme_odd:WHAT)"
    assert f"{place} must be a FusionDataModule whose key is 'odd'" in capsys.readouterr().err
    assert "odd" not in datasets()


def test_entry_points_are_found_by_name_and_broken_ones_say_where(package: Named) -> None:
    package(
        ("methods", "acme_mean = acme_mean:AcmeMean\nacme_lost = acme_mean:Lost"),
        ("datasets", "interviews = acme_talk:Interviews"),
        acme_mean=method_file("acme_mean"),
        acme_talk=python("Add a data set")[1],
    )
    assert method("acme_mean").__module__ == "acme_mean"
    assert datasets()["interviews"].__module__ == "acme_talk"
    assert "has no attribute 'Lost'" in broken_methods()["acme_lost"]
    assert "the package acme-fusion 1.0 (mmbench.methods: acme_lost = acme_mean:Lost)" in broken_methods()["acme_lost"]
    assert "acme_mean" in code_sources("acme_mean")


def test_a_data_set_without_a_key_says_so(named: Named) -> None:
    text = python("Add a data set")[1].replace('    key = "interviews"\n', "")
    named(keyless=text)
    assert f"keyless.py:{line_with(text, 'class Int')}: `class Int" in broken_datasets()["keyless"]
    assert "the data set has no key" in broken_datasets()["keyless"]


def test_what_a_plugin_prints_is_no_part_of_the_answer(named: Named, capsys: pytest.CaptureFixture[str]) -> None:
    named(my_fusion=f"{method_file()}\n\nprint('hello')\n")
    assert main(["list", "methods", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "my_fusion" in {row["method"] for row in json.loads(out)}
    assert "hello" in err


def test_a_path_that_the_variable_cannot_hold_is_refused(plugged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plugged / f"a{os.pathsep}b"
    folder.mkdir()
    (folder / "my_fusion.py").write_text(method_file())
    assert main(["--plugin", str(folder / "my_fusion.py"), "list", "methods"]) == 2
    assert f"{os.pathsep!r} separates files in MMBENCH_PLUGINS" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["list", "methods", "--plugin"], ["--plugin", "--json"], ["list", "--plugin="]])
def test_the_option_needs_a_file(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "--plugin needs a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            SETTING.replace("64", "0"),
            "the settings of wrong cannot have their own defaults: Wrong: setting 'width' is 0",
        ),
        (SETTING.replace("low=1", 'needs="widht"'), "the setting 'width' of wrong needs another that is not there."),
        (SETTING.replace("low=1", 'divides="widht"'), "of wrong divides another that is not there."),
        (SETTING.replace("low=1", "needs=('width',)"), "give the name of a setting, or values by name"),
        ("width: int = field(kw_only=True)", "the setting 'width' of wrong has no default: give it one"),
    ],
)
def test_settings_that_cannot_be_used_name_the_line(named: Named, setting: str, words: str) -> None:
    text = method_file("wrong", (SETTING, setting), ("import dataclass\n", "import dataclass, field\n"))
    named(wrong=text)
    part = "class Config" if "defaults:" in words else setting
    lines = {line_with(text, part), line_with(text, part) - ("class" in part)}
    assert any(broken_methods()["wrong"].startswith(f"wrong.py:{number}: `") for number in lines)
    assert words in broken_methods()["wrong"]
    assert "mmim" in methods()


def test_a_constant_of_the_settings_class_is_no_setting(named: Named) -> None:
    named(
        fine=method_file(
            "fine",
            (SETTING, f"KINDS: ClassVar[int] = 3\n        {SETTING}"),
            ("import torch\n", "from typing import ClassVar\n\nimport torch\n"),
        )
    )
    assert method("fine").Config().width == 64


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "return {'': {}}[spec]",
            "`return {'': {}}[spec]`: the variants of Varied cannot be had: TypeError: unhashable",
        ),
        ("return {'low': {'width': -1}}", "the variants of Varied cannot be had: Varied: setting 'width' is -1"),
        ("return {'low': {'widht': 1}}", "There is no setting of Varied called 'widht'"),
        ("return 3", "the variants of Varied cannot be had: AttributeError"),
    ],
)
def test_broken_variants_leave_the_method_out_and_are_refused_by_name(
    named: Named, small_store: FeatureStore, body: str, words: str
) -> None:
    own = f"    @classmethod\n    def variants(cls, spec):\n        {body}\n\n{FORWARD}"
    named(varied=method_file("varied", (FORWARD, own)))
    suite = Suite("default", methods=("lf_dnn", "varied"), seeds=(1,))
    where: dict[str, Any] = {"dataset": "synthetic", "path": small_store.path}
    trials, left_out = make_plan(suite, **where)
    assert left_out["varied"].startswith("varied.py:")
    assert words in left_out["varied"]
    assert [trial.method for trial in trials] == ["lf_dnn"]
    with pytest.raises(ConfigError, match=r"^varied\.py:\d+: `.* the variants of Varied cannot be had"):
        make_plan(suite, methods_wanted=["varied"], **where)


def two(folder: Path, monkeypatch: pytest.MonkeyPatch, near: str, take: str) -> None:
    """Name two plug-ins in folders of their own, with a file of equal name beside each."""
    for name in ("first_one", "second_one"):
        (folder / name / near).parent.mkdir(parents=True, exist_ok=True)
        edits = (("import torch\n", f"{take}\nimport torch\n"), ("self.config.width,", "WIDTH,"))
        (folder / name / f"{name}.py").write_text(method_file(name, *edits))
        (folder / name / near).write_text("WIDTH = 64\n")
    every = [str(folder / name / f"{name}.py") for name in ("first_one", "second_one")]
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(every))


@pytest.mark.parametrize(
    ("near", "take"),
    [("sizes.py", "from sizes import WIDTH"), ("parts/sizes.py", "from parts.sizes import WIDTH")],
)
def test_equally_named_files_beside_two_plugins_are_refused(
    plugged: Path, monkeypatch: pytest.MonkeyPatch, near: str, take: str
) -> None:
    two(plugged, monkeypatch, near, take)
    assert "first_one" in methods()
    top = near.partition("/")[0]
    (said,) = broken_methods().values()
    assert f"would import {plugged / 'first_one' / top} in place of {plugged / 'second_one' / top}" in said
    with pytest.raises(ConfigError, match="rename one of the two"):
        method("second_one")


def test_equally_named_files_that_are_not_imported_do_no_harm(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(plugged, monkeypatch, "sizes.py", "WIDTH = 64  # not from sizes")
    assert {"first_one", "second_one"} <= set(methods())


@pytest.mark.parametrize(("text", "words"), [(b"WIDTH = (\n", "sizes.py:1"), (b"\xff\xfe", "sizes.py")])
def test_a_file_that_is_imported_late_and_is_no_python_leaves_the_method_out(
    plugged: Path, named: Named, small_store: FeatureStore, text: bytes, words: str
) -> None:
    late = ("        return Output(", "        from sizes import WIDTH  # noqa: F401\n\n        return Output(")
    (plugged / "sizes.py").write_bytes(text)
    named(my_fusion=method_file("my_fusion", late))
    trials, left_out = make_plan(Suite("default"), dataset="synthetic", path=small_store.path)
    assert f"{words} cannot be read as Python" in left_out["my_fusion"]
    assert "lf_dnn" in {trial.method for trial in trials}
    with pytest.raises(ConfigError, match=r"sizes\.py"):
        make_plan(Suite("default"), dataset="synthetic", methods_wanted=["my_fusion"], path=small_store.path)


def test_a_file_in_another_encoding_is_read_as_python_reads_it(plugged: Path, named: Named) -> None:
    (plugged / "sizes.py").write_bytes("# coding: latin-1\nNAME = 'M\xfcller'\n".encode("latin-1"))
    named(my_fusion=method_file("my_fusion", ("import torch\n", "from sizes import NAME\nimport torch\n")))
    assert code_hash("my_fusion")


def test_an_edit_in_a_folder_without_init_trains_again(plugged: Path, named: Named) -> None:
    edits = (("import torch\n", "from parts.sizes import WIDTH\nimport torch\n"), ("self.config.width,", "WIDTH,"))
    (plugged / "parts").mkdir()
    (plugged / "parts" / "sizes.py").write_text("WIDTH = 64\n")
    named(my_fusion=method_file("my_fusion", *edits))
    assert "parts.sizes" in code_sources("my_fusion")
    before = code_hash("my_fusion")
    (plugged / "parts" / "sizes.py").write_text("WIDTH = 65\n")
    assert code_hash("my_fusion") != before
    assert "parts.sizes" in sys.modules
