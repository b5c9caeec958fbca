"""Methods and data sets from elsewhere: files that a command names, and packages that are installed.

A file is imported by its own name, with its folder last on the path: so it may import files beside it, and processes
that this one starts find it too. Whatever goes wrong in one of them is told of it and concerns no other.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from data_modules.schema import DataError

VARIABLE = "MMBENCH_PLUGINS"
"""Names the files of this process and of those that it starts, separated as the system separates paths."""
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where something may be defined.

    Attributes:
        name: Name of the file, or of the entry point.
        location: The file, or the package and its entry point, for messages.
        module: Dotted name of the module.
        load: Imports it, and returns the module or the class.
        asked: Whether the user named it in this very command.
    """

    name: str
    location: str
    module: str
    load: Callable[[], Any]
    asked: bool = False


@dataclass
class Found(Generic[T]):
    """What some sources define.

    Attributes:
        classes: By key.
        broken: By name of the source, or by its location where its key was taken, what is wrong there, and its line.
    """

    classes: dict[str, type[T]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def collect(sources: Iterable[Source], take: Callable[[Source, Any], Mapping[str, type[T]]], what: str) -> Found[T]:
    """Return what sources define; one that is broken, or takes the key of an earlier one, only says so.

    Args:
        sources: In order of precedence.
        take: Returns by key the classes of a source and of what it loaded.
        what: Word for messages, such as ``method``.

    Raises:
        DataError: When a source that the user named takes the key of another.
    """
    found: Found[T] = Found()
    places: dict[str, str] = {}
    for source in sources:
        try:
            with redirect_stdout(sys.stderr):  # what it prints is no part of the answer
                given = take(source, source.load())
        except (Exception, SystemExit) as error:
            found.broken[source.name] = told(error, source)
            continue
        for key, cls in given.items():
            if found.classes.setdefault(key, cls) is cls:
                places[key] = source.location
                continue
            message = f"Two {what}s are called {key!r}: one of {places[key]}, one of {source.location}. Rename yours."
            if source.asked:
                raise DataError(message)
            found.broken[source.location] = message
    return found


def files() -> tuple[Path, ...]:
    """Return the files that the variable names."""
    return tuple(Path(item).resolve() for item in os.environ.get(VARIABLE, "").split(os.pathsep) if item)


def from_files() -> Iterator[Source]:
    """Yield the files that the variable names as sources."""
    for path in files():
        yield Source(path.stem, shown_path(path), path.stem, partial(load_file, path), asked=True)


def installed(group: str) -> Iterator[Source]:
    """Yield the entry points of a group, of every installed package."""
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        package = f"the package {point.dist.name} {point.dist.version}" if point.dist else "an installed package"
        yield Source(point.name, f"{package} ({group}: {point.name} = {point.value})", point.module, point.load)


@contextmanager
def extended(paths: Iterable[str]) -> Iterator[None]:
    """Add files to those that the variable names, for a while.

    Raises:
        DataError: When a file is missing, or its path cannot be part of the variable.
    """
    before = os.environ.get(VARIABLE)
    added = [Path(path).resolve() for path in paths]
    for path in added:
        if not path.is_file():
            raise DataError(f"There is no plug-in {path}: give a Python file that defines a method or a data set.")
        if os.pathsep in str(path):
            raise DataError(f"{path} cannot be a plug-in: {os.pathsep!r} separates files in {VARIABLE}. Rename it.")
    if added:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(map(str, (*files(), *added))))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def load_file(path: Path) -> ModuleType:
    """Import a file by its name.

    Raises:
        DataError: When it is missing, or its name is not one or is taken, or that of a file that it imports.
    """
    name = path.stem
    if not path.is_file():
        raise DataError(f"There is no file {path}; the variable {VARIABLE} or --plugin names it.")
    if path.suffix != ".py" or not name.isidentifier():
        raise DataError(f"{path} cannot be imported: call it by letters, digits and _, such as my_fusion.py.")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    if not (origin := _origin(name)) or not path.samefile(origin):
        raise DataError(f"{path} has the name of another module ({origin or 'a part of Python'}): rename the file.")
    if taken := _taken(path):
        raise DataError(f"{path} would import {taken[1]} in place of {taken[0]} beside it: rename one of the two.")
    return importlib.import_module(name)


def _taken(path: Path) -> tuple[Path, Path] | None:
    """Return what lies beside a file and is imported there, and what lies beside another plug-in and is found first."""
    others = {file.parent for file in files()} - {path.parent}
    for name, near in _near(path).items():
        found = _place(name)
        if found and found.parent in others:
            imports = re.compile(rf"^\s*(?:import|from)\s(?:.*,)?\s*{name}\b", re.MULTILINE)
            if any(imports.search(file.read_text("utf-8", "replace")) for file in (path, *path.parent.glob("*.py"))):
                return near, found
    return None


def _origin(name: str) -> str:
    """Return the file that a top-level name is imported from, empty when it is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was not imported, such as __main__
        return ""
    return spec.origin if spec and spec.origin and Path(spec.origin).is_file() else ""


def beside(path: Path) -> dict[str, Path]:
    """Return the folder of every module and package that a plug-in file finds beside itself, by top-level name."""
    return {name: path.parent for name, near in _near(path).items() if _place(name) == near}


def _near(path: Path) -> dict[str, Path]:
    """Return what can be imported beside a file, by name: files, and folders with or without ``__init__.py``."""
    near = {file.parent.name: file.parent for file in path.parent.glob("*/*.py")}
    near |= {file.stem: file for file in path.parent.glob("*.py")}  # which Python finds first
    near |= {file.parent.name: file.parent for file in path.parent.glob("*/__init__.py")}  # and these before it
    return {name: location for name, location in near.items() if name.isidentifier()}


def _place(name: str) -> Path | None:
    """Return the file, or the folder of the package, that a top-level name is imported from."""
    if origin := _origin(name):
        return Path(origin).parent if Path(origin).name == "__init__.py" else Path(origin)
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:
        return None
    return next(map(Path, spec.submodule_search_locations or ()), None) if spec else None


def defined(module: ModuleType, base: type[T]) -> list[type[T]]:
    """Return the classes of a kind that a module, or a package by way of its modules, defines."""
    inside = f"{module.__name__}."
    every = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, base)]
    return [cls for cls in dict.fromkeys(every) if f"{cls.__module__}.".startswith(inside)]


# What is said of a mistake


def shown_path(path: Path | str) -> str:
    """Return a path as a user finds it: from the working folder, where it is below."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def line(path: str | Path, number: int | None, text: str | None) -> str:
    """Return a place in a source file with what stands there: ``my_fusion.py:12: `self.head = ...```."""
    return f"{shown_path(path)}:{number}" + (f": `{text.strip()}`" if text and text.strip() else "")


def line_of(error: BaseException, module: str) -> str:
    """Return the deepest line of an author's files that an error passed; empty when it passed none.

    Args:
        error: What was raised.
        module: Name of the author's module: all files of its package are the author's, or all in its folder where that
            is no package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return line(error.filename, error.lineno, error.text)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _belongs(Path(frame.filename), module)]
    return line(own[-1].filename, own[-1].lineno, own[-1].line) if own else ""


def _belongs(path: Path, module: str) -> bool:
    """Say whether a file is the author's."""
    top = module.partition(".")[0]
    found = sys.modules.get(module if top == __name__.partition(".")[0] or top == "mmbench" else top)
    origin = Path(getattr(found, "__file__", None) or _origin(top) or os.devnull)
    if origin.name == "__init__.py":
        return path.is_relative_to(origin.parent)
    return path == origin or (path.parent == origin.parent and not (origin.parent / "__init__.py").is_file())


def line_of_class(cls: type[Any]) -> str:
    """Return where a class is defined."""
    try:
        lines, number = inspect.getsourcelines(cls)
        return line(inspect.getfile(cls), number, lines[0])
    except (OSError, TypeError):  # typed in, not written to a file
        return f"{cls.__module__}.{cls.__qualname__}"


def line_of_setting(cls: type[Any], name: str) -> str:
    """Return where a dataclass gives a field, or where it is defined itself."""
    for owner in cls.__mro__:
        if name not in inspect.get_annotations(owner):
            continue
        try:
            lines, first = inspect.getsourcelines(owner)
            nodes = ast.walk(ast.parse(textwrap.dedent("".join(lines))))
        except (OSError, TypeError, SyntaxError):  # typed in, or a part of a line
            return line_of_class(owner)
        for node in nodes:
            if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == name:
                return line(inspect.getfile(owner), first + node.lineno - 1, lines[node.lineno - 1])
    return line_of_class(cls)


def told(error: BaseException, source: Source) -> str:
    """Return what is wrong with a source, and in which line."""
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    if not isinstance(error, DataError):
        what = f"{type(error).__name__}: {what}"
    elif not line_of(error, source.module):
        return what  # it says where
    return f"{line_of(error, source.module) or source.location}: {what}"
