"""Whatever the bytes, a reader gives data or a message with the file's name, in time and within the memory allowed."""

from __future__ import annotations

import pytest

from tests.fuzz.harness import Form, cases, forms

FORMS = [pytest.param(form, id=name) for name, form in forms().items()]
FEW, MANY = 6, 240


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_give_data_or_a_message(form: Form) -> None:
    bad = [str(outcome) for outcome in cases(form, FEW) if not outcome.good]
    assert not bad, "\n".join(bad)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("form", FORMS)
def test_hundreds_of_damaged_files_give_data_or_a_message(form: Form) -> None:
    bad = [str(outcome) for outcome in cases(form, MANY, seed=1) if not outcome.good]
    assert not bad, "\n".join(bad)


def test_slow_cases_are_enough() -> None:
    assert MANY * len(FORMS) >= 2000
