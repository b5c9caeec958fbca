"""One's own results beside the published ones, as a user sees them: run, report, compare, publish, reproduce."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from data_modules import Batch, FeatureStore
from mmbench.cli import main
from mmbench.methods import FusionMethod, Output, method
from mmbench.runner.records import Records

SEEDS = ("1", "2", "3")
TRACK = "synthetic-regression-standard"


def run(store: FeatureStore, *arguments: str, seeds: tuple[str, ...] = SEEDS) -> int:
    command = ["run", "--store", str(store.path), "--jobs", "1", "--accelerator", "cpu"]
    return main([*command, "--seeds", *seeds, *arguments])


@pytest.fixture(scope="module")
def repository(small_store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with published results of two methods, as `publish` makes it."""
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        suite = folder / "benchmarks/suites/default.yaml"
        suite.parent.mkdir(parents=True)
        suite.write_text("training: {max_epochs: 2, patience: 2}\n")
        (folder / "leaderboard/records").mkdir(parents=True)
        assert run(small_store, "--method", "lf_dnn", "constant") == 0
        assert main(["publish"]) == 0
        for own in ("leaderboard/local", "runs"):
            shutil.rmtree(folder / own)
    return folder


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(repository, tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    monkeypatch.delenv("MMBENCH_LEADERBOARD", raising=False)
    return tmp_path / "repository"


def edit_code(patch: pytest.MonkeyPatch) -> None:
    """Let the present code be another than that of all records."""
    for module in ("plan", "again", "work", "code"):  # the others take it from the last one
        patch.setattr(f"mmbench.runner.{module}.code_hash", lambda *_: "f" * 16)


FORWARD = method("lf_dnn").forward


def far_off(self: FusionMethod, batch: Batch) -> Output:
    """What another program would predict."""
    output = FORWARD(self, batch)
    output.prediction = output.prediction + 5
    return output


def published(folder: Path) -> dict[str, bytes]:
    """Return every file that is published."""
    files = [path for path in folder.glob("leaderboard/**/*") if path.is_file() and "local" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_publish_makes_records_and_tables_that_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(Records(here / "leaderboard/records").load()[0]) == 6
    assert "`lf_dnn`" in (here / "leaderboard" / f"{TRACK}.md").read_text()
    assert main(["verify"]) == 0
    assert "6 records hold, 0 do not." in capsys.readouterr().out


def test_a_run_is_trained_here_and_compared_and_what_is_published_stays(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = published(here)
    assert run(small_store, "--method", "lf_dnn") == 0
    out = capsys.readouterr().out
    assert "(kept)" not in out
    assert out.count(" equal\n") == 3
    assert published(here) == before
    checkpoints = [line.strip() for line in out.splitlines() if line.strip().endswith(".ckpt")]
    assert len(checkpoints) == 3
    assert all((here / path).is_file() for path in checkpoints)
    assert "lf_dnn (yours)" in out
    own = (here / "leaderboard/local" / f"{TRACK}.md").read_text()
    assert "`lf_dnn (yours)`" in own
    assert "`constant`" in own
    assert main(["predict", "--checkpoint", checkpoints[0], "--data", str(small_store.path)]) == 0
    capsys.readouterr()
    assert run(small_store, "--method", "lf_dnn") == 0
    assert capsys.readouterr().out.count("(kept)") == 3


def test_fresh_trains_again(here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small_store, "--method", "constant") == 0
    assert run(small_store, "--method", "constant", "--fresh") == 0
    assert "(kept)" not in capsys.readouterr().out


def test_changed_code_trains_again_and_is_told_from_what_is_published(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(small_store, "--method", "lf_dnn") == 0
    edit_code(monkeypatch)
    monkeypatch.setattr(method("lf_dnn"), "forward", far_off)
    capsys.readouterr()
    assert run(small_store, "--method", "lf_dnn") == 0
    out = capsys.readouterr().out
    assert "(kept)" not in out
    assert out.count(" differs\n") == 3
    assert "lf_dnn: made by earlier code" in out


def test_the_published_folder_is_nobodys_own(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("leaderboard", "leaderboard/records", str(here / "leaderboard" / "more")):
        assert run(small_store, "--method", "constant", "--leaderboard", folder) == 2
        assert "only `mmbench publish` changes" in capsys.readouterr().err


def test_another_folder_holds_everything_of_ones_own(
    here: Path, small_store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MMBENCH_LEADERBOARD", str(tmp_path / "mine"))
    assert run(small_store, "--method", "constant", seeds=("1",)) == 0
    assert len(Records(tmp_path / "mine/records").paths()) == 1
    assert (tmp_path / "mine" / f"{TRACK}.csv").is_file()
    assert run(small_store, "--method", "constant", "--leaderboard", str(tmp_path / "other"), seeds=("1",)) == 0
    assert len(Records(tmp_path / "other/records").paths()) == 1
    assert not (here / "leaderboard/local").exists()


def test_without_published_records_the_summary_says_so(
    tmp_path: Path, small_store: FeatureStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(small_store, "--method", "constant", seeds=("1",)) == 0
    assert "no published records here" in " ".join(capsys.readouterr().out.split())


def test_tables_on_demand(here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(small_store, "--method", "lf_dnn", seeds=("7",)) == 0
    capsys.readouterr()
    assert main(["report", "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert set(table["method"]) == {"lf_dnn", "lf_dnn (yours)", "constant"}
    assert main(["report", "--mine", "--format", "csv"]) == 0
    assert list(pd.read_csv(io.StringIO(capsys.readouterr().out))["method"]) == ["lf_dnn (yours)"]
    assert main(["report", "--method", "constant", "--format", "latex"]) == 0
    assert r"\begin{tabular}" in capsys.readouterr().out
    assert main(["report", "--sort", "acc7"]) == 0
    assert "## synthetic/regression/standard" in capsys.readouterr().out
    assert main(["report", "--sort", "acc77"]) == 2
    assert "Did you mean 'acc7'" in capsys.readouterr().err
    assert main(["compare", "lf_dnn (yours)", "constant"]) == 0
    assert "mae ↓" in capsys.readouterr().out
    assert main(["compare", "lf_dnn", "tfn"]) == 2
    assert main(["report", "--dataset", "mosi"]) == 2
    assert "there are some of: synthetic/regression/standard" in capsys.readouterr().err


def test_tables_on_demand_of_several_tracks(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only boards that have what is asked for are printed, and a form that holds one table wants one chosen."""
    assert main(["report", "--mine"]) == 2
    assert "you have no rows there" in capsys.readouterr().err
    assert run(small_store, "--method", "lf_dnn", "--limit", "16", seeds=("1",)) == 0
    capsys.readouterr()
    assert main(["report", "--mine", "--format", "csv"]) == 0
    assert len(pd.read_csv(io.StringIO(capsys.readouterr().out))) == 1
    assert main(["report", "--format", "csv"]) == 2
    names = capsys.readouterr().err.strip().split("among: ")[1].removesuffix(".").split(", ")
    assert [name.partition("@")[0] for name in names] == [
        "synthetic/regression/standard",
        "synthetic/regression/standard+limit16",
    ]
    for name in names:
        assert main(["report", "--format", "csv", "--dataset", name]) == 0
    assert main(["publish", "--dataset", "mosi"]) == 2
    assert "None of your 1 records is that" in capsys.readouterr().err


def test_report_makes_ones_own_tables_and_leaves_out_what_does_not_hold(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    before = published(here)
    assert main(["report"]) == 0
    assert "You have no records yet" in capsys.readouterr().out
    assert run(small_store, "--method", "lf_dnn", seeds=("7", "8")) == 0
    path = Records(here / "leaderboard/local/records").paths()[0]
    content = json.loads(path.read_text())
    content["test"]["mae"] = 0.001
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["report"]) == 0
    assert path.name in capsys.readouterr().out
    assert path.name in (here / "leaderboard/local/README.md").read_text()
    assert "0.0010" not in (here / "leaderboard/local" / f"{TRACK}.md").read_text()
    assert published(here) == before


def test_publish_adds_what_is_new_and_refuses_what_differs(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small_store, "--method", "lf_dnn", seeds=("1", "9")) == 0
    own = Records(here / "leaderboard/local/records")
    capsys.readouterr()
    assert main(["publish"]) == 0
    out = capsys.readouterr().out
    assert "lf_dnn seed 1: there already" in out
    assert "lf_dnn seed 9: added" in out
    assert main(["verify"]) == 0
    theirs = Records(here / "leaderboard/records")
    kept = {record.seed: record for record in theirs.load()[0] if record.method == "lf_dnn"}
    assert sorted(kept) == [1, 2, 3, 9]
    # Another result of a published trial: the predictions of another seed under its name.
    first = next(record for record in own.load()[0] if record.seed == 1)
    other = kept[2]
    shutil.copyfile(theirs.path(other).with_suffix(".csv.gz"), own.path(first).with_suffix(".csv.gz"))
    content = {**first.to_dict(), "test": dict(other.test), "predictions": other.predictions}
    own.write(type(first).from_dict(content))
    before = published(here)
    capsys.readouterr()
    assert main(["publish", "--seeds", "1"]) == 1
    assert "lf_dnn seed 1: refused" in capsys.readouterr().out
    assert published(here) == before
    assert main(["publish", "--seeds", "1", "--replace"]) == 0
    assert published(here) != before
    assert main(["verify"]) == 0


def test_publish_does_not_make_good_what_somebody_edited(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note of a reproduction would give the edited record a digest that fits."""
    theirs = Records(here / "leaderboard/records")
    path = next(theirs.path(record) for record in theirs.load()[0] if (record.method, record.seed) == ("lf_dnn", 1))
    path.write_text(path.read_text().replace('"parameters": ', '"parameters": 9'))
    edit_code(monkeypatch)
    assert run(small_store, "--method", "lf_dnn", seeds=("1",)) == 0
    before = path.read_bytes()
    capsys.readouterr()
    assert main(["publish"]) == 1
    assert "refused (the published record does not hold: it was changed after it was written" in capsys.readouterr().out
    assert path.read_bytes() == before
    assert main(["verify"]) == 1
    assert main(["publish", "--replace"]) == 0
    assert main(["verify"]) == 0


def test_publish_does_not_take_what_does_not_hold(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small_store, "--method", "lf_dnn", seeds=("9",)) == 0
    (path,) = Records(here / "leaderboard/local/records").paths()
    path.write_text(path.read_text().replace('"seed": 9', '"seed": 10'))
    before = published(here)
    assert main(["publish"]) == 1
    assert path.name in capsys.readouterr().out
    assert published(here) == before


def test_reproduce_says_which_word_holds_and_publish_notes_it(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["reproduce", "--store", str(small_store.path), "--jobs", "1", "--accelerator", "cpu"]
    before = published(here)
    edit_code(monkeypatch)
    assert run(small_store, "--method", "lf_dnn", seeds=("1", "2")) == 0
    capsys.readouterr()
    assert main([*command, "--method", "lf_dnn", "--seeds", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "(kept)" not in out, "it trains again what is done here, too"
    assert "2 of 2 trials: equal" in out
    assert published(here) == before
    assert main(["publish"]) == 0
    assert capsys.readouterr().out.count(": reproduced (equal, largest difference 0)") == 2
    assert "reproduced 2 of 3 seeds" in (here / "leaderboard" / f"{TRACK}.md").read_text()
    assert main(["verify"]) == 0
    notes = [record.reproduced for record in Records(here / "leaderboard/records").load()[0] if record.reproduced]
    assert [(note.code, note.word, note.difference) for note in notes] == [("f" * 16, "equal", 0.0)] * 2


def test_reproduce_ends_with_1_where_a_result_differs(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["reproduce", "--store", str(small_store.path), "--jobs", "1", "--accelerator", "cpu"]
    monkeypatch.setattr(method("lf_dnn"), "forward", far_off)
    assert main([*command, "--method", "lf_dnn", "--seeds", "1"]) == 1
    assert "1 of 1 trials: differs" in capsys.readouterr().out
    assert main([*command, "--method", "tfn"]) == 2


def test_reproduce_needs_the_same_data(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data_modules.datasets.synthetic.generator import write_synthetic

    other = write_synthetic(tmp_path / "other.h5", samples=(64, 24, 24), seed=5)
    assert main(["reproduce", "--store", str(other.path), "--method", "constant"]) == 1
    assert "holds other data" in capsys.readouterr().out


def test_where_nothing_can_be_written_a_run_says_so_and_leaves_nothing(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a clone on a disk that is mounted to be read only."""
    make = os.mkdir

    def refused(path: str | Path, *arguments: int, **settings: int) -> None:
        if "local" in Path(path).parts:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        make(path, *arguments, **settings)

    monkeypatch.setattr(os, "mkdir", refused)
    before = published(here)
    assert run(small_store, "--method", "constant") == 1
    out = capsys.readouterr().out
    assert "Read-only file system. Choose a folder that you may write to" in out
    assert "The tables of leaderboard/local were not made" in out
    assert "2 trials were not run" in out
    assert published(here) == before
    monkeypatch.setattr(os, "mkdir", make)
    assert run(small_store, "--method", "constant") == 0
