"""From a folder of records to a folder of files."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest

from mmbench.report import build, render
from mmbench.report.leaderboard import MARKER
from mmbench.runner.records import RecordDict
from tests.report.factory import lines_of, runs, store

NAME = "mosi-glove-standard"


def damage(paths: list[Path], kind: str) -> Path:
    path = paths[-1]
    if kind == "truncated":
        path.write_text(path.read_text()[:50])
    elif kind == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    elif kind == "schema":
        path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    elif kind == "no seed":
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "seed"}))
    elif kind == "place":
        return path.rename(path.with_name("0123456789abcdef.json"))
    else:
        path.with_suffix("").with_suffix(".csv.gz").unlink()
    return path


@pytest.mark.parametrize("kind", ["truncated", "not text", "schema", "no seed", "place", "predictions"])
def test_a_bad_record_is_named_and_skipped(tmp_path: Path, kind: str) -> None:
    root, out = tmp_path / "records", tmp_path / "out"
    path = damage(store(root, [*runs("a", [0.7, 0.8]), *runs("b", [0.7, 0.8])]), kind)
    report = build(root, out)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{path}: ")
    text = (out / "README.md").read_text()
    assert path.name in text
    assert str(tmp_path) not in text
    rows = lines_of((out / f"{NAME}.md").read_text(), "### Ranking")
    assert [(row["method"], row["trials"]) for row in rows] == [("`a`", "2/2"), ("`b`", "1/2")]


def test_a_copied_record_counts_once_and_is_named(tmp_path: Path) -> None:
    store(tmp_path / "records", runs("a", [0.7, 0.8]))
    store(tmp_path / "records" / "copy", runs("a", [0.7, 0.8]))
    report = build(tmp_path / "records", tmp_path / "out")
    assert len(report.problems) == 2
    assert all("lies in 2 places" in problem for problem in report.problems)


def test_files_of_gone_tracks_are_removed_and_others_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "records"
    gone = store(root, runs("a", [0.7], track="old/x/y"))
    store(root, runs("a", [0.7]))
    build(root, tmp_path)
    own = {tmp_path / "notes.md": "# Mine\n", tmp_path / "own.csv": "track,value\n", tmp_path / "x.txt": MARKER}
    for path, text in own.items():
        path.write_text(text)
    gone[0].unlink()
    report = build(root, tmp_path)
    assert [path.name for path in report.removed] == ["old-x-y.csv", "old-x-y.md"]
    assert not (tmp_path / "old-x-y.md").exists()
    assert {path: path.read_text() for path in own} == own
    assert {path.name for path in report.files} == {"README.md", f"{NAME}.md", f"{NAME}.csv"}
    assert all(path.read_text() == text for path, text in _expected(tmp_path, root).items())


def _expected(out: Path, root: Path) -> dict[Path, str]:
    records = [json.loads(path.read_text()) for path in root.glob("**/*.json")]
    return {out / name: text for name, text in render(records).items()}


def _build_slowly(root: Path, out: Path, started: object) -> None:
    import mmbench.report.leaderboard as leaderboard

    inner = leaderboard.render

    def slow(records: list[RecordDict], problems: list[str]) -> dict[str, str]:
        started.set()  # type: ignore[attr-defined]
        time.sleep(1)
        return inner(records, problems)

    leaderboard.render = slow  # type: ignore[assignment]
    build(root, out)


def test_the_later_command_wins(tmp_path: Path) -> None:
    root = tmp_path / "records"
    store(root, runs("a", [0.7]))
    context = multiprocessing.get_context("fork")
    started = context.Event()
    slow = context.Process(target=_build_slowly, args=(root, tmp_path, started))
    slow.start()
    assert started.wait(20)
    store(root, runs("b", [0.6]))
    build(root, tmp_path)
    slow.join()
    assert slow.exitcode == 0
    assert "`b`" in (tmp_path / f"{NAME}.md").read_text()
