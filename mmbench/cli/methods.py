"""``mmbench list``, ``check`` and ``predict``: what there is, whether it still gives its numbers, and what it says."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from mmbench.cli.common import columns, console, say
from mmbench.cli.plugins import tell_broken
from mmbench.cli.run import add_benchmarks, complain

SHOWN = 20
"""Predictions that are printed; a table holds all of them."""


def fill_list(parser: ArgumentParser) -> None:
    """Add the arguments of ``list``."""
    parser.add_argument("what", choices=["methods", "datasets", "suites"], help="what to list")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_benchmarks(parser)


def fill_check(parser: ArgumentParser) -> None:
    """Add the arguments of ``check``."""
    parser.add_argument("--suite", default="ci", help="suite to run")
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


def list_things(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
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


def check(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Run a suite anew and compare it with the committed numbers."""
    from mmbench.methods import ConfigError
    from mmbench.runner.check import compare, load_baseline, numbers, save_baseline
    from mmbench.runner.launch import Options, automatic_jobs, launch
    from mmbench.runner.plan import make_plan
    from mmbench.runner.settings import PACKAGE, benchmarks_folder, find_suite

    benchmarks = benchmarks_folder(arguments.benchmarks)
    suite = find_suite(benchmarks, arguments.suite)
    if arguments.accept and benchmarks.is_relative_to(PACKAGE):
        raise ConfigError("The numbers of an installed package stay as they are: run from the repository.")
    path = benchmarks / "baselines" / f"{suite.name}.json"
    baseline = {} if arguments.accept else load_baseline(path)
    trials, _ = make_plan(
        suite,
        dataset=suite.dataset,
        methods_wanted=arguments.method,
        path=arguments.store,
        benchmarks=benchmarks,
    )
    tell_broken()
    with tempfile.TemporaryDirectory() as folder:
        jobs = arguments.jobs or automatic_jobs(len(trials))
        options = Options(Path(folder, "leaderboard"), Path(folder, "runs"), jobs=jobs)
        ran = launch(trials, options, console)
    if ran.troubles or ran.unfinished:
        return complain(ran)
    found = numbers(ran.records)
    if arguments.accept:
        save_baseline(path, found, arguments.method or None)
        say(f"{path} has {len(found)} new rows.")
        return 0
    if arguments.method:
        baseline = {row: names for row, names in baseline.items() if row in {trial.label for trial in trials}}
    moved = compare(found, baseline)
    if not moved:
        console.print(f"{len(found)} rows, {sum(map(len, found.values()))} numbers: all where the baseline has them.")
        return 0
    table = Table("row", "number", "baseline", "now", "allowed", title=f"{len(moved)} numbers moved")
    for item in moved:
        then, now = ("none" if value is None else f"{value:.5f}" for value in (item.baseline, item.found))
        table.add_row(item.row, item.name, then, now, f"± {item.tolerance:.5f}")
    console.print(table)
    console.print("If the change is wanted: mmbench check --accept.")
    return 1


def predict(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
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
