"""Which methods there are: files and folders of this package, plug-in files, and entry points of installed packages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import mmbench.methods
from data_modules import plugins
from data_modules.batches.data_module import FusionDataModule
from data_modules.names import check_name
from data_modules.schema import DataError, unknown_name
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard
from mmbench.methods.config import ConfigError, MethodConfig


def methods() -> dict[str, type[FusionMethod]]:
    """Return every method by its key, the name of its file or entry point.

    Raises:
        DataError: When a plug-in file takes the key of another method.
    """
    return _found(plugins.files()).classes


def broken_methods() -> dict[str, str]:
    """Return by key the methods that cannot be used, and what is wrong in which line."""
    return _found(plugins.files()).broken


def method(key: str) -> type[FusionMethod]:
    """Return one method by its key.

    Raises:
        ConfigError: When there is none, or it is broken; the message says where, or names the nearest.
    """
    known = methods()
    if key not in known:
        raise ConfigError(broken_methods().get(key) or unknown_name("method", key, list(known)))
    return known[key]


@cache
def _found(files: tuple[Path, ...]) -> plugins.Found[FusionMethod]:
    folder, package = Path(mmbench.methods.__file__).parent, mmbench.methods.__name__
    there = {
        info.name: f"{info.name}/" if info.ispkg else f"{info.name}.py" for info in pkgutil.iter_modules([str(folder)])
    }
    shipped = [
        plugins.Source(name, f"this project ({location})", module, partial(importlib.import_module, module))
        for name, location, module in (
            (name, location, f"{package}.{name}") for name, location in sorted(there.items())
        )
    ]
    sources = [*shipped, *plugins.from_files(), *plugins.installed("mmbench.methods")]
    return plugins.collect(sources, _take, "method")


def _take(source: plugins.Source, loaded: Any) -> dict[str, type[FusionMethod]]:
    """Return by key the method of what a source has loaded, if it has one.

    Raises:
        DataError: When it breaks the contract, as far as a class shows it.
    """
    if isinstance(loaded, ModuleType):
        key = loaded.__name__.rpartition(".")[2]
        given = [cls for cls in plugins.defined(loaded, FusionMethod) if cls is not FusionMethod]
        if not given and source.asked and not plugins.defined(loaded, FusionDataModule):
            raise DataError(f"{source.location} defines neither a FusionMethod nor a FusionDataModule.")
    else:
        key, given = source.name, [loaded]
        if not (isinstance(loaded, type) and issubclass(loaded, FusionMethod)):
            raise DataError(f"{source.location} is no subclass of FusionMethod.")
    named = [cls for cls in given if cls.__name__.lower() == key.replace("_", "").lower()]
    if given and not named:
        wanted = key.title().replace("_", "")
        raise DataError(
            f"{plugins.line_of_class(given[-1])}: a method has the name of its file or entry point, and {key!r} is "
            f"defined nowhere: call the class {wanted}, or the file or entry point after {given[-1].__name__}."
        )
    if not named:
        return {}
    check_class(named[-1], check_name("method", key, source.location))
    return {key: named[-1]}


def check_class(cls: type[FusionMethod], key: str) -> None:
    """Check what the class of a method shows of itself: card, settings, constructor, forward.

    Raises:
        DataError: When something is missing.
    """
    where = f"{plugins.line_of_class(cls)}: the method {key!r}"
    cards = [base for base in cls.__mro__ if base.__module__ == cls.__module__ and "card" in vars(base)]
    if not cards or not isinstance(cls.card, MethodCard):
        raise DataError(
            f'{where} has no card: give card = MethodCard(title="...", authors="...", year=2026, fidelity="own").'
        )
    if cls.forward is FusionMethod.forward:
        raise DataError(f"{where} has no forward: give def forward(self, batch), which returns an Output.")
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, MethodConfig)):
        raise DataError(f"{where}: its Config is no subclass of MethodConfig.")
    _check_settings(cls, key)
    try:
        inspect.signature(cls).bind(None, None, None)
        inspect.signature(cls).bind(None, task=None, config=None)
    except TypeError as error:
        raise DataError(f"{where} must be made by (spec, task=None, config=None): {error}.") from error


def _check_settings(cls: type[FusionMethod], key: str) -> None:
    """Check that the settings of a method have defaults that can be used, and need only what there is.

    Raises:
        DataError: When something is missing.
    """
    known = cls.Config.__dataclass_fields__  # those of classes, too
    if lost := [name for name in inspect.get_annotations(cls.Config) if name not in known]:
        raise DataError(
            f"{plugins.line_of_class(cls.Config)}: the setting {lost[0]!r} is none yet: decorate the class with "
            "@dataclass(frozen=True)."
        )
    for item in fields(cls.Config):
        needs, whole = item.metadata.get("needs") or {}, item.metadata.get("divides")
        what = ""
        if item.init and item.default is MISSING and item.default_factory is MISSING:
            what = f'has no default: give it one, {item.name}: int = setting(1, "meaning").'
        elif not isinstance(needs, str | Mapping):
            what = f"has needs={needs!r}: give the name of a setting, or values by name."
        elif wrong := [name for name in ([needs] if isinstance(needs, str) else needs) if name not in known]:
            what = f"needs another that is not there. {unknown_name('setting', str(wrong[0]), known)}"
        elif whole and whole not in known:
            what = f"divides another that is not there. {unknown_name('setting', str(whole), known)}"
        if what:
            where = plugins.line_of_setting(cls.Config, item.name)
            raise DataError(f"{where}: the setting {item.name!r} of {key} {what}")
    try:
        cls.Config()
    except Exception as error:
        what = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        where = plugins.line_of_class(cls.Config)
        raise DataError(f"{where}: the settings of {key} cannot have their own defaults: {what}") from error
