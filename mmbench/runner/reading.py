"""Text files of people and of strangers: read within a limit, into plain values, or refused in words.

What is wrong is said without the file's name, which the caller has: ``it is not valid YAML``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

MOST_YAML = 1 << 20
"""Bytes of a file of settings."""
MOST_JSON = 1 << 23
"""Bytes of a record or of a baseline."""
_MOST_VALUES, _DEEPEST = 10_000, 20
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


class ReadingError(ValueError):
    """A text file cannot be read; the message says why, and begins with ``it``."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a file.

    Raises:
        ReadingError: When it is none, cannot be read, or is larger than ``most`` bytes.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would keep the reader waiting
            raise ReadingError("it is no file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ReadingError(f"it cannot be read ({error})") from error
    if len(content) > most:
        raise ReadingError(f"it has more than {most >> 20} MB, and no such file is that large")
    return content


def read_yaml(path: Path) -> Any:
    """Return the plain values in a YAML file, None when it is empty.

    Raises:
        ReadingError: When it is not UTF-8, not YAML, or holds more than names, numbers, texts and lists of them.
    """
    content = read_bytes(path, MOST_YAML)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ReadingError(f"it is not UTF-8 (line {line}): save it as UTF-8") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ReadingError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ReadingError(f"it is not valid YAML: {error}") from error
    except ReadingError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # what YAML makes of `!!int x`
        raise ReadingError(f"it has a value that is not of its type ({error})") from error


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node stands for, those that aliases repeat included; refuse what settings never are."""
    if id(node) in known:
        return known[id(node)]
    line = f"line {node.start_mark.line + 1}"
    if depth > _DEEPEST:
        raise ReadingError(f"it is nested too deeply ({line})")
    if node.tag not in _PLAIN:
        kind = node.tag.rpartition(":")[2]
        raise ReadingError(f"it has a value of the type {kind} in {line}: put it in quotes if it is a text")
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        _check_keys([key for key, _ in node.value])
        parts = [part for pair in node.value for part in pair]
    size = 1
    for part in parts:
        size += _measure(part, known, depth + 1)
        if size > _MOST_VALUES:
            raise ReadingError(f"it has more than {_MOST_VALUES} values, those that aliases repeat included ({line})")
    known[id(node)] = size
    return size


def _check_keys(keys: list[yaml.Node]) -> None:
    seen = set()
    for key in keys:
        line = f"line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ReadingError(f"it has a list or a mapping in the place of a name in {line}")
        if key.tag.rpartition(":")[2] not in ("str", "merge"):
            raise ReadingError(f"it has the name {key.value[:40]!r} in {line}, which is no text: put it in quotes")
        if key.value in seen:
            raise ReadingError(f"it has the name {key.value[:40]!r} twice, again in {line}: keep one of them")
        seen.add(key.value)


def parse_json(text: str | bytes) -> Any:
    """Return the values of a JSON text.

    Raises:
        ReadingError: When it is no JSON, or what JSON cannot mean: a name twice, a number without end.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=_checked)
    except ReadingError:
        raise
    except RecursionError as error:
        raise ReadingError("it is nested too deeply") from error
    except ValueError as error:
        raise ReadingError(f"it is not valid JSON ({error})") from error


def _checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ReadingError(f"it has the name {twice[:40]!r} twice")
    for name, value in pairs:
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise ReadingError(f"its {name[:40]!r} is {item}, which is no finite number")
    return values
