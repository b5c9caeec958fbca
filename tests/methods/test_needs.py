"""What a method needs of the data, and what it was built for."""

from __future__ import annotations

from typing import Any

import pytest

from mmbench.methods import ConfigError
from mmbench.methods.card import Needs
from mmbench.testing.builders import make_spec

RAW = Needs(kinds={"audio": ("features", "waveform"), "vision": ("frames",)})


def test_kinds_by_modality_are_of_the_named_ones_alone() -> None:
    assert RAW.reads("audio") == ("features", "waveform")
    assert RAW.reads("text") == ("features", "tokens")
    assert RAW.unmet(make_spec()) == ["it reads vision as frames, and here it is features"]
    assert RAW.unmet(make_spec(kinds={"vision": "frames", "audio": "waveform"})) == []
    assert RAW.unmet(make_spec(kinds={"text": "waveform", "vision": "frames"})) == [
        "it reads text as features or tokens, and here it is waveform"
    ]


def test_a_method_of_features_refuses_media() -> None:
    assert Needs().unmet(make_spec(kinds={"audio": "waveform"})) == [
        "it reads audio as features or tokens, and here it is waveform"
    ]


def test_the_form_a_method_was_built_for_is_the_last_named() -> None:
    assert RAW.substitutes(make_spec(kinds={"vision": "frames"})) == {"audio": ("features", "waveform")}
    assert RAW.substitutes(make_spec(kinds={"vision": "frames", "audio": "waveform"})) == {}
    assert Needs().substitutes(make_spec()) == {}


@pytest.mark.parametrize(
    "wrong", [{"modalities": "text"}, {"tasks": 3}, {"kinds": {"text": "tokens"}}, {"at_least": "2"}, {"dialogue": 1}]
)
def test_needs_of_another_type_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^Needs: "):
        Needs(**wrong)
