"""Changes one module as it is imported, in this process and in all that it starts.

Python imports a module of this name at its start from the folders of ``PYTHONPATH``. The variable ``MMBENCH_INJECTION``
holds in JSON what is changed: ``module``, and the text ``old`` that occurs once in its source and ``new`` instead.
"""

import json
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader

CHANGE = json.loads(os.environ.get("MMBENCH_INJECTION", "{}"))


class ChangedSource(SourceFileLoader):
    """Compiles the changed source; neither reads nor writes what is compiled already."""

    def get_code(self, fullname):
        source = self.get_data(self.path).decode()
        if source.count(CHANGE["old"]) != 1:
            raise ImportError(f"{self.path} has {CHANGE['old']!r} {source.count(CHANGE['old'])} times, not once")
        return compile(source.replace(CHANGE["old"], CHANGE["new"]), self.path, "exec", dont_inherit=True)


class Finder:
    """Finds the one module."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None) -> "ModuleSpec | None":
        if fullname != CHANGE["module"]:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        spec.loader = ChangedSource(fullname, spec.origin)
        return spec


if CHANGE:
    sys.meta_path.insert(0, Finder)
