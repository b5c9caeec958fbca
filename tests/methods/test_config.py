"""Settings: which values are of their kind, from files, from the command line and from Python."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest

from mmbench.methods import ConfigError, MethodConfig
from mmbench.methods.cfn_sr import CFNSR
from mmbench.methods.config import setting
from mmbench.methods.lf_dnn import LFDNN
from mmbench.methods.mmim import MMIM
from mmbench.methods.scalevlad import ScaleVLAD
from mmbench.methods.unimodal import Unimodal

HUGE = 10**400


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", 1, 1.0),
        ("lr", "0.5", 0.5),
        ("batch_size", "8", 8),
        ("text_encoder", "null", "null"),
        ("text_encoder", "3", "3"),
    ],
)
def test_texts_of_the_command_line_get_their_type(key: str, value: Any, expected: Any) -> None:
    found = getattr(LFDNN.Config.parse({key: value}), key)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("value", [math.nan, math.inf, "1e400", ".nan", "nan", True, None, [1], {}, "fast", HUGE])
def test_what_is_no_finite_number_is_refused_with_key_and_range(value: Any) -> None:
    """Also where a comparison with the smallest value would let it pass, as that of NaN does."""
    with pytest.raises(ConfigError, match=r"^LFDNN: setting 'lr' is .*; it must be a finite number of at least 0\.$"):
        LFDNN.Config.parse({"lr": value})


@pytest.mark.parametrize("value", [math.nan, True, "true", 3.0, "3.5", None, 10**30, HUGE, "9" * 5000])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^LFDNN: setting 'batch_size' is .*; it must be a whole number of at least"):
        LFDNN.Config.parse({"batch_size": value})


@pytest.mark.parametrize("value", [3, True, None, ["bert"]])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"setting 'text_encoder' is .*; it must be a text"):
        LFDNN.Config.parse({"text_encoder": value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": math.nan}, "'lr' is nan; it must be a finite number of at least 0"),
        ({"lr": "0.1"}, "'lr' is '0.1'; it must be a finite number"),
        ({"batch_size": True}, "'batch_size' is True; it must be a whole number"),
        ({"batch_size": 2.5}, "'batch_size' is 2.5; it must be a whole number"),
        ({"dropout": math.nan}, "'dropout' is nan; it must be a finite number from 0 to 1"),
    ],
)
def test_python_values_are_checked_too(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LFDNN.Config(**values)


def test_a_factor_of_a_drop_that_never_comes_is_refused() -> None:
    with pytest.raises(ConfigError, match="'plateau_factor' has no effect while plateau_patience is 0"):
        LFDNN.Config.parse({"plateau_factor": 0.5})
    assert LFDNN.Config.parse({"plateau_factor": 0.5, "plateau_patience": 2}).plateau_factor == 0.5


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (ScaleVLAD.Config, {"heads": 3}, "ScaleVLAD: setting 'heads' is 3; it must divide width, 64."),
        (ScaleVLAD.Config, {"width": 63, "heads": 9, "layers": 0}, "'layers' is 0; it must be at least 1"),
        (CFNSR.Config, {"cardinality": 48}, "CFNSR: setting 'cardinality' is 48; it must divide width, 128."),
    ],
)
def test_what_must_divide_another_setting(config: type[MethodConfig], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.parse(values)
    assert ScaleVLAD.Config(width=63, heads=9).heads == 9


def test_messages_name_the_method_wherever_its_settings_are() -> None:
    """Inside the class, beside it, or shared with another method."""
    assert [cls.where("lr") for cls in (LFDNN.Config, CFNSR.Config, Unimodal.Config, MethodConfig)] == [
        f"{name}: setting 'lr'" for name in ("LFDNN", "CFNSR", "Unimodal", "MethodConfig")
    ]


def test_other_kinds_are_described_by_their_default() -> None:
    assert ScaleVLAD.Config.parse({"scales": "[1, 3]"}).scales == (1, 3)
    with pytest.raises(ConfigError, match=r"'scales' is 'wide'; it must be like \(1, 2, 3, 10\)"):
        ScaleVLAD.Config.parse({"scales": "wide"})


def test_a_text_of_brackets_does_not_end_the_process() -> None:
    with pytest.raises(ConfigError, match=r"'lr' is '\[\[\[.*\.\.\.; it must be a finite number"):
        LFDNN.Config.parse({"lr": "[" * 60_000})


@dataclass(frozen=True)
class QuietConfig(MethodConfig):
    width: int = setting(3, "a width")
    late: bool = setting(False, "came later", quiet=True)
    named: str = setting("as before", "came later too", quiet=True)


@pytest.mark.parametrize(
    ("values", "told"),
    [({}, {}), ({"late": True}, {"late": True}), ({"late": False, "named": "new"}, {"named": "new"})],
)
def test_quiet_settings_are_told_only_when_they_are_not_the_default(
    values: dict[str, Any], told: dict[str, Any]
) -> None:
    config = QuietConfig.parse(values)
    assert config.to_dict() == {**MethodConfig().to_dict(), "width": 3, **told}
    assert QuietConfig.parse(config.to_dict()) == config


def test_methods_that_compare_samples_gather_quietly() -> None:
    assert "gather_negatives" not in MMIM.Config().to_dict()
    assert MMIM.Config(gather_negatives=True).to_dict()["gather_negatives"] is True
