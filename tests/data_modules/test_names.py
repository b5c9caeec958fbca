from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.names import LONGEST, check_name, printable
from data_modules.schema import DataError


@pytest.mark.parametrize(
    "name", ["mosi", "videos62-31", "logmel-au", "luna5", "standard+steps0.3", "_x", "7", "données"]
)
def test_usual_names_are_taken(name: str) -> None:
    assert check_name("data set", name) == name
    assert Path("root", name).parent == Path("root")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "C:x", "-rf", ".hidden", "a b", "a\nb", "a\0", "a\udcff", "x" * 101],
)
def test_what_could_lead_elsewhere_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(DataError, match=f"f.h5: the data set cannot be named .* up to {LONGEST} letters"):
        check_name("data set", name, "f.h5")


def test_any_name_can_be_printed() -> None:
    assert printable("né\udcff.npz") == "né\\udcff.npz"
