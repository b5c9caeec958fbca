"""The methods, one file each.

The registry is what is there: every module of this package that defines a :class:`FusionMethod` with the module's own
name (``late_fusion.py`` defines ``LateFusion``) is a method, and nothing else has to be edited to add one.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from data_modules.schema import unknown
from mmbench.methods.base import FusionMethod, Output, Stage
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting

__all__ = [
    "ConfigError",
    "FusionMethod",
    "MethodCard",
    "MethodConfig",
    "Needs",
    "Output",
    "PublishedResult",
    "Stage",
    "method",
    "methods",
    "setting",
]


@cache
def methods() -> dict[str, type[FusionMethod]]:
    """Return every method by its key, the name of its file."""
    found: dict[str, type[FusionMethod]] = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        wanted = info.name.replace("_", "")
        for name, value in vars(module).items():
            if (
                isinstance(value, type)
                and issubclass(value, FusionMethod)
                and value.__module__ == module.__name__
                and name.lower() == wanted
            ):
                found[info.name] = value
    return found


def method(key: str) -> type[FusionMethod]:
    """Return one method by its key.

    Raises:
        ConfigError: When there is none; the message names the nearest.
    """
    known = methods()
    if key not in known:
        raise ConfigError(unknown("method", key, list(known)))
    return known[key]
