"""From a folder of records to a folder of files."""

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmbench.report import build, render
from mmbench.report.leaderboard import MARKER
from mmbench.runner.plan import label
from mmbench.runner.record import Record
from mmbench.runner.records import Records
from tests.report.factory import TRACK, lines_of, record, reproduced, runs, store

NAME = "mosi-glove-standard"


def make(root: Path, out: Path) -> Any:
    return build(out, None, Records(root))


def damage(paths: list[Path], kind: str) -> Path:
    path = paths[-1]
    content = json.loads(path.read_text())
    if kind == "truncated":
        path.write_text(path.read_text()[:50])
    elif kind == "not text":
        path.write_bytes(b"\xff\xfe\x00")
    elif kind == "schema":
        path.write_text(json.dumps({**content, "schema": 99}))
    elif kind == "no seed":
        path.write_text(json.dumps({k: v for k, v in content.items() if k != "seed"}))
    elif kind == "features":
        path.write_text(json.dumps({**content, "features": {"text": {"dim": "wide"}}}))
    elif kind == "NaN":
        path.write_text(json.dumps({**content, "cost": {**content["cost"], "peak_memory_of": float("nan")}}))
    elif kind == "nested":
        path.write_text('{"config": ' + "[" * 100_000 + "]" * 100_000 + "}")
    elif kind == "place":
        return path.rename(path.with_name("0123456789abcdef.json"))
    else:
        path.with_suffix("").with_suffix(".csv.gz").unlink()
    return path


@pytest.mark.parametrize(
    "kind", ["truncated", "not text", "schema", "no seed", "features", "NaN", "nested", "place", "predictions"]
)
def test_a_bad_record_is_named_and_skipped(tmp_path: Path, kind: str) -> None:
    root, out = tmp_path / "records", tmp_path / "out"
    path = damage(store(root, [*runs("a", [0.7, 0.8]), *runs("b", [0.7, 0.8])]), kind)
    report = make(root, out)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{path}: ")
    text = (out / "README.md").read_text()
    assert path.name in text
    assert str(tmp_path) not in text
    rows = lines_of((out / f"{NAME}.md").read_text(), "### Ranking")
    assert [(row["method"], row["n"]) for row in rows] == [("`b`", "1"), ("`a`", "2")]


def test_a_record_that_is_valid_and_breaks_a_table_is_named_and_left_out(tmp_path: Path) -> None:
    huge = record("huge")
    assert huge.selection is not None
    huge = dataclasses.replace(huge, selection=dataclasses.replace(huge.selection, epoch=10**400))
    curious = record("curious", data={"corruption": {"steps": 10**400}}, track="curious/x/y")
    other = runs("a", [0.7], track="x/y/z")
    store(tmp_path / "records", [huge, curious, *runs("a", [0.7]), *other])
    report = make(tmp_path / "records", tmp_path / "out")
    assert [line.partition(" ")[0] for line in report.problems] == [
        f"{found.track}/{found.method}/{found.id}.json" for found in (curious, huge)
    ]
    assert all("OverflowError" in line for line in report.problems)
    assert "breaks its table" in (tmp_path / "out" / "README.md").read_text()
    rows = lines_of((tmp_path / "out" / f"{NAME}.md").read_text(), "### Ranking")
    assert [row["method"] for row in rows] == ["`a`"]
    assert {path.name for path in report.files if path.suffix == ".md"} == {
        "README.md",
        "how-to-read.md",
        f"{NAME}.md",
        "x-y-z.md",
    }
    own = build(tmp_path / "own", Records(tmp_path / "records"), None)
    assert own.problems == report.problems


def test_a_track_that_no_record_alone_breaks_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmbench.report.leaderboard as leaderboard

    inner = leaderboard.page

    def page(boards: Any, *rest: Any) -> list[str]:
        if len(boards[0].rows) > 1:
            raise ZeroDivisionError("two rows")
        return inner(boards, *rest)

    monkeypatch.setattr(leaderboard, "page", page)
    store(tmp_path / "records", [*runs("a", [0.7]), *runs("b", [0.7]), *runs("a", [0.7], track="x/y/z")])
    report = make(tmp_path / "records", tmp_path / "out")
    assert report.problems == (f"{TRACK} has no table (ZeroDivisionError: two rows).",)
    assert [path.name for path in report.files] == ["README.md", "how-to-read.md", "x-y-z.md", "x-y-z.csv"]


NASTY: dict[str, dict[str, Any]] = {
    "huge numbers": {"test": {"mae": 1.7e308, "corr": -1.7e308, "acc7": 5e-324}},
    "empty curve": {"curve": []},
    "no features": {"features": {}, "samples": {"train": 0, "valid": 0, "test": 0}},
    "odd unicode": {"variant": "a\u202e\u200b\x1b[31m\U0001f600", "version": "\u0000"},
    "label": {"variant": "a|b\n| c |\n# d `e`"},
    "metrics": {"test": {"mae": 0.7, "": 1.0, "a|b": None, "x/y/z": 2.0}},
    "family": {"family": "multiclass", "selection": "wa", "mode": "max", "test": {"wa": 0.5}},
    "config": {"config": {"x": [{"y": None}], "": {}}, "data": {"corruption": "all", "limit": {"a": []}}},
    "seed": {"seed": -(10**30), "fold": 3, "folds": 10**18},
    "environment": {"environment": dataclasses.replace(record().environment, processor="", torch="")},
}


@pytest.mark.parametrize("kind", NASTY)
def test_a_strange_but_valid_record_has_a_row_and_costs_the_others_nothing(tmp_path: Path, kind: str) -> None:
    others = [*runs("a", [0.7] * 3), *runs("b", [0.8] * 3)]
    name = label("odd", NASTY[kind].get("variant", ""), {})
    strange = [record("odd", **{"seed": seed, "label": name, **NASTY[kind]}) for seed in (1, 2, 3)]
    read = [Record.from_json(found.to_json()) for found in strange]
    assert read == strange
    store(tmp_path / "records", [*others, *strange])
    report = make(tmp_path / "records", tmp_path / "out")
    assert report.problems == ()
    rows = lines_of((tmp_path / "out" / f"{NAME}.md").read_text(), "### Ranking")
    assert len(rows) == 3
    plain = lines_of(render(others)[f"{NAME}.md"], "### Ranking")
    columns = ("method", "`mae` ↓", "n", "notes")
    assert [[row[name] for name in columns] for row in rows if row["method"] in ("`a`", "`b`")] == [
        [row[name] for name in columns] for row in plain
    ]
    assert not any(letter in text for text in render(strange).values() for letter in "\u202e\x1b\x00")


def test_a_copied_record_counts_once_and_is_named(tmp_path: Path) -> None:
    store(tmp_path / "records", runs("a", [0.7, 0.8]))
    store(tmp_path / "records" / "copy", runs("a", [0.7, 0.8]))
    report = make(tmp_path / "records", tmp_path / "out")
    assert len(report.problems) == 2
    assert all("copy" in problem and "its place would be" in problem for problem in report.problems)


def test_files_of_gone_tracks_are_removed_and_others_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "records"
    gone = store(root, runs("a", [0.7], track="old/x/y"))
    store(root, runs("a", [0.7]))
    make(root, tmp_path)
    assert {path.name for path in tmp_path.glob("old-x-y.*")} == {"old-x-y.csv", "old-x-y.md"}
    own = {tmp_path / "notes.md": "# Mine\n", tmp_path / "own.csv": "track,value\n", tmp_path / "x.txt": MARKER}
    for path, text in own.items():
        path.write_text(text)
    gone[0].unlink()
    report = make(root, tmp_path)
    assert not [*tmp_path.glob("old-x-y.*")]
    assert {path: path.read_text() for path in own} == own
    assert {path.name for path in report.files} == {"README.md", "how-to-read.md", f"{NAME}.md", f"{NAME}.csv"}
    records, _ = Records(root).load()
    assert {path.name: path.read_text() for path in report.files} == render(records)


def test_own_tables_have_the_tracks_of_own_records_with_the_published_rows_merged_in(tmp_path: Path) -> None:
    published, own = Records(tmp_path / "records"), Records(tmp_path / "local" / "records")
    store(published.root, [*runs("a", [0.7] * 3), *runs("a", [0.7], track="other/x/y")])
    store(own.root, [*runs("a", [0.6] * 3), *runs("b", [0.9], track="mine/x/y")])
    build(tmp_path, None, published)
    before = {path.name: path.read_text() for path in tmp_path.glob("*.*")}
    report = build(tmp_path / "local", own, published)
    names = ("README", "how-to-read", "mine-x-y", NAME)
    assert {path.name for path in report.files} == {f"{name}.md" for name in names} | {
        f"{name}.csv" for name in names[2:]
    }
    text = (tmp_path / "local" / f"{NAME}.md").read_text()
    assert [row["method"] for row in lines_of(text, "### Ranking")] == ["`a (yours)`", "`a`"]
    assert f"[../records/{TRACK}](../records/{TRACK}) and [records/{TRACK}](records/{TRACK})" in text
    assert (tmp_path / "local" / f"../records/{TRACK}").is_dir()
    assert "published" not in (tmp_path / "local" / "mine-x-y.md").read_text().splitlines()[4]
    table = (tmp_path / "local" / f"{NAME}.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in table] == ["origin", "own", "published"]
    assert "# Your runs" in (tmp_path / "local" / "README.md").read_text()
    # Nothing of one's own gets into what is published.
    build(tmp_path, None, published)
    assert {path.name: path.read_text() for path in tmp_path.glob("*.*")} == before


def test_own_tables_without_published_records_say_so(tmp_path: Path) -> None:
    own = Records(tmp_path / "local" / "records")
    store(own.root, runs("a", [0.6] * 3))
    for published in (None, Records(tmp_path / "nowhere")):
        report = build(tmp_path / "local", own, published)
        assert report.problems == ()
        assert "There are no published rows to compare them with." in (tmp_path / "local" / "README.md").read_text()


def test_problems_of_both_folders_are_told_by_where_they_lie(tmp_path: Path) -> None:
    published, own = Records(tmp_path / "records"), Records(tmp_path / "local" / "records")
    for root in (own.root, published.root):
        store(root, runs("a", [0.6]))
        (root / TRACK / "bad.json").write_text("{")
    (published.root / "other").mkdir()
    (published.root / "other" / "bad.json").write_text("{")  # nobody asks for the other tracks here
    report = build(tmp_path / "local", own, published)
    assert [line.partition(": ")[0] for line in report.problems] == [
        str(root / TRACK / "bad.json") for root in (own.root, published.root)
    ]
    text = (tmp_path / "local" / "README.md").read_text()
    assert f"- ../records/{TRACK}/bad.json: " in text
    assert f"- records/{TRACK}/bad.json: " in text


def test_tables_depend_on_the_present_code_but_do_not_show_its_hash(tmp_path: Path) -> None:
    records = Records(tmp_path / "records")
    found = runs("a", [0.7] * 3, code="b" * 16)
    store(records.root, [reproduced(found[0], "d" * 16), *found[1:]])
    build(tmp_path, None, records, lambda *_: "d" * 16)
    text = (tmp_path / f"{NAME}.md").read_text() + (tmp_path / f"{NAME}.csv").read_text()
    assert text.count("made by earlier code; reproduced 1 of 3 seeds") == 2
    assert "d" * 16 not in text
    build(tmp_path, None, records, lambda *_: "b" * 16)
    assert lines_of((tmp_path / f"{NAME}.md").read_text(), "### Ranking")[0]["notes"] == ""


def test_records_are_read_by_the_given_loader_while_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmbench.report.leaderboard as leaderboard

    held: list[Path] = []

    @contextmanager
    def turn(folder: Path) -> Iterator[None]:
        held.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        yield
        assert (folder / "README.md").is_file()
        held.clear()

    monkeypatch.setattr(leaderboard, "turn", turn)
    records = Records(tmp_path / "records")
    store(records.root, [*runs("a", [0.7]), *runs("b", [0.7])])

    def load(found: Records) -> tuple[list[Record], list[str]]:
        assert held == [tmp_path]
        good, problems = found.load()
        return [item for item in good if item.method == "a"], [*problems, f"{found.root}/b: not believed"]

    report = build(tmp_path, None, records, load=load)
    assert report.problems == (f"{records.root}/b: not believed",)
    assert "- records/b: not believed" in (tmp_path / "README.md").read_text()
    assert [row["method"] for row in lines_of((tmp_path / f"{NAME}.md").read_text(), "### Ranking")] == ["`a`"]


def _build_slowly(root: Path, out: Path, started: object) -> None:
    import mmbench.report.leaderboard as leaderboard

    inner = leaderboard.render

    def slow(*arguments: Any) -> dict[str, str]:
        started.set()  # type: ignore[attr-defined]
        time.sleep(1)
        return inner(*arguments)

    leaderboard.render = slow
    make(root, out)


def test_the_later_command_wins(tmp_path: Path) -> None:
    root = tmp_path / "records"
    store(root, runs("a", [0.7]))
    context = multiprocessing.get_context("fork")
    started = context.Event()
    slow = context.Process(target=_build_slowly, args=(root, tmp_path, started))
    slow.start()
    assert started.wait(20)
    store(root, runs("b", [0.6]))
    make(root, tmp_path)
    slow.join()
    assert slow.exitcode == 0
    assert "`b`" in (tmp_path / f"{NAME}.md").read_text()
