"""Methods and data sets outside the repository: the README's, and what goes wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
Named = Callable[..., None]
SECTION = r"## {}\n(.*?)\n## "


def blocks(section: str) -> list[str]:
    """Return the code blocks of a section of the README, with their language: ``python\\n...``, ``\\n...``."""
    (text,) = re.findall(SECTION.format(section), (ROOT / "README.md").read_text(), re.DOTALL)
    return re.findall(r"```(.*?)```", text, re.DOTALL)


def python(section: str) -> list[str]:
    """Return the Python blocks of a section."""
    return [block.removeprefix("python\n") for block in blocks(section) if block.startswith("python\n")]


def commands(section: str) -> list[list[str]]:
    """Return the commands of a section, as lists of arguments."""
    lines = "".join(block for block in blocks(section) if block.startswith("\n")).splitlines()
    return [line.removeprefix("mmbench ").split() for line in lines if line]


def method_file(name: str = "my_fusion", *edits: tuple[str, str]) -> str:
    """Return the method of the README under another name, with edits."""
    (text,) = python("Add a method")
    for old, new in (("MyFusion", name.title().replace("_", "")), *edits):
        assert old in text, old
        text = text.replace(old, new)
    return text


def line_with(text: str, part: str) -> int:
    """Return the number of the last line that holds a text."""
    return max(number for number, line in enumerate(text.splitlines(), 1) if part in line)
