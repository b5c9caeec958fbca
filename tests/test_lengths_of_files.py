"""A file of Python has a length that a reader can take in."""

from __future__ import annotations

from pathlib import Path

from tests.injections.bug import ROOT

LONGEST = 350
PLACES = ("benchmarks", "data_modules", "mmbench", "tests")


def too_long(root: Path) -> set[str]:
    """Return the files in a copy of the repository that have more lines."""
    paths = [*root.glob("*.py"), *(path for place in PLACES for path in (root / place).rglob("*.py"))]
    lengths = {path.relative_to(root).as_posix(): len(path.read_bytes().splitlines()) for path in paths}
    return {name for name, lines in lengths.items() if lines > LONGEST}


def test_no_file_is_too_long() -> None:
    assert sorted(too_long(ROOT)) == [], f"more than {LONGEST} lines: split them by subject"


def test_what_is_too_long_is_found(tmp_path: Path) -> None:
    for name, lines in (
        ("setup.py", 351),
        ("tests/nn/test_a.py", 351),
        ("tests/nn/test_b.py", 350),
        (".venv/c.py", 999),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n" * lines)
    assert too_long(tmp_path) == {"setup.py", "tests/nn/test_a.py"}
