"""What a method promises is checked on the first batch: what breaks it names the author's line and leaves no record."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from data_modules import FeatureStore
from data_modules.plugins import extended
from mmbench.cli import main
from mmbench.methods import ConfigError, MethodCard, method
from mmbench.runner.contract import unread, watched
from mmbench.runner.trial import run_trial
from mmbench.runner.work import Options
from tests.plugin_files import line_with, method_file
from tests.runner.conftest import Planner

CARD = 'card = MethodCard(title="My fusion", authors="...", year=2026, fidelity="own")'
RETURN = "return Output(self.head(self.hidden(torch.cat(means, -1)).relu()))"
LOSS = 'return {"task": self.task.loss(output.prediction, batch)}'
CLASS = "(FusionMethod):"
SETTING = 'width: int = setting(64, "hidden units", low=1)'

LOOKS = {
    "no_card": ((CARD, "pass"), CLASS, "has no card"),
    "own_fidelity": (('"own"', '"mine"'), "fidelity=", "There is no fidelity 'mine'. Known: official-code, paper"),
    "one_deviation": (('"own"', '"own", deviations=("One.")'), "fidelity=", "deviations of a card are a tuple of str"),
    "no_target": (('"own"', '"own", needs=3'), "fidelity=", "needs of a card are Needs(...)"),
    "other_class": (("class OtherClass", "class Somehow"), CLASS, "call the class OtherClass, or the file"),
    "no_forward": (("def forward", "def forwards"), CLASS, "has no forward"),
    "no_dataclass": (("    @dataclass(frozen=True)\n", ""), "class Config", "decorate the class with @dataclass"),
    "no_config": (("(MethodConfig)", ""), CLASS, "Config is no subclass of MethodConfig"),
    "few_arguments": (
        ("spec, task=None, config=None", "spec"),
        CLASS,
        "must be made by (spec, task=None, config=None)",
    ),
    "no_python": (("def forward(self, batch):", "def forward(self, batch)"), "def forward", "SyntaxError: expected"),
    "no_library": (("import torch\n", "import torchh\n"), "import torchh", "No module named 'torchh'"),
}
"""By file an edit, a part of the line that is named, and what is said; a look at the class is enough."""
TRAINS = {
    "too_wide": (("self.task.outputs)", "3)"), RETURN, "the shape (32, 3), and (32, 1) is wanted"),
    "flat": ((".relu()))", ".relu()).squeeze(-1))"), ".squeeze(-1)", "the shape (32,), and (32, 1) is wanted"),
    "bare": (
        (RETURN, RETURN.replace("Output(", "(")),
        "return (self.head",
        "gives a Tensor: return Output(prediction)",
    ),
    "plain_number": ((RETURN, "return Output(3.0)"), "return Output(3.0)", "predicts float: give a tensor"),
    "no_mapping": ((LOSS, LOSS.replace('{"task": ', "").replace("}", "")), "return self.task.loss", "gives a Tensor"),
    "no_terms": ((LOSS, "return {}"), "return {}", "objective gives a dict"),
    "unreduced": ((LOSS, 'return {"task": output.prediction}'), 'return {"task"', "'task' as shape (32, 1)"),
    "plain_loss": ((LOSS, 'return {"task": 1.0}'), 'return {"task"', "'task' as float"),
    "infinite": ((LOSS, LOSS.replace("batch)}", "batch) / 0}")), "/ 0}", "gives the term 'task' as inf"),
    "detached": ((LOSS, LOSS.replace("batch)}", "batch).detach()}")), "detach", "loss without a gradient"),
    "unread_setting": (
        (SETTING, f'{SETTING}\n        depth: int = setting(1, "layers")'),
        "depth:",
        "reads the setting 'd",
    ),
}
"""Likewise, where it takes data to see it."""
EARLY = f"if batch.size < 1:\n            {RETURN}\n        "
LATER = {
    "two_returns": ((RETURN, f"{EARLY}return Output(3.0)"), "return Output(3.0)", "predicts float: give a tensor"),
    "nested": (
        (RETURN, f"def inner():\n            return 3\n        {RETURN.replace('Output(', '(')}"),
        "return (self.head",
        "gives a Tensor: return Output(prediction)",
    ),
    "wide_when_predicting": (
        (RETURN, f"if not self.training:\n            return Output(torch.zeros(batch.size, 5))\n        {RETURN}"),
        "return Output(torch.zeros",
        "the shape (24, 5), and (24, 1) is wanted",
    ),
    "called_loss": ((LOSS, LOSS.replace('"task"', '"loss"')), 'return {"loss"', "gives a term called 'loss'"),
    "misspelled": (
        (RETURN, f'batch.inputs["smell"]\n        {RETURN}'),
        '["smell"]',
        "The modalities are called text,",
    ),
}
"""Likewise: of several returns the one that ran, when it predicts, names that mean something else."""
TRAINS |= LATER


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_the_class_finds_it(
    plugged: Path, small_store: FeatureStore, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, part, words = LOOKS[name]
    text = method_file(name, edit)
    (plugged / f"{name}.py").write_text(text)
    assert train(f"{name}.py", small_store.path, name) == 2
    said = capsys.readouterr().err
    assert f"{name}.py:{line_with(text, part)}: `" in said
    assert words in said
    assert main(["--plugin", f"{name}.py", "list", "methods", "--json"]) == 0
    out, err = capsys.readouterr()
    assert '"method": "mmim"' in out
    assert words in err


@pytest.mark.parametrize("name", TRAINS)
def test_the_first_batch_finds_it(
    plugged: Path, small_store: FeatureStore, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, part, words = TRAINS[name]
    text = method_file(name, edit)
    (plugged / f"{name}.py").write_text(text)
    assert train(f"{name}.py", small_store.path, name) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"{name}.py:{line_with(text, part)}: `" in said
    assert words in said
    assert not list(plugged.rglob("*.json"))


def train(file: str, store: Path, *keys: str) -> int:
    options = ["--max-epochs", "1", "--seeds", "1", "--jobs", "1", "--accelerator", "cpu"]
    return main(["--plugin", file, "run", "--method", *keys, "--store", str(store), *options])


@pytest.mark.parametrize(
    ("name", "edit", "part"),
    [
        ("asks_early", ("sum(self.dims.values())", 'self.dims["text"]'), 'self.dims["text"]'),
        ("asks_late", (".values()]", '.values()] + [batch.inputs["text"].values]'), 'inputs["text"]'),
        (
            "asks_last",
            (LOSS, LOSS.replace("batch)}", 'batch) * batch.inputs["text"].lengths.sum()}')),
            'inputs["text"]',
        ),
    ],
)
def test_a_modality_that_is_not_there_is_named(
    plugged: Path, small_store: FeatureStore, name: str, edit: tuple[str, str], part: str, capsys
) -> None:
    text = method_file(name, edit)
    (plugged / f"{name}.py").write_text(text)
    options = ["--data.modalities", "audio,vision", "--seeds", "1", "--jobs", "1", "--accelerator", "cpu"]
    where = ["run", "--method", name, "--store", str(small_store.path), "--max-epochs", "1"]
    assert main(["--plugin", f"{name}.py", *where, *options]) == 1
    said = capsys.readouterr().out
    assert f"{name}.py:{line_with(text, part)}: `" in said
    assert "takes the modality 'text', and" in said
    assert "has audio, vision" in said
    assert "needs=Needs(modalities=('text',))" in said
    assert not list(plugged.rglob("*.json"))


def test_the_others_go_on_and_other_errors_are_recorded_with_the_line(
    plugged: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    text = method_file("wrong_sizes", ("self.config.width, self.task", "7, self.task"))
    (plugged / "wrong_sizes.py").write_text(text)
    (plugged / "too_wide_too.py").write_text(method_file("too_wide_too", ("self.task.outputs)", "3)")))
    files = ["--plugin", "too_wide_too.py"]
    options = [*files, "run", "--method", "too_wide_too", "wrong_sizes", "lf_dnn", "--store", str(small_store.path)]
    short = ["--max-epochs", "1", "--seeds", "1", "--jobs", "1", "--accelerator", "cpu"]
    assert main(["--plugin", "wrong_sizes.py", *options, *short]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "(32x64 and 7x1) (wrong_sizes.py:" in said
    assert f"wrong_sizes.py:{line_with(text, 'return Output')}: `{RETURN}`" in said
    assert [path.parent.name for path in sorted(plugged.rglob("records/**/*.json"))] == ["lf_dnn", "wrong_sizes"]


def test_the_check_changes_no_number(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a method that draws: the training with it is the training without it, and the method is left as it was."""
    (trial,) = plan("late_fusion", epochs=2)
    with_check = run_trial(trial, options.records, options.runs, accelerator="cpu")
    monkeypatch.setattr("mmbench.runner.trial.watched", lambda model: nullcontext())
    without = run_trial(trial, options.records, options.runs, accelerator="cpu")
    assert with_check.curve == without.curve
    assert with_check.test == without.test


def test_a_watched_method_is_left_as_it_was(plan: Planner) -> None:
    (trial,) = plan("lf_dnn")
    model = method("lf_dnn")(trial.datamodule(8).spec)
    with watched(model):
        assert {"forward", "objective"} <= set(vars(model))
    assert not {"forward", "objective"} & set(vars(model))


def test_settings_that_may_be_read_by_any_name_are_not_refused(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bimha = method("bimha")
    file = plugged / "reads.py"
    file.write_text("x = config.width\n")
    assert "text_hidden" in unread(bimha, [file])
    assert "width" not in unread(bimha, [file])
    file.write_text("x = getattr(config, f'pair_{name}')\n")
    assert unread(bimha, [file]) == {}
    file.write_text("x = config.to_dict()\n")
    assert unread(bimha, [file]) == {}


@pytest.mark.parametrize(("key", "switch", "value"), [("bimha", "pair_op", "lowrank"), ("mib", "fusion", "low_rank")])
def test_an_idle_rank_is_refused(key: str, switch: str, value: str) -> None:
    config = method(key).Config
    with pytest.raises(ConfigError, match=rf"'rank' has no effect unless {switch} is '{value}' \(it is '\w+'\)"):
        config.parse({"rank": 7})
    assert config.parse({"rank": 7, switch: value}).rank == 7
    assert config.parse({"rank": config.rank}) == config()


def test_settings_are_found_however_they_are_written(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = method_file("spaced", (SETTING, SETTING.replace("width:", "width :"))).replace("self.config.width", "64")
    (plugged / "spaced.py").write_text(text)
    with extended([str(plugged / "spaced.py")]):
        found = unread(method("spaced"), [plugged / "spaced.py"])
        assert list(found) == ["width"]
        assert f"spaced.py:{line_with(text, 'width :')}: `" in found["width"]
        (plugged / "reads.py").write_text("pair = (config, 'width')\nx = getattr(*pair)\n")
        assert unread(method("spaced"), [plugged / "reads.py"]) == {}


def test_cards_are_checked() -> None:
    with pytest.raises(ConfigError, match="needs a title, authors and the year"):
        MethodCard(title="", authors="A", year=2026, fidelity="own")
    with pytest.raises(ConfigError, match="needs a title, authors and the year"):
        MethodCard(title="T", authors="A", year=True, fidelity="own")
    for name, value in (("title", 3), ("authors", ["A"]), ("venue", None), ("arxiv", 2401.1), ("code", True)):
        card: dict[str, Any] = {"title": "T", "authors": "A", "year": 2026, "fidelity": "own", name: value}
        with pytest.raises(ConfigError, match=f"The {name} of a card is a text, and here it is "):
            MethodCard(**card)
