"""What a source file does, spelled alike on every Python: without comments, layout and texts that only describe.

``ast.dump`` and ``ast.unparse`` change between versions of Python, so the walk is our own.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from typing import Any

CARD = ("title", "authors", "year", "fidelity", "venue", "arxiv", "code", "deviations", "findings", "published")
DESCRIBED = {"MethodCard": {name: place for place, name in enumerate(CARD)}, "setting": {"text": 1}}
"""The arguments that only describe, and their places, by what is called; what a method needs is none of them."""
SILENT = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of syntax that say nothing, or that only some versions fill."""


def digest(tree: ast.Module, texts: Collection[str] = ()) -> str:
    """Return a hash of what a file does.

    Args:
        tree: The file.
        texts: Names whose assignments do not count.
    """
    total = hashlib.sha256()
    for statement in tree.body:
        if not idle(statement) and not _gives(statement, texts):
            for word in spell(statement):
                total.update(f"{word}\n".encode())
    return total.hexdigest()


def spell(tree: ast.AST) -> Iterator[str]:
    """Yield the words of a tree, in order, without recursion: sources nest deeply."""
    stack: list[Any] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
            continue
        stack.append(")")
        for name, value in reversed(list(fields(item))):
            if isinstance(value, list):
                stack += ["]", *[_word(part) for part in reversed(value)], f"{name}["]
            else:
                stack += [_word(value), f"{name}="]
        yield f"{type(item).__name__}("


def fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a node that decide what it does; those that are empty are missing in some versions."""
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(node, ast.Constant) and name == "value":
            yield name, [f"{type(value).__name__}:{_constant(value)}"]
            continue
        if isinstance(node, ast.Call):
            value = _without_texts(node, name, value)
        if isinstance(node, ast.JoinedStr):
            value = _merged(node.values)
        if isinstance(value, list):
            value = [part for part in value if not idle(part)]
        if name not in SILENT and value is not None and value != []:
            yield name, value


def _word(value: Any) -> Any:
    """Return a node as it is and anything else as a word."""
    return value if isinstance(value, ast.AST) else ascii(value)


def _constant(value: Any) -> str:
    """Return a constant in letters that no version of Python or Unicode writes differently."""
    return hex(value) if type(value) is int else ascii(value)


def idle(node: Any) -> bool:
    """Say whether a statement does nothing: a docstring, ``pass`` or ``...``."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _merged(values: list[ast.expr]) -> list[ast.expr]:
    """Return the pieces of an f-string with neighbouring texts as one; how they are cut differs between versions."""
    merged: list[ast.expr] = []
    for value in values:
        if not isinstance(value, ast.Constant):
            merged.append(value)
        elif merged and isinstance(merged[-1], ast.Constant):
            merged[-1] = ast.Constant(str(merged[-1].value) + str(value.value))
        elif value.value:
            merged.append(value)
    return merged


def _called(node: ast.AST) -> str:
    """Return the name of what a node calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))


def _without_texts(node: ast.Call, name: str, value: Any) -> Any:
    """Return the function, the arguments or the keywords of a call without texts that only describe."""
    texts = DESCRIBED.get(_called(node), {})
    if name == "args":
        return [argument for place, argument in enumerate(value) if place not in texts.values()]
    if name == "keywords":
        return [keyword for keyword in value if keyword.arg not in texts]
    return value


def only_describe(tree: ast.Module, taken: Collection[str] = ()) -> set[str]:
    """Return the names that a file uses for texts that only describe, as tables of published numbers.

    Args:
        tree: The file.
        taken: Names that other files import from it, and which are none of those.
    """
    if not any(_called(node) in DESCRIBED for node in ast.walk(tree)):
        return set()
    given = {name: statement for statement in tree.body for name in assigned(statement)}
    reads = [(statement, _names(statement, decides=True)) for statement in tree.body]
    described = _names(tree) - set().union(*(names for _, names in reads))
    found: set[str] = set()
    while more := {name for name in described & given.keys() if name not in taken} - found:
        found |= more
        # What only these use is one of them, too.
        used = set().union(*(names for statement, names in reads if not _gives(statement, found)))
        described = set().union(described, *(_names(given[name]) for name in more)) - used
    return found


def assigned(statement: ast.stmt) -> set[str]:
    """Return the names that a plain assignment gives, none for any other statement."""
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    else:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else []
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return names if len(names) == len(targets) else set()


def _gives(statement: ast.stmt, names: Collection[str]) -> bool:
    """Say whether a statement only gives some of these names."""
    given = assigned(statement)
    return bool(given) and given.issubset(names)


def _names(tree: ast.AST, decides: bool = False) -> set[str]:
    """Return the names that are read in a tree: in all of it, or where it decides something."""
    names: set[str] = set()
    stack: list[Any] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store):
            names.add(item.id)
        if isinstance(item, ast.AST):
            for _, value in fields(item) if decides else ast.iter_fields(item):
                stack += value if isinstance(value, list) else [value]
    return names
