"""A hash of the code that decides a result: a method, what it imports of this project, and how it is trained.

A data set of this project has no code that decides beside the stores that it imports; one from elsewhere may do
anything with its samples, so its file counts too.

The sources are read, not run, and nothing heavy is imported to do so. Imports inside functions count, those for type
checkers do not. Of a package counts what is taken from it: ``from mmbench.metrics import SplitMetric`` leads to the
file that defines it and not to the other metrics. What is imported by a computed name cannot be seen, and a test
refuses it in these files. Other libraries are in the environment of a record.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from mmbench.methods.config import ConfigError
from mmbench.runner.syntax import assigned, digest, idle, only_describe

BASE = ("mmbench.methods.base", "mmbench.runner.training")
"""The files that train every method."""
PROJECT = ("mmbench", "data_modules")
ROOT = Path(__file__).parents[2]
ALL = "*"
"""Everything that a file defines."""
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def code_hash(method: str, dataset: str = "", root: Path = ROOT) -> str:
    """Return a hash of the code that decides the results of a method on a data set, equal on every Python.

    It is of the files as they lie there now, so ask before the first trial: what runs was imported when it began.

    Args:
        method: Key of the method.
        dataset: Key of the data set; without one, or one that is only a store, the method alone counts.
        root: Folder of this project's packages.

    Raises:
        ConfigError: When there is no such method, or a file beside a plug-in cannot be read as Python.
        DataError: When a plug-in takes the key of another data set.
        FileNotFoundError: When a source is missing.
    """
    begin, files = _begin(method, dataset, root)
    total = hashlib.sha256()
    for module, taken in sorted(_closure(begin, files).items()):
        total.update(f"{module} {files.find(module).digest(taken)}\n".encode())
    return total.hexdigest()[:16]


def code_sources(method: str, dataset: str = "", root: Path = ROOT) -> dict[str, Path]:
    """Return by dotted name where the files lie that decide such results; see :func:`code_hash`."""
    begin, files = _begin(method, dataset, root)
    return {module: files.find(module).path for module in _closure(begin, files)}


def _begin(method: str, dataset: str, root: Path) -> tuple[list[str], _Files]:
    """Return the files to begin with, and where files lie."""
    import data_modules
    from data_modules import plugins
    from mmbench.methods import method as find

    begin, places = [*BASE], dict.fromkeys(PROJECT, root)
    wanted = {f"The method {method!r}": find(method).__module__}
    known = data_modules.datasets().get(dataset)  # a store of one's own needs no class
    if known and known.__module__.partition(".")[0] not in PROJECT:
        wanted[f"The data set {dataset!r}"] = known.__module__
    for what, module in wanted.items():
        begin.append(module)
        top = module.partition(".")[0]
        if top in places:
            continue
        source = getattr(sys.modules[module], "__file__", None)
        if source is None:
            raise FileNotFoundError(f"{what} is defined in {module}, which has no source file.")
        depth = module.count(".") + Path(source).name.startswith("__init__.")
        places[top] = Path(source).parents[depth]
        if Path(source) in plugins.files():  # not of an installed package: what lies beside is the author's, too
            places = {**plugins.beside(Path(source)), **places}
    return begin, _Files(places)


def _closure(begin: Iterable[str], files: _Files) -> dict[str, set[str]]:
    """Return some files and all that they import, by dotted name, and what is taken from each."""
    found: dict[str, set[str]] = {}
    ahead = [(module, "") for module in begin]
    while ahead:
        module, name = ahead.pop()
        if module in found:
            found[module].add(name)
            continue
        found[module] = {name}
        for target, wanted in files.find(module).imports:
            ahead += _sources(target, wanted, files)
        for package in _packages(module):  # which Python runs first
            if files.path(package) and files.find(package).acts:
                ahead.append((package, ALL))
    return found


def _sources(
    module: str, name: str, files: _Files, passed: frozenset[tuple[str, str]] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Yield the files that ``from module import name`` leads to, and what it takes from them."""
    if not files.has(module) or (module, name) in passed:
        return
    path = files.path(module)
    if name != ALL and (path is None or path.name == "__init__.py"):
        source = files.find(module) if path else None
        # As Python has it: what a package defines comes before a file of that name, such as data_modules.datasets.
        if files.path(f"{module}.{name}") and not (source and name in source.own):
            yield f"{module}.{name}", ALL
            return
        passed_on = source.passed_on.get(name, ()) if source else ()
        for target, original in passed_on:
            yield from _sources(target, original, files, passed | {(module, name)})
        if passed_on:
            return
    if path is not None:
        yield module, name


def _packages(module: str) -> Iterator[str]:
    """Yield the packages around a module."""
    names = module.split(".")
    yield from (".".join(names[:end]) for end in range(1, len(names)))


class _Files:
    """The files of some packages, as they are now: each is looked for once.

    Args:
        places: The folder of every top-level package whose files count.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._places = places
        self._paths: dict[str, Path | None] = {}
        self._sources: dict[str, _Source] = {}

    def has(self, module: str) -> bool:
        """Say whether a module is of a package whose files count."""
        return module.partition(".")[0] in self._places

    def path(self, module: str) -> Path | None:
        """Return the file of a module, None when it is none of those that count."""
        if module not in self._paths:
            top, *_ = names = module.split(".")
            path = self._places[top].joinpath(*names) if top in self._places else None
            ways = (path / "__init__.py", path.with_name(f"{path.name}.py")) if path else ()
            self._paths[module] = next((file for file in ways if file.is_file()), None)
        return self._paths[module]

    def find(self, module: str) -> _Source:
        """Return what the file of a module says.

        Raises:
            FileNotFoundError: When there is none.
        """
        if module not in self._sources:
            path = self.path(module)
            if path is None:
                raise FileNotFoundError(f"There is no source of {module} in {self._places[module.partition('.')[0]]}.")
            status = path.stat()
            self._sources[module] = _read(module, path, (status.st_mtime_ns, status.st_size))
        return self._sources[module]


class _Source:
    """What a file says; its tree is large and not kept.

    Args:
        module: Its dotted name.
        path: Where it lies.
        stamp: Changes when it is edited.

    Attributes:
        imports: Modules, and the names that it takes from them.
        passed_on: By name what it imports and does not define anew, as a package does in order to give it.
        own: The names that it defines.
        acts: Whether it does more than to give names.
    """

    def __init__(self, module: str, path: Path, stamp: tuple[int, int]) -> None:
        self.path = path
        tree = self._tree()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.imports = {(target, name) for node in _run(tree) for _, target, name in _bound(node, package)}
        self.passed_on: dict[str, list[tuple[str, str]]] = {}
        self.own: set[str] = set()
        for node in _run(tree, inside=False):
            for bound, target, name in _bound(node, package):
                self.passed_on.setdefault(bound, []).append((target, name))
            self.own |= {node.name} if isinstance(node, DEFINITIONS) else assigned(node)
        for name in self.own & self.passed_on.keys():
            del self.passed_on[name]
        gives = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, *DEFINITIONS)
        self.acts = any(not isinstance(node, gives) and not idle(node) and not _checks(node) for node in tree.body)
        self._texts = only_describe(tree)
        self._usual = digest(tree, self._texts)

    def digest(self, taken: Collection[str]) -> str:
        """Return a hash of what it does.

        Args:
            taken: Names that others take from it.
        """
        if ALL not in taken and self._texts.isdisjoint(taken):
            return self._usual
        tree = self._tree()
        return digest(tree, () if ALL in taken else only_describe(tree, taken))

    def _tree(self) -> ast.Module:
        """Return what the file says.

        Raises:
            ConfigError: When it is no Python; one that is imported late can be so for long.
        """
        try:
            return ast.parse(importlib.util.decode_source(self.path.read_bytes()), str(self.path))
        except (SyntaxError, ValueError) as error:
            said = error.msg if isinstance(error, SyntaxError) else error
            number = error.lineno if isinstance(error, SyntaxError) else None
            raise ConfigError(
                f"{self.path}{f':{number}' if number else ''} cannot be read as Python: {said}"
            ) from error


_read = cache(_Source)


def _run(tree: ast.Module, inside: bool = True) -> Iterator[ast.stmt]:
    """Yield the statements that can run, with those of functions and classes or without."""
    ahead: list[ast.AST] = list(tree.body)
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, ast.If) and _checks(node):
            ahead += node.orelse
        elif not isinstance(node, ast.expr) and (inside or not isinstance(node, DEFINITIONS)):
            ahead += ast.iter_child_nodes(node)


def _bound(node: ast.stmt, package: str) -> Iterator[tuple[str, str, str]]:
    """Yield by what name an import makes a name of a module known."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], alias.name, ALL
    if isinstance(node, ast.ImportFrom):
        around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        target = ".".join([*around, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, target, alias.name


def _checks(node: ast.stmt) -> bool:
    """Say whether a statement is ``if TYPE_CHECKING``, which is false when the program runs."""
    test = node.test if isinstance(node, ast.If) else None
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"
