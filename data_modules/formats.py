"""The formats that ``mmbench data import`` reads, and how one becomes a store.

The registry is what is there: every module that defines a function ``read`` is an importer, and nothing else has to be
edited to add one. Layouts that several data sets share lie in :mod:`data_modules.importers`, and their key is the name
of the module; those of one data set lie in its room in :mod:`data_modules.datasets` and give their key as ``KEY``.

``read`` takes the path, the key of the data set, and its options as typed keyword-only arguments, from which the
command line derives its own. One that decodes media has the option ``work``, the folder in which it keeps what is
decoded until the store is whole.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from data_modules.budget import no_memory
from data_modules.importers.clips import discard, work_folder
from data_modules.importers.common import Source
from data_modules.names import check_name
from data_modules.schema import DataError, unknown_name
from data_modules.store import FeatureStore, check_output, check_protocol, write_store

__all__ = ["ImporterFunction", "Source", "import_store", "importer", "importers", "options_of"]

ROOMS = ("data_modules.importers", "data_modules.datasets")
ImporterFunction = Callable[..., Source]
"""``read(source: Path, *, dataset: str, **options) -> Source``."""


@cache
def importers() -> dict[str, ImporterFunction]:
    """Return every importer by its key."""
    found: dict[str, ImporterFunction] = {}
    for room in ROOMS:
        for info in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            module = importlib.import_module(info.name)
            read = vars(module).get("read")
            if inspect.isfunction(read) and read.__module__ == module.__name__:
                found[vars(module).get("KEY", info.name.rpartition(".")[2])] = read
    return dict(sorted(found.items()))


def importer(format: str) -> ImporterFunction:
    """Return one importer by its key.

    Raises:
        DataError: When there is none; the message names the nearest.
    """
    known = importers()
    if format not in known:
        raise DataError(unknown_name("format", format, known))
    return known[format]


def options_of(format: str) -> dict[str, inspect.Parameter]:
    """Return the options of an importer by name: the keyword-only arguments of its ``read`` but the data set.

    Their annotations are types, not strings.
    """
    parameters = inspect.signature(importer(format), eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "dataset"}


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values that an annotation lists, such as ``Literal["a", "b"] | None``; nothing when it lists none."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    listed = [choice for member in members for choice in _choices(member)]
    return (*listed, None) if listed and type(None) in members else tuple(listed)


def import_store(format: str, source: Path, out: Path, *, dataset: str, options: Mapping[str, Any]) -> FeatureStore:
    """Read a published file and write its store.

    Args:
        format: Key of the importer.
        source: The file or folder to read.
        out: The store to make or replace.
        dataset: Key of the data set, such as ``mosi``; empty where the importer has one of its own.
        options: Options of the importer. The option ``work`` of importers of media is the folder that is to hold the
            work folder, by default that of the store; when the store is whole, the work folder is removed.

    Returns:
        The store, open for reading.

    Raises:
        DataError: For an unknown format or option, a missing source, or a source that the importer refuses.
    """
    read = importer(format)
    known = options_of(format)
    for name, value in options.items():
        if name not in known:
            raise DataError(unknown_name(f"option of the {format} importer", name, known))
        choices = _choices(known[name].annotation)
        if choices and value not in choices:
            raise DataError(unknown_name(f"value of the option {name}", str(value), map(str, choices)))
    if dataset:
        check_name("data set", dataset)
    if feature_set := options.get("feature_set"):
        check_name("feature set", str(feature_set), "the option feature_set")
    if protocol := options.get("protocol"):
        check_protocol(str(protocol), "the option protocol")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise DataError(f"The {format} importer needs the option {' and '.join(missing)}.")
    if not Path(source).exists():
        raise DataError(f"There is nothing at {source}. Give the path of the downloaded file or folder.")
    out = Path(out)
    if out.is_file() and out.samefile(source):
        raise DataError(f"{out} is the source itself. Give another path for the store.")
    check_output(out)
    work = {"work": work_folder(out, options.get("work"))} if "work" in known else {}
    with _about(Path(source)):
        made = read(Path(source), dataset=dataset, **{**options, **work})
        store = write_store(out, made.info, made.samples, made.splits, made.protocol)
    for folder in work.values():
        discard(folder)
    return store


@contextmanager
def _about(source: Path) -> Iterator[None]:
    """Name the source in messages that do not."""
    try:
        yield
    except DataError as error:
        if source.name in str(error):
            raise
        raise DataError(f"{source}: {error}") from error
    except MemoryError as error:
        raise no_memory(source) from error
