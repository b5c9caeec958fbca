"""Put in every known bug, one at a time, and see who notices: ``python -m tests.injections [NAME ...]``.

First the rows that bugs touch are trained without any, on this machine, and become the baseline of this run; then with
each bug, and compared exactly. What the check does not notice goes to the tests that are named. Results are kept as
they come, and the same command continues; it ends with a table, and fails when a bug can no longer be put in, when
nobody notices one, or when the check notices fewer than it has to.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mmbench.runner.environment import environment
from tests.injections.bug import ROOT, Bug
from tests.injections.bugs import BUGS

BY_CHECK = 35
"""How many bugs the check alone has to notice."""


def main() -> int:
    """Run what is left and say how it went."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="bugs, by a part of their names; by default all")
    parser.add_argument("--folder", type=Path, default=Path("build/injections"), help="where results are kept")
    arguments = parser.parse_args()
    chosen = [bug for bug in BUGS if not arguments.names or any(name in bug.name for name in arguments.names)]
    if flaws := [flaw for bug in chosen if (flaw := bug.flaw())]:
        print("\n".join(flaws))
        return 1
    here = [path.read_text("utf-8") for path in _sources(chosen)]
    folder = arguments.folder / _digest([*here, *dataclasses.replace(environment(), threads=1).rounding])
    folder.mkdir(parents=True, exist_ok=True)
    _accept(chosen, folder)
    found = {bug.name: _noticed(bug, folder) for bug in chosen}
    by_check = sum(where == "check" for where in found.values())
    for name, where in found.items():
        print(f"{where or 'NOBODY':8} {name}")
    print(f"{len(found)} bugs: {by_check} noticed by the check, {sum(map(bool, found.values()))} by check and tests.")
    return int(not all(found.values()) or (not arguments.names and by_check < BY_CHECK))


def _sources(bugs: Sequence[Bug]) -> list[Path]:
    """Return what decides who notices: results of other code and tests do not count."""
    code = [path for part in ("mmbench", "data_modules") for path in (ROOT / part).rglob("*.py")]
    tests = {ROOT / test.split("::")[0] for bug in bugs for test in bug.tests}
    return sorted([*code, *tests, *(ROOT / "benchmarks").glob("*/*.yaml")])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _accept(bugs: Sequence[Bug], folder: Path) -> None:
    """Make the baselines of all rows that bugs touch, without any, and see that they hold."""
    benchmarks = folder / "benchmarks"
    for part in ("suites", "methods"):
        shutil.copytree(ROOT / "benchmarks" / part, benchmarks / part, dirs_exist_ok=True)
    methods: dict[str, set[str]] = defaultdict(set)
    for suite, method in (row for bug in bugs for row in bug.rows):
        methods[suite].add(method)
    for suite, names in methods.items():
        path = benchmarks / "baselines" / f"{suite}.json"
        there = json.loads(path.read_text())["rows"] if path.is_file() else {}
        missing = sorted(names - {row.split(" ")[0] for row in there})
        for options in (["--accept"], []) if missing else ():
            print(f"{suite}: {' '.join(missing)} without a bug", flush=True)
            done = _check(folder, suite, missing, options, dict(os.environ))
            if done.returncode:
                raise SystemExit(f"The check of {suite} fails without any bug:\n{done.stdout}{done.stderr}")


def _check(
    folder: Path, suite: str, methods: Iterable[str], options: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    command = ["check", "--suite", suite, "--benchmarks", str(folder / "benchmarks"), "--method", *methods, *options]
    return _run(["-m", "mmbench", *command], environment)


def _test(bug: Bug, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return _run(["-m", "pytest", "-q", "-x", "-m", "not slow and not gpu and not cluster", *bug.tests], environment)


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    one_thread = {**environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=one_thread, capture_output=True, text=True)


def _noticed(bug: Bug, folder: Path) -> str:
    """Return who noticed a bug: ``check``, ``tests``, or nobody."""
    kept = folder / f"{_digest(asdict(bug))}.json"
    if kept.is_file():
        return str(json.loads(kept.read_text())["noticed"])
    start, output, where = time.monotonic(), "", ""
    for suite, method in bug.rows:
        done = _check(folder, suite, [method], [], bug.environment())
        output += done.stdout + done.stderr
        if done.returncode:
            if "numbers moved" not in done.stdout or "status/" in done.stdout:
                raise SystemExit(f"{bug.name}: the check of {suite} did not run:\n{done.stdout}{done.stderr}")
            where = "check"
            break
    if not where and bug.tests:
        if (done := _test(bug, dict(os.environ))).returncode:
            raise SystemExit(f"{bug.name}: its tests fail without it:\n{done.stdout}{done.stderr}")
        done = _test(bug, bug.environment())
        output += done.stdout + done.stderr
        where = "tests" if done.returncode == 1 else ""
    seconds = time.monotonic() - start
    kept.write_text(json.dumps({**asdict(bug), "noticed": where, "seconds": seconds, "output": output}, indent=1))
    print(f"{where or 'NOBODY':8} {bug.name} ({seconds:.0f} s)", flush=True)
    return where


if __name__ == "__main__":
    sys.exit(main())
