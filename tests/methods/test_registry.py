"""What every method must do, whatever it is: a new method is tested here without touching this file."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import mmbench.methods
from mmbench.methods import ConfigError, FusionMethod, broken_methods, method, methods
from mmbench.testing import MethodTests


class TestMethods(MethodTests):
    methods = tuple(methods())
    thorough = False


@pytest.mark.slow
class TestMethodsThoroughly(MethodTests):
    methods = tuple(methods())


def test_every_module_that_defines_a_method_is_registered():
    found = set()
    for info in pkgutil.iter_modules(mmbench.methods.__path__):
        module = importlib.import_module(f"mmbench.methods.{info.name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        if any(issubclass(item, FusionMethod) and item is not FusionMethod for item in own):
            found.add(info.name)
    assert found == set(methods())
    assert broken_methods() == {}


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'late_fusoin'.*Did you mean 'late_fusion'"):
        method("late_fusoin")


@pytest.mark.parametrize("cls", methods().values(), ids=methods())
def test_a_module_names_its_paper(cls):
    assert cls.card.arxiv is None or cls.card.arxiv in (importlib.import_module(cls.__module__).__doc__ or "")
