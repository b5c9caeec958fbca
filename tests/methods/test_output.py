"""What a method says of a batch: by fields where its code reads it, by names for everyone else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import mmbench.methods


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
