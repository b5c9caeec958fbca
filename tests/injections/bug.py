"""What a bug is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOOK = Path(__file__).parent / "hook"
VARIABLE = "MMBENCH_INJECTION"
METHODS, NN = "mmbench/methods", "mmbench/nn"


@dataclass(frozen=True)
class Bug:
    """A change of one place in the source that nobody wants.

    Attributes:
        name: What is wrong, in a few words.
        file: The module, relative to the repository.
        old: Text that occurs once in it.
        new: What stands there instead.
        rows: The rows of the check that it touches: ``(suite, method)``.
        tests: Files of tests that are to notice it when the check does not.
    """

    name: str
    file: str
    old: str
    new: str
    rows: tuple[tuple[str, str], ...] = ()
    tests: tuple[str, ...] = ()

    def flaw(self) -> str:
        """Return why it can no longer be put in; empty when it can."""
        path = ROOT / self.file
        count = path.read_text("utf-8").count(self.old) if path.is_file() else 0
        if count != 1:
            return f"{self.name}: {self.file} has {self.old!r} {count} times, not once"
        missing = [test for test in self.tests if not (ROOT / test.split("::")[0]).is_file()]
        return f"{self.name}: there is no {missing[0]}" if missing else ""

    def environment(self) -> Mapping[str, str]:
        """Return the variables under which Python imports the changed module."""
        module = self.file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        change = {"module": module, "old": self.old, "new": self.new}
        path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path, VARIABLE: json.dumps(change)}
