"""Texts of strangers: read in little time and memory, or refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmbench.runner.reading import MOST_YAML, ReadingError, parse_json, read_bytes, read_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 26))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 10000 values, those that aliases repeat included"),
        (MERGES, "more than 10000 values"),
        ("a: &a [*a]", "nested too deeply"),
        ("[" * 1000, "nested too deeply"),
        ("x: " + "[" * 30 + "]" * 30, r"nested too deeply \(line 1\)"),
        ("x: " + "y" * MOST_YAML, "more than 1 MB"),
        ("? [a]\n: b", "a list or a mapping in the place of a name in line 1"),
        ("on: 1", "the name 'on' in line 1, which is no text"),
        ("x: !!int y", "a value that is not of its type"),
        ("x: !!bool 7", "a value that is not of its type"),
        ("x: " + "9" * 5000, "a value that is not of its type"),
        ("x: !!binary aGk=", "a value of the type binary in line 1"),
        ("x: 1\n---\ny: 1", "not valid YAML"),
    ],
)
def test_odd_yaml_is_refused_at_once(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ReadingError, match=message):
        read_yaml(tmp_path / "odd.yaml")
    assert time.process_time() - start < 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_keep_the_reader_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadingError, match="it is no file"):
        read_bytes(tmp_path / "pipe", 10)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadingError, match=r"it cannot be read .*No such file"):
        read_bytes(tmp_path / "none", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    assert len(read_bytes(tmp_path / "large", 11)) == 11
    with pytest.raises(ReadingError, match="no such file is that large"):
        read_bytes(tmp_path / "large", 10)


def test_json_has_every_name_once_and_finite_numbers() -> None:
    assert parse_json(b'{"a": [1, 2.5, null], "b": {"a": true}}') == {"a": [1, 2.5, None], "b": {"a": True}}
    for text, message in [
        ('{"a": {"b": 1, "b": 2}}', "the name 'b' twice"),
        ('{"a": [1e400]}', "its 'a' is inf"),
        ('{"a": -Infinity}', "its 'a' is -inf"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff{}", "not valid JSON"),
    ]:
        with pytest.raises(ReadingError, match=message):
            parse_json(text)
