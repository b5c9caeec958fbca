"""What a method says of a batch: by fields where its code reads it, by names for everyone else."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import mmbench.methods

ROOM = Path(mmbench.methods.__file__).parent


@dataclass(kw_only=True)
class Said(mmbench.methods.Output):
    h: dict[str, Tensor]
    alone: dict[str, Tensor] = field(metadata={"named": "prediction"})
    z: Tensor
    shift: Tensor | None = None
    parts: SimpleNamespace | None = None


def said(**more):
    tensors = iter(torch.arange(10.0))
    h = {"text": next(tensors), "text_audio": next(tensors)}
    return Said(next(tensors), h=h, alone={"text": next(tensors)}, z=next(tensors), **more)


def test_fields_are_named_by_field_and_key():
    output = said(shift=torch.ones(2), parts=SimpleNamespace(full=torch.ones(3)))
    expected = {"h_text": output.h["text"], "h_text_audio": output.h["text_audio"]}
    expected |= {"prediction_text": output.alone["text"], "z": output.z, "shift": output.shift}
    assert output.named.keys() == expected.keys()
    assert all(output.named[name] is tensor for name, tensor in expected.items())


def test_what_is_not_there_has_no_name():
    assert "shift" not in said().named
    assert replace(said(), h={}).named.keys() >= {"prediction_text", "z"}


def test_names_that_are_given_stay_and_those_of_others_are_not_touched():
    given = {"extra": torch.ones(1)}
    assert set(said(named=given).named) == {"extra", "h_text", "h_text_audio", "prediction_text", "z"}
    assert set(given) == {"extra"}
    assert mmbench.methods.Output(torch.ones(1), given).named is given


def test_another_value_is_named_too():
    first = said()
    second = replace(first, z=torch.ones(3))
    assert second.named["z"] is second.z
    assert first.named["z"] is first.z


def test_what_no_field_says_cannot_be_read_or_given():
    with pytest.raises(AttributeError, match="h_text"):
        _ = said().h_text
    with pytest.raises(TypeError, match="hidden"):
        said(hidden=torch.ones(1))


def reads_names(code: str) -> list[int]:
    """Return the lines in which ``named`` of something is looked at, neither written by key nor called."""
    nodes = list(ast.walk(ast.parse(code)))
    written = [node.value for node in nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)]
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    looked_at = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "named"]
    return [node.lineno for node in looked_at if not any(node is other for other in (*written, *called))]


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_methods_read_fields_not_names(path):
    """A name put together, or a prefix looked for, is a field that no tool can check."""
    assert path.name == "output.py" or reads_names(path.read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        'output.named[f"h_{name}"]',
        "named = output.named",
        'share = {k: v for k, v in self(batch).named.items() if k.startswith("weight_")}',
        "Views.of(output.named)",
    ],
)
def test_reading_is_noticed(code):
    assert reads_names(code) == [1]
    assert reads_names('output.fed = output.named["fed"] = x\nOutput(y, views.named())') == []
