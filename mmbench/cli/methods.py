"""``mmbench list``, ``check`` and ``predict``: what there is, whether it still gives its numbers, and what it says."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from mmbench.cli.common import Handler, console
from mmbench.cli.run import complain

SHOWN = 20
"""Predictions that are printed; a table holds all of them."""


def add_list(commands: Any, handlers: dict[str, Handler]) -> None:
    """Add ``list``."""
    parser = ArgumentParser(description="What there is, what fits what, how faithful it is and what it needs.")
    parser.add_argument("what", choices=["methods", "datasets", "suites"], help="what to list")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), help="folder with suites")
    commands.add_subcommand("list", parser)
    handlers["list"] = list_things


def add_check(commands: Any, handlers: dict[str, Handler]) -> None:
    """Add ``check``."""
    parser = ArgumentParser(description="Run the suite `ci` and compare it with the committed numbers.")
    parser.add_argument("--suite", default="ci", help="suite to run")
    parser.add_argument("--accept", action="store_true", help="make the numbers of this run the committed ones")
    parser.add_argument("--method", nargs="+", default=[], help="only these methods")
    parser.add_argument("--store", type=Path | None, default=None, help="the store, if not in its usual place")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0 for one per GPU or core")
    parser.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), help="folder of suites and baselines")
    commands.add_subcommand("check", parser)
    handlers["check"] = check


def add_predict(commands: Any, handlers: dict[str, Handler]) -> None:
    """Add ``predict``."""
    parser = ArgumentParser(description="Say what a trained method predicts for every sample of a store.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="file under runs/<trial id>/")
    parser.add_argument("--data", type=Path, required=True, help="store with the features it was trained on")
    parser.add_argument("--out", type=Path | None, default=None, help="table to write (CSV); by default none")
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator")
    commands.add_subcommand("predict", parser)
    handlers["predict"] = predict


def list_things(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Print methods, data sets or suites."""
    from mmbench.listing import listing

    rows = listing(arguments.what, arguments.benchmarks)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    columns = [column for column in rows[0] if column != "bring"] if rows else []
    table = Table(*columns)
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(", ".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in cells))
    console.print(table)
    for row in rows:
        if "bring" in row:
            console.print(f"{row['dataset']}: {row['bring']}", markup=False, highlight=False, soft_wrap=True)
    return 0


def check(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Run a suite anew and compare it with the committed numbers."""
    from mmbench.runner.check import compare, load_baseline, numbers, save_baseline
    from mmbench.runner.launch import Options, automatic_jobs, launch
    from mmbench.runner.plan import make_plan
    from mmbench.runner.settings import find_suite

    suite = find_suite(arguments.benchmarks, arguments.suite)
    path = arguments.benchmarks / "baselines" / f"{suite.name}.json"
    baseline = {} if arguments.accept else load_baseline(path)
    trials, _ = make_plan(
        suite,
        dataset=suite.dataset,
        methods_wanted=arguments.method,
        path=arguments.store,
        benchmarks=arguments.benchmarks,
    )
    with tempfile.TemporaryDirectory() as folder:
        jobs = arguments.jobs or automatic_jobs(len(trials))
        options = Options(Path(folder, "leaderboard"), Path(folder, "runs"), jobs=jobs)
        ran = launch(trials, options, console)
    if ran.troubles or ran.unfinished:
        return complain(ran)
    found = numbers(ran.records)
    if arguments.accept:
        save_baseline(path, found, arguments.method or None)
        console.print(f"{path} has {len(found)} new rows.", markup=False)
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
    from data_modules.files import atomic_path
    from mmbench.methods import ConfigError
    from mmbench.runner.predict import predict as predictions

    if arguments.out and arguments.out.is_dir():
        raise ConfigError(f"{arguments.out} is a folder: give the table to write, such as predictions.csv.")
    table = predictions(arguments.checkpoint, arguments.data, accelerator=arguments.accelerator)
    shown = Table("id", *map(str, table.columns))
    for row in table.head(SHOWN).itertuples():
        shown.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    console.print(shown)
    if arguments.out:
        with atomic_path(arguments.out) as part:
            table.to_csv(part)
        console.print(f"Wrote {len(table)} predictions to {arguments.out}.", markup=False, soft_wrap=True)
    elif len(table) > SHOWN:
        console.print(f"{SHOWN} of {len(table)} predictions; give --out for all of them.")
    return 0
