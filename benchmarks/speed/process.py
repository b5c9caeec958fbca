"""Measurements in processes of their own: nothing that ran before is in their memory or their caches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Failed(RuntimeError):
    """A process of a measurement failed."""


def run_python(arguments: list[str], environment: Mapping[str, str]) -> str:
    """Return what a process of Python prints.

    Args:
        arguments: What follows ``python``.
        environment: Variables that it has beside those of this process.

    Raises:
        Failed: With the end of what it said.
    """
    child = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        said = (child.stderr or child.stdout)[-2000:] or "it said nothing; where memory runs out, systems kill"
        raise Failed(f"python {' '.join(arguments)} failed with {child.returncode}: {said}")
    return child.stdout
