from __future__ import annotations

import pytest

from data_modules.budget import VARIABLE, Allowance, budget, check_size
from data_modules.schema import DataError


@pytest.mark.parametrize(("said", "size"), [("2", 2e9), ("2GB", 2e9), ("500 mb", 5e8), ("1.5TB", 1.5e12), ("7b", 7)])
def test_budget_is_what_the_variable_says(said: str, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    assert budget() == size


@pytest.mark.parametrize("said", ["much", "-2GB", "0", "2 PB", "nan"])
def test_what_is_no_size_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, said)
    with pytest.raises(DataError, match=f"{VARIABLE} is"):
        budget()


def test_what_would_take_more_is_refused_and_the_way_out_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1GB")
    check_size("x.npz", "'text'", 10**9)
    with pytest.raises(DataError, match=rf"x.npz: 'text' would take 2GB .* may take 1GB.*{VARIABLE}=2.4GB"):
        check_size("x.npz", "'text'", 2 * 10**9)
    monkeypatch.setenv(VARIABLE, "2.4GB")
    check_size("x.npz", "'text'", 2 * 10**9)


def test_without_the_variable_it_is_a_part_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert 10**8 < budget() < 10**14


def test_what_is_read_of_one_file_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1000B")
    allowance = Allowance("x.npz")
    allowance.take("a", 400, at_once=600)
    allowance.take("b", 600)
    with pytest.raises(DataError, match=r"x\.npz: what is read of it up to 'c' would take"):
        allowance.take("c", 1)
