"""What lies in ``mmbench.nn`` serves several methods; what serves one lies in the folder of that method."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

import pytest

from mmbench.methods import methods
from mmbench.runner.code import ROOT

SMALL_HOUSE = {
    "nn/__init__.py": "",
    "nn/part.py": "",
    "nn/shared.py": "",
    "methods/base.py": "",
    "methods/one/__init__.py": "from mmbench.nn.shared import y",
    "methods/one/network.py": "",
    "methods/two.py": "from mmbench.nn import shared",
}
"""A part that nobody uses, and one that two methods use."""


def imported(path: Path) -> set[str]:
    """Return the last names of the modules of ``mmbench.nn`` that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.split(".")[2] for name in names if name.startswith("mmbench.nn.")}


def users(package: Path, keys: Collection[str]) -> dict[str, set[str]]:
    """Return by module of ``mmbench.nn`` the methods that use it, directly or through others of these modules.

    What is no method (the contract, and what stands above) uses a part for all of them.
    """
    parts = {path.stem: imported(path) for path in (package / "nn").glob("*.py") if path.stem != "__init__"}
    found: dict[str, set[str]] = {part: set() for part in parts}
    for path in package.rglob("*.py"):
        floor, *names = path.relative_to(package).with_suffix("").parts
        if floor == "nn":
            continue
        who = {names[0]} if floor == "methods" and names[0] in keys else set(keys)
        ahead = imported(path) & parts.keys()
        while ahead:
            part = ahead.pop()
            if not who <= found[part]:
                found[part] |= who
                ahead |= parts[part] & parts.keys()
    return found


def test_every_part_serves_several_methods() -> None:
    found = users(ROOT / "mmbench", methods())
    assert {part: who for part, who in found.items() if len(who) < 2} == {}, "move these to the folder of their method"
    assert found["branches"] == {"vsd", "mv2d"}
    assert found["text"] == set(methods()), "the contract uses it"


@pytest.mark.parametrize(
    ("file", "text", "who"),
    [
        ("methods/two.py", "", set()),
        ("methods/one/network.py", "from mmbench.nn.part import x", {"one"}),
        ("methods/one/network.py", "def late():\n    import mmbench.nn.part", {"one"}),
        ("methods/two.py", "from mmbench.nn import part", {"two"}),
        ("nn/shared.py", "from mmbench.nn.part import x", {"one", "two"}),
        ("methods/base.py", "from mmbench.nn.part import x", {"one", "two"}),
    ],
)
def test_users_are_found(tmp_path: Path, file: str, text: str, who: set[str]) -> None:
    for name, content in {**SMALL_HOUSE, file: text}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert users(tmp_path, ("one", "two"))["part"] == who
