"""Records on disk: atomic, typed, and skipped with a name when broken."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest

from data_modules import files
from data_modules.budget import VARIABLE
from mmbench.runner.predictions import Predictions, PredictionsError, read_predictions
from mmbench.runner.record import Record, RecordError
from mmbench.runner.records import predictions_path, read_record
from mmbench.runner.trial import run_trial
from mmbench.runner.work import Options
from tests.runner.conftest import Planner, find

DOCUMENT = Path(__file__).parents[2] / "docs" / "records.md"


@pytest.fixture
def written(plan: Planner, options: Options) -> Path:
    (trial,) = plan("constant", epochs=1)
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    return options.records.path(trial)


def test_values_that_are_no_numbers_become_null(written: Path) -> None:
    """A constant has no correlation; JSON has no NaN."""
    assert json.loads(written.read_text())["test"]["corr"] is None


def test_a_record_is_what_its_file_says(written: Path) -> None:
    record = read_record(written)
    assert Record.from_dict(record.to_dict()) == record
    assert written.read_text() == record.to_json()
    assert json.loads(written.read_text()) == record.to_dict()


def changed(path: Path, where: str, value: Any) -> None:
    """Change one value in a file, at keys that are separated by dots."""
    content = json.loads(path.read_text())
    *way, last = where.split(".")
    place = content
    for key in way:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("schema", 1, "it has schema 1, this program reads 2"),
        ("status", "great", "'status': Input should be 'completed', 'diverged' or 'failed'"),
        ("track", "x/y/z", "its place does not fit its content"),
        ("seed", "1111", "'seed': Input should be a valid integer"),
        ("seed", True, "'seed': Input should be a valid integer"),
        ("fold", 0.5, "'fold': Input should be a valid integer"),
        ("test", {}, "without a test value of the selecting metric"),
        ("test.mae", "0.7", "'test.mae"),
        ("test.mae", math.inf, "'test.mae"),
        ("test.mae", None, "without a test value of the selecting metric"),
        ("cost.peak_memory", math.nan, "'cost.peak_memory'"),
        ("cost", None, "it is completed and has no 'cost'"),
        ("features.text", 7, "'features.text'"),
        ("features.text.dim", [[]], "'features.text.dim'"),
        ("environment.threads", {}, "'environment.threads'"),
        ("samples", {"train": 3}, "how many valid samples"),
        ("training", {}, "its training has no 'max_epochs'"),
        ("surprise", 1, "'surprise': Unexpected keyword argument"),
    ],
)
def test_a_wrong_record_is_named_and_skipped(
    written: Path, options: Options, where: str, value: Any, message: str
) -> None:
    changed(written, where, value)
    records, problems = options.records.load()
    assert records == []
    assert len(problems) == 1
    assert str(written) in problems[0]
    assert message in problems[0]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"schema": 2}', "\udcff"])
def test_a_file_that_is_no_record_is_named_and_skipped(
    written: Path, options: Options, text: str, plan: Planner
) -> None:
    written.write_bytes(text.encode(errors="surrogateescape"))
    records, (line,) = options.records.load()
    assert records == []
    assert str(written) in line
    assert find(options.records, plan("constant", epochs=1)[0]) is None, "its trial can run again"


def test_a_failed_record_says_why(written: Path) -> None:
    record = read_record(written)
    with pytest.raises(RecordError, match="failed and does not say why"):
        Record.from_dict({**record.to_dict(), "status": "failed"})


def test_a_record_without_its_predictions_is_a_problem(written: Path) -> None:
    predictions_path(written).unlink()
    with pytest.raises(RecordError, match="its predictions are missing"):
        read_record(written)


def test_nothing_half_written_is_left_when_writing_fails(
    written: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record(written)
    before = {path.name for path in written.parent.iterdir()}
    content = written.read_text()
    monkeypatch.setattr(Path, "write_text", lambda self, text, **_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        options.records.write(dataclasses.replace(record, label="other"))
    assert {path.name for path in written.parent.iterdir()} == before
    assert written.read_text() == content


def test_the_predictions_are_there_before_the_record_is(
    written: Path, options: Options, plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record never lacks its predictions, wherever a writer is killed."""
    (trial,) = plan("constant", epochs=1, seeds=(5,))
    placed: list[str] = []
    replace = files.os.replace

    def noted(source: str, target: Path) -> None:
        placed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", noted)
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    assert [name for name in placed if name.startswith(trial.id)] == [f"{trial.id}.csv.gz", f"{trial.id}.json"]


def test_every_key_of_a_record_is_documented() -> None:
    """The keys of a file, those of its parts included, are those of the document, and it knows no others."""
    keys = {item.name for item in dataclasses.fields(Record)}
    for name, hint in get_type_hints(Record).items():
        for kind in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(kind) and get_origin(hint) is not dict:
                keys |= {f"{name}.{item.name}" for item in dataclasses.fields(kind)}
    assert set(re.findall(r"^\| `([\w.]+)` \|", DOCUMENT.read_text(), re.M)) == keys


NAMES = ['a"b', "Bücher, 2", "line\nbreak", "carriage\rreturn", "NA", "007", "tab\t", "'", "\U0001f600", " spaced "]


def table() -> Predictions:
    numbers = np.arange(3 * len(NAMES), dtype=float).reshape(len(NAMES), 3) - 3
    groups = ["vid\u00e9o", "", *["g"] * (len(NAMES) - 2)]
    return Predictions(NAMES, groups, 3, numbers[:, :1], numbers[:, 1:] / 8)


def test_predictions_come_back_from_pandas_as_they_were(tmp_path: Path) -> None:
    made = table()
    made.write(tmp_path / "p.csv.gz")
    read = pd.read_csv(tmp_path / "p.csv.gz", dtype={"id": str, "group": str}, keep_default_na=False)
    assert list(read.columns) == ["id", "group", "fold", "target0", "prediction0", "prediction1"]
    assert list(read["id"]) == NAMES
    assert list(read["group"]) == made.groups
    assert set(read["fold"]) == {3}
    ours, digest = read_predictions(tmp_path / "p.csv.gz")
    assert (ours.ids, ours.groups, ours.fold) == (NAMES, made.groups, 3)
    assert (ours.target == made.target).all()
    assert digest == made.write(tmp_path / "again.csv.gz")


def test_predictions_of_the_same_content_have_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time: the packed file says nothing of when it was made."""
    table().write(tmp_path / "one.csv.gz")
    monkeypatch.setattr("time.time", lambda: 4e8)
    table().write(tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


def test_predictions_keep_every_float32(tmp_path: Path) -> None:
    values = np.random.RandomState(0).standard_normal(5000).astype(np.float32)
    near = np.nextafter(values, np.float32(np.inf))
    made = Predictions(list(map(str, range(5000))), [""] * 5000, 0, values[:, None], near[:, None])
    made.write(tmp_path / "p.csv.gz")
    read, _ = read_predictions(tmp_path / "p.csv.gz")
    assert (read.target[:, 0].astype(np.float32) == values).all()
    assert (read.prediction[:, 0].astype(np.float32) == near).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(bytes(30_000_000), 1), f"would take .*{VARIABLE}="),
        (gzip.compress(b"id,group,fold,target0,prediction0\na,,0,1,2\n")[:-9], "cannot be read"),
        (b"hello", "cannot be read"),
        (b"", "begin with the columns"),
        (gzip.compress(b"\xff\xfe"), "cannot be read"),
        (gzip.compress(b"id,group,fold,target0,prediction0\n" + b"a" * 200_000), "no table of numbers"),
        (gzip.compress(b"id,group,fold,target0,prediction0\na,,0,1,x\n"), "no table of numbers"),
        (gzip.compress(b"id,group,fold,target0,prediction0\na,,0\n"), "no whole table"),
    ],
    ids=[
        "bomb",
        "cut",
        "text",
        "empty",
        "not Unicode",
        "endless",
        "words",
        "short",
    ],  # packed bytes have the time in them
)
def test_what_is_no_table_of_predictions_is_refused_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """A packed file of 130 kB would be 30 MB of text, and a table takes a hundred times that."""
    monkeypatch.setenv(VARIABLE, "1GB")
    (tmp_path / "p.csv.gz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path / "p.csv.gz")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_name_twice_or_a_number_without_end_is_no_record(written: Path, options: Options) -> None:
    text = written.read_text()
    for odd, message in [
        (text.replace('"seed": 1111', '"seed": 7,\n "seed": 1111'), "it has the name 'seed' twice"),
        (text.replace('"lr": ', '"lr": 1e400, "rate": ', 1), "its 'lr' is inf, which is no finite number"),
    ]:
        assert odd != text
        written.write_text(odd)
        records, (line,) = options.records.load()
        assert records == []
        assert str(written) in line
        assert message in line
