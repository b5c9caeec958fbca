"""Labelled segments from sequences and tables, and the standard folds by their published counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.importers.csd_files import CsdFile
from data_modules.importers.csd_folds import Segment, segments_in, segments_of, standard_folds
from data_modules.schema import DataError
from tests.data_modules.importers.csd_layouts import write_csd

HEAD = "vid\tstart\tstop\tlabel\tcid\ttext\n"


def table(path: Path, rows: str, head: str = HEAD) -> Path:
    path.write_text(head + rows, encoding="utf-8")
    return path


def test_rows_of_a_sequence_are_numbered_from_nought(tmp_path: Path) -> None:
    labels = (np.array([[-1.5], [3.0]]), np.array([[4.0, 6.0], [1.0, 4.0]]))
    path = write_csd(tmp_path / "a.csd", "Opinion Segment Labels", {"_dI--eQ6qVU": labels})
    found, broken = segments_of(CsdFile(path))
    assert found == [
        Segment("_dI--eQ6qVU[1]", "_dI--eQ6qVU", 1.0, 4.0, (3.0,)),
        Segment("_dI--eQ6qVU[0]", "_dI--eQ6qVU", 4.0, 6.0, (-1.5,)),
    ]
    assert broken == {}


@pytest.mark.parametrize("columns", [2, 74])
def test_labels_have_one_or_seven_columns(tmp_path: Path, columns: int) -> None:
    path = write_csd(tmp_path / "a.csd", "r", {"v": (np.ones((1, columns)), np.array([[0.0, 1.0]]))})
    with pytest.raises(DataError, match=f"has {columns} columns; labels have one .* or 7"):
        segments_of(CsdFile(path))


def test_cells_are_strings(tmp_path: Path) -> None:
    """Names that are numbers, texts that are "null", quotes and tabs within them."""
    rows = '81406\t1\t2.5\t0.3333\t1\tnull\n-6rXp3zJ3kc\t0\t1\t-3\t9\t"He said ""no"" twice"\n'
    assert segments_in(table(tmp_path / "a.tsv", rows)) == [
        Segment("-6rXp3zJ3kc[9]", "-6rXp3zJ3kc", 0.0, 1.0, (-3.0,), None, 'He said "no" twice'),
        Segment("81406[1]", "81406", 1.0, 2.5, (0.3333,), None, "null"),
    ]


def test_segments_are_in_the_order_of_time(tmp_path: Path) -> None:
    rows = "".join(f"{video}\t{start}\t9\t0\t{clip}\t\n" for video, start, clip in
                   (("w", 1, 1), ("v", 5, 1), ("v", 3, 10), ("v", 0.5, 2)))  # fmt: skip
    found = segments_in(table(tmp_path / "a.tsv", rows))
    assert [segment.id for segment in found] == ["v[2]", "v[10]", "v[1]", "w[1]"]


def test_other_names_of_columns_and_parts(tmp_path: Path) -> None:
    head = "video_id,clip_id,start,end,sentiment,mode,happy,sad,anger,surprise,disgust,fear\n"
    path = table(tmp_path / "a.csv", "v,1,0,1,2,Dev,1,0,0,0.5,0,3\n", head)
    assert segments_in(path) == [Segment("v[1]", "v", 0.0, 1.0, (2.0, 1.0, 0.0, 0.0, 0.5, 0.0, 3.0), "valid")]


def test_a_folder_of_three_parts(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        table(tmp_path / f"{name}.tsv", f"{name}1\t0\t1\t0\t1\t\n")
    (tmp_path / "notes.tsv").write_text("not a part")
    found = segments_in(tmp_path)
    assert [(segment.video, segment.part) for segment in found] == [
        ("dev1", "valid"),
        ("test1", "test"),
        ("train1", "train"),
    ]
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(DataError, match="tables for train, test; train, valid"):
        segments_in(tmp_path)


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ("v\t0\t1\tgood\t1\ta\n", HEAD, "line 2, column label: 'good' is no number"),
        ("v\t0\t1\t1\t1\ta\nv\t0\t\t1\t1\ta\n", HEAD, "line 3, column stop: '' is no number"),
        ("v\t1\n", "vid\tlabel\n", "no column cid, start, stop; it has: vid, label"),
        ("v\t0\t1\t1\t1\tother\n", HEAD.replace("text", "split"), "has the parts other"),
        ("v\t0\t1\t1\t1\ta\tb\n", HEAD, "cannot be read as a table"),
        ("v\t0\t1\t1\t1\ta\nv\t0\t1\t1\t2\ta\tb\n", HEAD, "cannot be read as a table .*line 3"),
        ('v\t0\t1\t1\t1\t"a\n', HEAD, "cannot be read as a table"),
        ("", "", "cannot be read as a table"),
    ],
)
def test_bad_tables(tmp_path: Path, rows: str, head: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        segments_in(table(tmp_path / "a.tsv", rows, head))


def test_folds_of_mosi_have_the_published_counts() -> None:
    parts = list(standard_folds(None, "mosi").values())
    assert {part: parts.count(part) for part in ("train", "valid", "test")} == {"train": 52, "valid": 10, "test": 31}


def test_folds_of_the_sdk_are_read_and_not_run(tmp_path: Path) -> None:
    """The form of ``cmu_mosei_std_folds.py``: three lists of names."""
    path = tmp_path / "cmu_mosei_std_folds.py"
    lists = "standard_train_fold=['a', '81406']\nstandard_valid_fold=['b']\nstandard_test_fold=['c']\n"
    path.write_text(lists)
    assert standard_folds(path, "mosei") == {"a": "train", "81406": "train", "b": "valid", "c": "test"}
    witness = tmp_path / "witness"
    path.write_text(f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n{lists}")
    assert len(standard_folds(path, "mosei")) == 4
    path.write_text(lists.replace("['b']", f"open({str(witness)!r}, 'w')"))
    with pytest.raises(DataError, match="no standard folds"):
        standard_folds(path, "mosei")
    assert not witness.exists()
    path.write_text("standard_train_fold = []")
    with pytest.raises(DataError, match="no standard folds"):
        standard_folds(path, "mosei")


def test_folds_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "valid.txt").write_text("c\n")
    table(tmp_path / "test.tsv", "d\t0\t1\t0\t1\t\nd\t1\t2\t0\t2\t\n")
    assert standard_folds(tmp_path, "mosei") == {"a": "train", "b": "train", "c": "valid", "d": "test"}
    (tmp_path / "valid.txt").write_text("c b\n")
    with pytest.raises(DataError, match="'b' is in train and in valid"):
        standard_folds(tmp_path, "mosei")
    (tmp_path / "valid.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match=r"valid\.txt cannot be read as a list of videos"):
        standard_folds(tmp_path, "mosei")
    (tmp_path / "valid.txt").write_text("c\n", encoding="utf-8-sig")  # as some editors save it
    assert standard_folds(tmp_path, "mosei")["c"] == "valid"
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(DataError, match="no videos for valid"):
        standard_folds(tmp_path, "mosei")
    with pytest.raises(DataError, match="no folds at"):
        standard_folds(tmp_path / "gone", "mosei")


def test_real_tables_have_the_published_counts(real_data: Path) -> None:
    """Segments and videos of the standard splits of both data sets."""
    counts = {}
    for dataset in ("mosi", "mosei"):
        found = segments_in(real_data / dataset / "transcripts")
        assert len({segment.id for segment in found}) == len(found)
        counts[dataset] = [sum(segment.part == part for segment in found) for part in ("train", "valid", "test")]
    assert counts == {"mosi": [1284, 229, 686], "mosei": [16326, 1871, 4659]}
    folds = standard_folds(None, "mosi")
    assert all(folds[segment.video] == segment.part for segment in segments_in(real_data / "mosi" / "transcripts"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("v,0,0,1,1e39\n", r"line 2, column label: '1e39' is no number"),
        ("v,0,0,inf,1\n", r"line 2, column stop: 'inf' is no number"),
        ("v,0,0," + "9" * 5000 + ",1\n", "line 2, column stop: '9{50,60} is no number"),
    ],
)
def test_numbers_beyond_single_precision(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "a.csv").write_text("vid,cid,start,stop,label\n" + rows)
    with pytest.raises(DataError, match=message):
        segments_in(tmp_path / "a.csv")


def test_a_header_without_end(tmp_path: Path) -> None:
    """pandas would give each of the columns a name of its own, which takes minutes."""
    (tmp_path / "a.csv").write_text("vid,cid,start,stop,label" + ",x" * 100_000 + "\nv,0,0,1,1\n")
    with pytest.raises(DataError, match=r"a\.csv has a header of more than 16384 bytes"):
        segments_in(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "standard_train_fold = " + "[" * 5000, "-" * 9999 + "1", "x" * (1 << 23)]
)
def test_folds_that_are_no_list(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(DataError, match=r"a\.py has no standard folds") as caught:
        standard_folds(tmp_path / "a.py", "mosei")
    assert len(str(caught.value)) < 600


def test_tables_larger_than_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("vid,cid,start,stop,label\n" + "v,0,0,1,1\n" * 1000)
    monkeypatch.setenv("MMBENCH_MEMORY", "0.1MB")
    with pytest.raises(DataError, match=r"a\.csv: its text would take"):
        segments_in(tmp_path / "a.csv")
