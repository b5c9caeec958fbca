"""``mmbench list``, ``check`` and ``predict``: what there is, whether it still gives its numbers, and what it says."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from mmbench.cli.common import columns, console, say
from mmbench.cli.plugins import tell_broken
from mmbench.cli.run import add_benchmarks, complain

if TYPE_CHECKING:
    from mmbench.runner.check import Baseline, Numbers
    from mmbench.runner.facts import Environment
    from mmbench.runner.plan import Trial
    from mmbench.runner.settings import Suite

SHOWN = 20
"""Predictions that are printed; a table holds all of them."""


def fill_list(parser: ArgumentParser) -> None:
    """Add the arguments of ``list``."""
    parser.add_argument("what", choices=["methods", "datasets", "suites"], help="what to list")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_benchmarks(parser)


def fill_check(parser: ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    parser.add_argument("--suite", nargs="+", default=["ci"], help="suites to run")
    parser.add_argument("--accept", action="store_true", help="make the numbers of this run the committed ones")
    parser.add_argument("--method", nargs="+", default=[], help="only these methods")
    parser.add_argument("--store", type=Path | None, default=None, help="the store, if not in its usual place")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 for one per GPU or core")
    add_benchmarks(parser)


def fill_predict(parser: ArgumentParser) -> None:
    """Add the arguments of ``predict``."""
    parser.add_argument("--checkpoint", type=Path, required=True, help="file under runs/<trial id>/")
    parser.add_argument("--data", type=Path, required=True, help="store with the features it was trained on")
    parser.add_argument("--out", type=Path | None, default=None, help="table to write (CSV); by default none")
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator")


def list_things(arguments: Namespace) -> int:
    """Print methods, data sets or suites."""
    from mmbench.listing import listing

    rows = listing(arguments.what, arguments.benchmarks)
    tell_broken()
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    for line in columns([_cells(arguments.what, row) for row in rows], console.width):
        say(line)
    if arguments.what != "suites":
        say("More of one, and how to bring or set it: `mmbench show NAME`.", style="dim")
    return 0


def _cells(what: str, row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a row for people: keys and facts, and what may be wrapped last."""
    from mmbench.listing import on

    if what == "methods":
        needs = f"; needs {', '.join(row['needs'])}" if row["needs"] else ""
        return row["method"], str(row["year"]), row["fidelity"], f"{row['title']}{needs}; on {on(row['datasets'])}"
    if what == "datasets":
        text = f"{row['title']}: {', '.join(row['modalities'])}; {len(row['methods'])} methods fit"
        return row["dataset"], row["task"], text
    methods = row["methods"] if isinstance(row["methods"], str) else ", ".join(row["methods"])
    seeds = ", ".join(map(str, row["seeds"]))
    text = f"{row['title']}; at most {row['max_epochs']} epochs, seeds {seeds}; methods: {methods}"
    return row["suite"], row["dataset"], text


def check(arguments: Namespace) -> int:
    """Run suites anew and compare them with the committed numbers."""
    from mmbench.methods import ConfigError
    from mmbench.runner.check import load_baseline, numbers, save_baseline
    from mmbench.runner.executors.local import automatic_jobs
    from mmbench.runner.launch import launch
    from mmbench.runner.settings import PACKAGE, benchmarks_folder, find_suite
    from mmbench.runner.work import Options

    benchmarks = benchmarks_folder(arguments.benchmarks)
    if arguments.accept and benchmarks.is_relative_to(PACKAGE):
        raise ConfigError("The numbers of an installed package stay as they are: run from the repository.")
    if arguments.store and len(arguments.suite) > 1:
        raise ConfigError("A store is of one suite: name one with --suite, or leave --store away.")
    suites = [find_suite(benchmarks, name) for name in arguments.suite]
    paths = {suite.name: benchmarks / "baselines" / f"{suite.name}.json" for suite in suites}
    baselines = {name: None if arguments.accept else load_baseline(path) for name, path in paths.items()}
    plans = {suite.name: _plan(suite, arguments, benchmarks) for suite in suites}
    tell_broken()
    trials = [trial for plan in plans.values() for trial in plan]
    if not trials and arguments.method:
        raise ConfigError(f"Nothing to check: {', '.join(arguments.method)} is in none of these suites.")
    if not trials:  # each was left out, and why is said
        return 0
    with tempfile.TemporaryDirectory() as folder:
        jobs = arguments.jobs or automatic_jobs(len(trials))
        options = Options(Path(folder, "leaderboard"), Path(folder, "runs"), jobs=jobs, threads=1)
        ran = launch(trials, options, console)
    if ran.troubles or ran.unfinished:
        return complain(ran)
    moved: list[str] = []
    for name, plan in plans.items():
        ids = {trial.id for trial in plan}
        records = [record for record in ran.records if record.id in ids]
        found, baseline = numbers(records), baselines[name]
        if not records:
            continue
        if baseline is None:
            save_baseline(paths[name], found, records[0].environment, arguments.method or None)
            say(f"{paths[name]} has {len(found)} new rows.")
        else:
            if _compare(name, found, baseline, records[0].environment, bool(arguments.method)):
                moved.append(name)
    if moved:
        console.print(f"If the change is wanted: mmbench check --suite {' '.join(moved)} --accept.", soft_wrap=True)
    return int(bool(moved))


def _plan(suite: Suite, arguments: Namespace, benchmarks: Path) -> list[Trial]:
    """Return the trials of a suite; none, and why, where its data are not there and need not be."""
    from mmbench.runner.plan import make_plan
    from mmbench.runner.store_paths import is_there

    if suite.optional and not arguments.store and not is_there(suite.dataset):
        say(f"{suite.name} is left out: there is no store of {suite.dataset}.")
        return []
    wanted = [name for name in arguments.method if not suite.methods or name in suite.methods]
    if arguments.method and not wanted:
        return []
    trials, _ = make_plan(
        suite,
        dataset=suite.dataset,
        methods_wanted=wanted,
        path=arguments.store,
        benchmarks=benchmarks,
    )
    return trials


def _compare(name: str, found: Numbers, baseline: Baseline, here: Environment, partly: bool) -> bool:
    """Print what moved in a suite, and return whether anything did.

    Args:
        name: Name of the suite.
        found: Its numbers now.
        baseline: The committed ones.
        here: Where they were found.
        partly: Whether only some of its methods ran.
    """
    from mmbench.runner.check import SHARE, SPREADS, compare

    exact = baseline.exact(here)
    rows = {row: names for row, names in baseline.rows.items() if row in found} if partly else baseline.rows
    if not exact:
        say(
            f"{name}: {baseline.apart(here)}. Only means over seeds and folds are compared, within {SPREADS:g} "
            f"deviations or {SHARE:.0%}, which notices less.",
            style="yellow",
        )
    moved = compare(found, rows, exact=exact)
    if not moved:
        console.print(f"{name}: {len(found)} rows, {_count(found)} numbers: all where the baseline has them.")
        return False
    table = Table("row", "number", "run", "baseline", "now", "allowed", title=f"{name}: {len(moved)} numbers moved")
    for item in moved:
        then, now = ("none" if value is None else f"{value:.5f}" for value in (item.baseline, item.found))
        table.add_row(item.row, item.name, item.run or "mean", then, now, f"± {item.tolerance:.5f}")
    console.print(table)
    return True


def _count(found: Numbers) -> int:
    return sum(len(runs) for names in found.values() for runs in names.values())


def predict(arguments: Namespace) -> int:
    """Print the first predictions, and write all of them."""
    from mmbench.runner.predict import check_table, write_table
    from mmbench.runner.predict import predict as predictions

    if arguments.out:
        check_table(arguments.out, arguments.checkpoint, arguments.data)
    table = predictions(arguments.checkpoint, arguments.data, accelerator=arguments.accelerator)
    shown = Table("id", *map(str, table.columns))
    for row in table.head(SHOWN).itertuples():
        shown.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(shown)
    if arguments.out:
        write_table(table, arguments.out)
        say(f"Wrote {len(table)} predictions to {arguments.out}.")
    elif len(table) > SHOWN:
        console.print(f"{SHOWN} of {len(table)} predictions; give --out for all of them.")
    return 0
