"""Methods and data sets outside the repository: files that a command names, as the README says it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import data_modules
from data_modules import DataError, FeatureStore, broken_datasets, datasets, plugins
from mmbench.cli import main
from mmbench.methods import ConfigError, broken_methods, method, methods
from mmbench.runner.code import code_hash, code_sources
from mmbench.runner.plan import make_plan
from mmbench.runner.settings import Suite, load_suite
from tests.plugin_files import Named, commands, method_file, python

SHORT = ["--max-epochs", "1", "--seeds", "1", "--jobs", "1", "--accelerator", "cpu"]


def test_the_method_of_the_readme_is_listed_tested_trained_and_ranked(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command as it is printed; the training is short."""
    (plugged / "my_fusion.py").write_text(python("Add a method")[0])
    made, listed, tested, trained = commands("Add a method")
    assert main(made) == 0
    capsys.readouterr()
    assert main([*listed, "--json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["my_fusion"]["title"] == "My fusion"
    assert len(rows) == len(methods()) + 1
    assert main([*tested, "--select", "card or shape"]) == 0
    said = capsys.readouterr().out
    assert " passed" in said
    assert "arning" not in said
    assert main([*trained, *SHORT]) == 0
    (table,) = (plugged / "leaderboard" / "local").glob("synthetic*.md")
    assert "my_fusion [max_epochs=1, width=128]" in table.read_text()
    assert main(["report"]) == 0, "the board is made without the plug-in, too"
    assert plugins.VARIABLE not in os.environ


def test_the_data_set_of_the_readme_is_made_listed_and_trained_on(
    plugged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, described = python("Add a data set")
    exec(compile(made, "README.md", "exec"), {})
    (plugged / "interviews.py").write_text(described)
    imported, listed, trained = commands("Add a data set")
    assert main(imported) == 0
    capsys.readouterr()
    assert main([*listed, "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["dataset"] == "interviews")
    assert row["modalities"] == ["text", "audio"]
    assert "lmf" in row["methods"]
    assert main([*trained, *SHORT]) == 0
    (record,) = (plugged / "leaderboard" / "local" / "records" / "interviews").rglob("*.json")
    assert json.loads(record.read_text())["data"]["normalize"] == "train", "the class has decided it"


def test_a_broken_file_says_so_and_disturbs_nobody(
    plugged: Path, named: Named, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing, training and predicting go on; asking for it tells the line."""
    named(my_fusion=method_file(), broken_one="x = 1\n1 / 0\n")
    line = "broken_one.py:2: `1 / 0`: ZeroDivisionError: division by zero"
    assert main(["list", "methods", "--json"]) == 0
    out, err = capsys.readouterr()
    assert {row["method"] for row in json.loads(out)} == {*methods(), "my_fusion"}
    assert line in err
    assert main(["list", "datasets"]) == 0
    assert line in capsys.readouterr().err
    store = str(small_store.path)
    assert main(["run", "--method", "my_fusion", "--store", store, *SHORT]) == 0
    (checkpoint,) = plugged.rglob("epoch=*.ckpt")
    assert main(["predict", "--checkpoint", str(checkpoint), "--data", store]) == 0
    capsys.readouterr()
    for asked in (["run", "--store", store, "--method"], ["test-method"]):
        assert main([*asked, "broken_one"]) == 2
        assert line in capsys.readouterr().err
    assert main(["run", "--dataset", "broken_one"]) == 2
    assert line in capsys.readouterr().err
    assert main(["show", "broken_one"]) == 2
    assert line in capsys.readouterr().err
    suite = plugged / "mine.yaml"
    suite.write_text("methods: [broken_one]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: methods: .*broken_one\.py:2"):
        load_suite(suite)
    assert main(["run", "--store", store, "--dry-run"]) == 0
    assert f"broken_one is left out: {line}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("lf_dnn", method_file("lf_dnn", ("LfDnn", "LFDNN")), "Two methods are called 'lf_dnn': one of this project"),
        ("mine", python("Add a data set")[1].replace('"interviews"', '"mosi"'), "Two data sets are called 'mosi'"),
    ],
)
def test_a_taken_name_is_refused_with_both_places(
    plugged: Path, name: str, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (plugged / f"{name}.py").write_text(text)
    assert main(["--plugin", f"{name}.py", "list", "methods"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert f"one of {name}.py" in said


@pytest.mark.parametrize("option", ["--plug", "--plugi=mine.py", "--p"])
def test_a_part_of_the_option_is_refused(option: str, plugged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, *(["mine.py"] if "=" not in option else []), "list", "methods"])
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "null" not in capsys.readouterr().out


def test_a_file_that_cannot_be_a_plugin_says_why(plugged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "--plugin"]) == 2
    assert main(["list", "methods", "--plugin=none.py"]) == 2
    assert "There is no plug-in" in capsys.readouterr().err
    for name, words in (
        ("my-fusion.py", "cannot be imported: call it by letters"),
        ("numbers.py", "has the name of another module"),
        ("sys.py", "has the name of another module (a part of Python)"),
        ("empty.py", "empty.py defines neither a FusionMethod nor a FusionDataModule"),
        ("leaves.py", "leaves.py:1: `raise SystemExit(3)`: SystemExit: 3"),
    ):
        (plugged / name).write_text("raise SystemExit(3)\n" if name == "leaves.py" else "")
        assert main(["list", "methods", "--plugin", name]) == 0
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    card = DataCard(", "    other = DataCard(", "wrong.py:6: `class Interviews(FusionDataModule):"),
        ('key = "interviews"', 'key = "../up"', "the data set cannot be named '../up'"),
        ('task="regression"', 'task="ranking"', "There is no kind of target 'ranking'"),
        ('("text", "audio")', '("words",)', "There is no modality 'words'"),
        ('("text", "audio")', "()", "The modalities of a card are (); give one or more, such as ('text', 'audio')"),
        ('("text", "audio")', '"text"', "The modalities of a card are 'text'; give one or more"),
        ('licence="..."', "licence=3", "The licence of a card is a text, and here it is 3"),
    ],
)
def test_a_data_set_that_breaks_the_contract_says_so(named: Named, old: str, new: str, words: str) -> None:
    named(wrong=python("Add a data set")[1].replace(old, new))
    assert words in broken_datasets()["wrong"]
    assert "wrong.py:" in broken_datasets()["wrong"]
    with pytest.raises(DataError, match=r"wrong\.py:"):
        data_modules.dataset("wrong")
    assert "mosi" in datasets()


def test_an_edit_of_the_file_or_of_one_beside_it_trains_again(plugged: Path, named: Named) -> None:
    sizes = "import sizes\n\nfrom torch import nn"
    named(my_fusion=method_file("my_fusion", ("from torch import nn", sizes), ("self.config.width,", "sizes.WIDTH,")))
    (plugged / "sizes.py").write_text("WIDTH = 64\n")
    (plugged / "near.py").write_text("X = 1\n")
    assert method("my_fusion").__module__ == "my_fusion"
    assert {"my_fusion", "sizes", "mmbench.nn.pooling"} <= set(code_sources("my_fusion"))
    assert "near" not in code_sources("my_fusion")
    first = code_hash("my_fusion")
    assert code_hash("my_fusion") == first
    (plugged / "near.py").write_text("X = 2\n")
    (plugged / "my_fusion.py").write_text(f"# a remark\n{(plugged / 'my_fusion.py').read_text()}")
    assert code_hash("my_fusion") == first
    (plugged / "sizes.py").write_text("WIDTH = 65\n")
    second = code_hash("my_fusion")
    (plugged / "my_fusion.py").write_text((plugged / "my_fusion.py").read_text().replace("relu", "tanh"))
    assert len({first, second, code_hash("my_fusion")}) == 3


def test_an_edit_of_a_data_set_trains_again(plugged: Path, named: Named) -> None:
    made, described = python("Add a data set")
    exec(compile(made, "README.md", "exec"), {})
    file = plugged / "interviews.py"
    named(interviews=f"import sizes\n{described}")
    (plugged / "sizes.py").write_text("STEPS = 3\n")
    assert main(commands("Add a data set")[0]) == 0

    def codes() -> set[str]:
        """Return the hash of each step; trials of before count for those with the same one."""
        trials, _ = make_plan(Suite("default"), dataset="interviews", methods_wanted=["lmf"], seeds=[1])
        (own,) = {trial.code for trial in trials}
        return {own, code_hash("lmf", "interviews"), code_hash("lmf"), code_hash("lmf", "synthetic")}

    first, of_lmf = codes(), {code_hash("lmf")}
    assert len(first) == 2, "a data set of this project adds nothing, one from elsewhere itself"
    file.write_text(f"# a remark\n{file.read_text()}")
    assert codes() == first
    (plugged / "sizes.py").write_text("STEPS = 4\n")
    second = codes()
    file.write_text(f"{file.read_text()}\nLATER = 1\n")
    assert first & second & codes() == of_lmf
    assert len(first | second | codes()) == 4


def test_the_hash_does_not_depend_on_the_folder(plugged: Path, named: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    named(first_place=method_file("first_place"))
    here = code_hash("first_place")
    other = plugged / "other"
    other.mkdir()
    (plugged / "first_place.py").rename(other / "first_place.py")
    monkeypatch.setenv(plugins.VARIABLE, str(other / "first_place.py"))
    monkeypatch.delitem(sys.modules, "first_place")
    assert code_hash("first_place") == here


def test_an_unknown_method_and_a_mended_one(named: Named, plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(mended=method_file("mended").replace("def forward", "def forwards"))
    with pytest.raises(ConfigError, match=r"mended\.py:\d+: `class Mended.* has no forward"):
        method("mended")
    assert list(broken_methods()) == ["mended"]
    with pytest.raises(ConfigError, match="no method 'mendid'"):
        method("mendid")
