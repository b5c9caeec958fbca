"""``mmbench show``: what is known of a method, a data set and a trial is all there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

import data_modules
from data_modules import FeatureStore
from mmbench.cli import main
from mmbench.cli.common import console
from mmbench.methods import MethodConfig, methods, setting
from mmbench.report.rows import UNKNOWN_HERE
from mmbench.runner.facts import Failure
from mmbench.runner.records import Records, read_record
from mmbench.show import find_records, settings, show_trial
from mmbench.show.trial import curve
from tests.report.factory import record as made

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def repository(small_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with published and own results of a method."""
    folder = tmp_path_factory.mktemp("repository")
    command = ["run", "--store", str(small_store.path), "--jobs", "1", "--accelerator", "cpu", "--max-epochs", "2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MMBENCH_LEADERBOARD", raising=False)
        for own in ("leaderboard", "leaderboard/local"):
            given = [] if own.endswith("local") else ["--leaderboard", own]
            assert main([*command, *given, "--method", "lf_dnn", "--method.lr", "0.005", "--seeds", "1", "2"]) == 0
    return folder


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(repository, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MMBENCH_LEADERBOARD", raising=False)
    monkeypatch.setattr(console, "_width", 80)
    return tmp_path / "here"


def shown(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["show", name]) == 0
    return capsys.readouterr().out


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("key", list(methods()))
def test_all_that_is_said_of_a_method_is_shown(key: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranges are spelled anew here, from what was declared."""
    card = methods()[key].card
    text = flat(shown(key, capsys))
    sentences = (*card.deviations, *card.findings)
    for said in (card.title, card.authors, card.fidelity, *sentences, card.arxiv or "", card.code or ""):
        assert flat(said) in text
    for result in card.published:
        assert result.track in text
        assert f"{result.metric} {result.value:g}" in text
        assert flat(result.source) in text
    for item in dataclasses.fields(methods()[key].Config):
        rule, typed = item.metadata, str(item.default)
        if isinstance(item.default, tuple):
            typed = typed.replace("(", "[").replace(",)", "]").replace(")", "]")
        default = typed or "''"
        assert getattr(methods()[key].Config.parse({item.name: typed}), item.name) == item.default
        words = f"{item.name} {default} {flat(rule['text'])}"
        if rule["choices"]:
            words += f"; one of: {', '.join(str(choice) or chr(39) * 2 for choice in rule['choices'])}"
        elif rule["low"] is not None and rule["high"] is not None:
            words += f"; from {rule['low']:g} to {rule['high']:g}"
        elif rule["low"] is not None:
            words += f"; at least {rule['low']:g}"
        elif rule["high"] is not None:
            words += f"; at most {rule['high']:g}"
        assert words in text


def test_settings_without_a_word_and_with_any_range() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config(MethodConfig):
        bare: int = 3
        below: float = setting(0.5, "a part", high=2.0)

    rows = {name: (default, text) for name, default, text in settings(Config)}
    assert rows["bare"] == ("3", "")
    assert rows["below"] == ("0.5", "a part; at most 2")


def test_settings_of_methods_by_the_option_of_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--method", "mmim", "tfn", "--method.help"]) == 0
    out = capsys.readouterr().out
    assert "Settings of mmim" in out
    assert "Settings of tfn" in out
    assert "weight of the contrastive loss; at least 0" in out
    assert main(["run", "--method.help"]) == 2
    assert "add --method NAME" in capsys.readouterr().err


def test_published_and_own_rows_of_a_method(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = flat(shown("lf_dnn", capsys))
    records, _ = Records(here / "leaderboard/local/records").load()
    mean = sum(record.value for record in records) / 2
    row = f"lf_dnn [lr=0.005, max_epochs=2]: mae {mean:.4f} ±"
    assert row in text
    assert row.replace("]:", "] (yours):") in text
    assert "synthetic/regression/standard@" in text
    assert "(yours)" not in flat(shown("constant", capsys))


def test_a_data_set_with_its_store_and_without(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, module in data_modules.datasets().items():
        text, card = shown(key, capsys), module.card
        assert card.command in text.splitlines()[text.splitlines().index("How to bring it") + 1]
        for said in (card.content, card.features, card.splits, card.defects, card.licence, card.citation):
            assert flat(said) in flat(text)
        assert f"none at data/{key}.h5" in text
    assert " mmim," in flat(shown("mosi", capsys)).partition("Methods that fit")[2]
    assert " mmim," not in flat(shown("synthetic_clips", capsys)).partition("Methods that fit")[2]
    (here / "data").mkdir()
    shutil.copy(small_store.path, here / "data/synthetic.h5")
    shutil.copy(small_store.path, here / "data/mine.h5")
    for name in ("synthetic", "mine"):
        text = shown(name, capsys)
        assert "synthetic/regression/standard" in text
        assert small_store.identity[:40] in text
        assert " mmim," in flat(text)
    (here / "data/mosi.h5").write_bytes(b"nothing")
    assert "data/mosi.h5" in shown("mosi", capsys)


def test_a_trial_by_the_first_letters_of_its_id(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, *_ = Records(here / "leaderboard/local/records").paths()
    record = read_record(path)
    text = shown(record.id[:8], capsys)
    mine, theirs = text.index("completed, yours"), text.index("completed, published")
    assert theirs < mine  # one trial, two records
    assert "lr 0.005 changed by the command" in flat(text)
    assert f"mae {record.value:.4f}" in flat(text)
    assert str(path.relative_to(here)) in text
    assert f"runs/{record.id}/epoch={record.selection.epoch}.ckpt" in text
    for row in record.curve:
        assert f"{row['valid/mae']:.4f}" in text
    assert "the present code" in text
    assert max(map(len, text.partition("Files")[0].splitlines())) <= 80
    assert curve(record)[1 + record.selection.epoch][0] == f"{record.selection.epoch}*"


def test_which_code_made_a_trial() -> None:
    def said(code: str, present: str) -> str:
        (head, *_) = show_trial("yours", Path("x.json"), made(code=code), Path("runs"), present)
        return dict(head.rows)["code"]

    assert said("a" * 16, "a" * 16) == f"{'a' * 16}, the present code"
    assert said("a" * 16, "b" * 16) == f"{'a' * 16}, other code than the present one"
    assert said("", "b" * 16) == "unknown"
    assert said("a" * 16, "").endswith(UNKNOWN_HERE)


def test_a_failed_trial_with_its_trace(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, *_ = Records(here / "leaderboard/local/records").paths()
    record = read_record(path)
    failed = dataclasses.replace(
        record,
        status="failed",
        error=Failure("ValueError", "wrong [width]", ('  File "mine.py", line 3', "ValueError: wrong [width]")),
        test={},
        curve=[],
        selection=None,
        predictions="",
    )
    shutil.rmtree(here / "leaderboard/records")
    Records(here / "leaderboard/local/records").write(failed)
    lines = shown(record.id, capsys).splitlines()
    assert "  ValueError  wrong [width]" in lines
    assert '    File "mine.py", line 3' in lines
    assert "  ValueError: wrong [width]" in lines
    assert "Curve" not in lines


def test_names_that_are_none_and_ids_that_are_several(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, message in (("mmin", "Did you mean 'mmim'?"), ("mossi", "Did you mean 'mosi'?"), ("abc", "four or more")):
        assert main(["show", name]) == 2
        assert message in flat(capsys.readouterr().err)
    for name in ("../data/x", "0000000000000000", "*", "????"):
        assert main(["show", name]) == 2
        assert "There is no method or data set" in flat(capsys.readouterr().err)
    root = here / "leaderboard/local/records"
    for path in Records(root).paths():
        shutil.copy(path, path.with_name(f"abcd{path.name[4:]}"))
    assert main(["show", "abcd"]) == 2
    assert "2 trials begin with abcd: give more of the id" in flat(capsys.readouterr().err)
    (one, *_) = root.glob("**/abcd*.json")
    assert main(["show", one.stem]) == 2
    assert "`mmbench verify` names its file" in flat(capsys.readouterr().err)
    assert find_records(one.stem[:3], {"yours": root}) == []
