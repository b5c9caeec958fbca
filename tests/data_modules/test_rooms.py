"""The rooms of the data floor: which may import from which."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "data_modules"
ORDER = (
    ("schema", "files"),
    ("budget", "names", "card", "libraries", "plugins"),
    ("transfer",),
    ("store",),
    ("features", "toy"),
    ("importers",),
    ("batches",),
    ("datasets",),
    ("formats", "downloads", ""),
)
"""From the bottom up; the last is the package itself. What is named together does not import each other."""
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def modules() -> dict[str, Path]:
    """Return the files of the data floor by dotted name, packages by that of their folder."""
    named = {path: path.relative_to(ROOT.parent).with_suffix("").parts for path in ROOT.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in named.items()}


def imports() -> dict[str, set[str]]:
    """Return by module of the data floor what it imports, inside of functions too."""
    known, found = modules(), {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, path
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= {name if name in known else str(node.module) for name in names}
    return found


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def test_every_module_has_its_room() -> None:
    assert {room(module) for module in modules()} == set(FLOOR)


def test_a_room_imports_only_from_rooms_below() -> None:
    for module, others in imports().items():
        for other in others & set(modules()):
            assert room(other) == room(module) or FLOOR[room(other)] < FLOOR[room(module)], (module, other)


def test_data_sets_do_not_import_each_other() -> None:
    for module, others in imports().items():
        if room(module) == "datasets":
            own = set(module.split(".")[2:3])
            assert {other.split(".")[2] for other in others if room(other) == "datasets"} <= own, module


def test_no_module_leads_back_to_itself() -> None:
    """Packages count too: what lies in one imports from the modules beside it and not from the package."""
    links = {module: others & set(modules()) for module, others in imports().items()}
    done: set[str] = set()
    while ready := {module for module, others in links.items() if others <= done} - done:
        done |= ready
    assert links.keys() == done


def test_the_data_floor_knows_nothing_of_the_floors_above() -> None:
    for module, others in imports().items():
        assert not {name.partition(".")[0] for name in others} & {"mmbench", "benchmarks", "tests"}, module
