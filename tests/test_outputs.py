"""Where commands write: never over what the user has, nor beside a mistyped name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pandas as pd
import pytest

from data_modules.files import WriteError
from mmbench.cli import main
from mmbench.methods import ConfigError
from mmbench.report import build
from mmbench.runner.predict import check_table, write_table
from mmbench.runner.records import Records

TABLE = pd.DataFrame({"sentiment": [0.5, 1.0]}, index=pd.Index(["a", "b"], name="id"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMBENCH_LEADERBOARD", raising=False)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("what", ["store", "checkpoint"])
def test_predictions_never_replace_what_they_are_made_from(
    here: Path, capsys: pytest.CaptureFixture[str], what: str, how: str
) -> None:
    (here / "store").write_bytes(b"features")
    (here / "checkpoint").write_bytes(b"weights")
    out = here / "out.csv"
    if how == "symbolic link":
        out.symlink_to(here / what)
    elif how == "hard link":
        out.hardlink_to(here / what)
    else:
        out = here / what
    before = contents(here)
    command = ["predict", "--checkpoint", "checkpoint", "--data", "store", "--out", str(out)]
    assert main(command) == 2
    assert f"is the {what} itself. Give another path" in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("content", [b"", b"notes of mine", b"\xff\xfe", b"name,id\n", b'"', b"id" * 99_999])
def test_a_file_that_is_no_table_of_predictions_stays(here: Path, content: bytes) -> None:
    (here / "mine.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.csv exists and is no table of predictions\. Remove it or"):
        check_table(here / "mine.csv", here / "checkpoint", here / "store")
    assert (here / "mine.csv").read_bytes() == content


def test_places_of_no_table(here: Path) -> None:
    for out, message in (
        (here, "is a folder"),
        (here / "mistyped" / "said.csv", "There is no folder .*mistyped for the table"),
        (Path(os.devnull), "is no table of predictions"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_table(out, here / "checkpoint", here / "store")
    with pytest.raises(WriteError, match=r"too long\. Choose a shorter name"):
        check_table(here / ("n" * 300), here / "checkpoint", here / "store")
    (here / "dangling.csv").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is no table of predictions"):
        check_table(here / "dangling.csv", here / "checkpoint", here / "store")
    assert os.listdir(here) == ["dangling.csv"]


def test_only_the_same_predictions_are_replaced(here: Path) -> None:
    out = here / "said.csv"
    for _ in range(2):
        check_table(out, here / "checkpoint", here / "store")
        write_table(TABLE, out)
    write_table(TABLE.assign(transcript="so"), out)
    write_table(TABLE, out)
    assert out.read_text() == "id,sentiment\na,0.5\nb,1.0\n"
    out.write_text("id,text\nclip1,what is said in it\n")  # transcripts of the user
    check_table(out, here / "checkpoint", here / "store")
    with pytest.raises(ConfigError, match=r"has the columns id, text and not those of .* \(id, sentiment\)"):
        write_table(TABLE, out)
    assert out.read_text() == "id,text\nclip1,what is said in it\n"


def test_report_does_not_write_among_other_things(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report --leaderboard .` in a repository replaced its README."""
    (here / "README.md").write_text("# My project\n")
    (here / "results").mkdir()
    (here / "results" / "thesis.tex").write_text("mine")
    before = contents(here)
    for folder, found in ((".", "README.md"), ("results", "thesis.tex")):
        assert main(["report", "--leaderboard", folder]) == 2
        assert f"{folder} holds {found!r}, and no results of `mmbench run`" in capsys.readouterr().err
    (here / "records").mkdir()  # of whatever; a page of somebody else is not replaced for it
    assert main(["report", "--leaderboard", "."]) == 2
    assert contents(here) == before


@pytest.mark.parametrize("command", ["report", "run", "compare"])
def test_a_mistyped_folder_is_not_made(here: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    more = {"compare": ["a", "b"], "run": ["--runs", "runs"]}.get(command, [])
    assert main([command, *more, "--leaderboard", "mistyped/mine"]) == 2
    assert "There is no folder mistyped" in capsys.readouterr().err.replace("there is", "There is")
    (here / "file").touch()
    assert main([command, *more, "--leaderboard", "file"]) == 2
    assert "file, which is no folder" in capsys.readouterr().err
    assert os.listdir(here) == ["file"]


def test_a_folder_that_is_only_read_must_be_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--leaderboard", "nowhere"]) == 2
    assert "There is no folder nowhere" in capsys.readouterr().err
    assert os.listdir(here) == []


@pytest.mark.parametrize("runs", ["mistyped/runs", "file"])
def test_checkpoints_need_a_folder_that_can_be_made(here: Path, capsys: pytest.CaptureFixture[str], runs: str) -> None:
    (here / "file").touch()
    assert main(["run", "--dataset", "synthetic", "--runs", runs]) == 2
    assert f"--runs names {runs}, " in capsys.readouterr().err
    assert os.listdir(here) == ["file"]


def test_empty_folders_and_those_of_earlier_results_are_ones_own(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine" / ".git").mkdir(parents=True)
    for _ in range(2):
        assert main(["report", "--leaderboard", "mine"]) == 0
    assert (here / "mine" / "README.md").read_text().startswith("<!-- Made by `mmbench`")


def test_a_table_in_the_place_of_another_file_is_not_made(here: Path) -> None:
    build(here, Records(here / "records"), None)
    page = (here / "README.md").read_bytes()
    for taken in (lambda path: path.write_text("# Mine\n"), lambda path: path.mkdir()):
        (here / "README.md").unlink()
        taken(here / "README.md")
        with pytest.raises(ConfigError, match=r"README\.md was not made by `mmbench` and would be replaced"):
            build(here, Records(here / "records"), None)
        if (here / "README.md").is_dir():
            (here / "README.md").rmdir()
        else:
            assert (here / "README.md").read_text() == "# Mine\n"
    build(here, Records(here / "records"), None)
    assert (here / "README.md").read_bytes() == page


def test_where_no_tables_can_be_written_report_says_so(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mine").mkdir()

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["report", "--leaderboard", "mine"]) == 1
    err = capsys.readouterr().err
    assert "mine/README.md cannot be written: No space left on device. Free some space there" in err
    assert os.listdir(here / "mine") == []
