"""The ``mmbench`` command: arguments in, calls of the floors below, messages out. No logic of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from mmbench.cli_data import Handler, add_data_commands, console

PREFIXES = ("method", "data", "corruption")
SHOWN = 20
"""Predictions that are printed; a table holds all of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something failed or moved, 2 wrong use, 130 interrupted."""
    from data_modules.schema import DataError
    from mmbench.methods.config import ConfigError

    try:
        arguments, dotted = split_dotted(list(sys.argv[1:] if argv is None else argv))
        parser, handlers = build_parser()
        parsed = parser.parse_args(arguments)
        key = command(parsed)
        if any(dotted.values()) and key != "run":
            parser.error(f"--{next(name for name in dotted if dotted[name])}.* belongs to `mmbench run`.")
        return handlers[key](parsed.get(key.replace(" ", ".")), dotted)
    except (ConfigError, DataError) as error:
        Console(stderr=True).print(f"mmbench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("\nInterrupted. The same command continues where this one stopped.")
        return 130


def split_dotted(argv: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Take ``--method.<key> value``, ``--data.<key> value`` and ``--corruption.<key> value`` out of the arguments."""
    from mmbench.methods.config import ConfigError

    rest: list[str] = []
    dotted: dict[str, dict[str, str]] = {prefix: {} for prefix in PREFIXES}
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        prefix, dot, key = name.removeprefix("--").partition(".")
        if name.startswith("--") and dot and prefix in dotted:
            value = value if equals else next(items, "--")
            if value.startswith("--"):
                raise ConfigError(f"{name} needs a value.")
            dotted[prefix][key.replace("-", "_")] = value
        else:
            rest.append(item)
    return rest, dotted


def command(parsed: Namespace) -> str:
    """Return the chosen subcommands, separated by spaces."""
    names = [parsed.subcommand]
    while (inner := parsed.get(".".join(names))) is not None and inner.get("subcommand"):
        names.append(inner.subcommand)
    return " ".join(names)


def build_parser() -> tuple[ArgumentParser, dict[str, Handler]]:
    """Return the parser and, by subcommand, what it calls."""
    from mmbench import __version__

    parser = ArgumentParser(
        prog="mmbench", description="A benchmark of multimodal fusion methods.", version=__version__
    )
    commands = parser.add_subcommands(required=True)
    handlers: dict[str, Handler] = {
        "list": list_things,
        "run": run,
        "report": report,
        "check": check,
        "predict": predict,
    }

    listing = ArgumentParser(description="What there is, what fits what, how faithful it is and what it needs.")
    listing.add_argument("what", choices=["methods", "datasets", "suites"], help="what to list")
    listing.add_argument("--json", action="store_true", help="machine-readable")
    listing.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), help="folder with suites")
    commands.add_subcommand("list", listing)

    runner = ArgumentParser(
        description="Run trials, write their records, print the leaderboard. Settings of a method: --method.KEY VALUE, "
        "of the data: --data.KEY VALUE, of corruption: --corruption.KEY VALUE."
    )
    runner.add_argument("--method", nargs="+", default=[], help="methods; by default the suite's, or all that fit")
    runner.add_argument("--dataset", default="", help="data set; by default the suite's")
    runner.add_argument(
        "--store", type=Path | None, default=None, help="the data set's store, if not in its usual place"
    )
    runner.add_argument("--seeds", nargs="+", type=int, default=[], help="seeds; by default the suite's")
    runner.add_argument("--folds", nargs="+", type=int, default=[], help="folds; by default all")
    runner.add_argument("--suite", default="default", help="named defaults (`mmbench list suites`)")
    runner.add_argument("--limit", type=int, default=0, help="at most this many samples of each split; 0 for all")
    runner.add_argument(
        "--missing", nargs="+", type=float, default=[], help="rates of missing steps, a track each; see their curve"
    )
    runner.add_argument("--max-epochs", type=int, default=0, help="largest number of epochs; 0 for the suite's")
    runner.add_argument("--logger", choices=["csv", "wandb"], default="csv", help="where curves go while training")
    runner.add_argument("--accelerator", default="auto", help="Lightning's accelerator")
    runner.add_argument("--jobs", type=int, default=0, help="processes; 0 for one per GPU, or per core without GPUs")
    runner.add_argument("--retry", action="store_true", help="run failed and diverged trials again")
    runner.add_argument("--dry-run", action="store_true", help="show the plan, run nothing")
    runner.add_argument("--leaderboard", type=Path, default=Path("leaderboard"), help="folder of records and tables")
    runner.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints and logs")
    runner.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), help="folder of suites and settings")
    commands.add_subcommand("run", runner)

    reporting = ArgumentParser(description="Make the leaderboard from the records, and from nothing else.")
    reporting.add_argument("--leaderboard", type=Path, default=Path("leaderboard"), help="folder of records and tables")
    commands.add_subcommand("report", reporting)

    checking = ArgumentParser(description="Run the suite `ci` and compare it with the committed numbers.")
    checking.add_argument("--suite", default="ci", help="suite to run")
    checking.add_argument("--accept", action="store_true", help="make the numbers of this run the committed ones")
    checking.add_argument("--method", nargs="+", default=[], help="only these methods")
    checking.add_argument("--store", type=Path | None, default=None, help="the store, if not in its usual place")
    checking.add_argument("--jobs", type=int, default=0, help="processes; 0 for one per GPU or core")
    checking.add_argument("--benchmarks", type=Path, default=Path("benchmarks"), help="folder of suites and baselines")
    commands.add_subcommand("check", checking)

    predicting = ArgumentParser(description="Say what a trained method predicts for every sample of a store.")
    predicting.add_argument("--checkpoint", type=Path, required=True, help="file under runs/<trial id>/")
    predicting.add_argument("--data", type=Path, required=True, help="store with the features it was trained on")
    predicting.add_argument("--out", type=Path | None, default=None, help="table to write (CSV); by default none")
    predicting.add_argument("--accelerator", default="auto", help="Lightning's accelerator")
    commands.add_subcommand("predict", predicting)
    add_data_commands(commands, handlers)
    return parser, handlers


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


def run(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Run a plan and print its tables."""
    from data_modules.store import FeatureStore
    from mmbench.methods import ConfigError
    from mmbench.report import build, terminal_table
    from mmbench.runner.launch import Options, automatic_jobs, launch
    from mmbench.runner.plan import Trial, corruption_settings, data_settings, make_plan
    from mmbench.runner.settings import find_suite

    if not arguments.benchmarks.is_dir():
        console.print(
            f"There is no folder {arguments.benchmarks}: methods run with their built-in settings. Run from the "
            "repository or give --benchmarks for those that are shipped per data set.",
            style="yellow",
        )
    suite = find_suite(arguments.benchmarks, arguments.suite)
    training = suite.training
    if arguments.max_epochs:
        training = dataclasses.replace(training, max_epochs=arguments.max_epochs)
    data: dict[str, Any] = data_settings(dotted["data"])
    if arguments.limit:
        data["limit"] = arguments.limit
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for rate in dict.fromkeys(arguments.missing) or [None]:
        corruption = corruption_settings(dotted["corruption"] | ({} if rate is None else {"steps": rate}))
        planned, left_out = make_plan(
            suite,
            dataset=arguments.dataset or (FeatureStore(arguments.store).dataset if arguments.store else suite.dataset),
            methods_wanted=arguments.method,
            seeds=arguments.seeds,
            folds=arguments.folds,
            path=arguments.store,
            data={**data, "corruption": corruption} if corruption else data,
            training=training,
            overrides=dotted["method"],
            benchmarks=arguments.benchmarks,
        )
        trials += planned
    for method, why in left_out.items():
        console.print(f"{method} is left out: {why}.", markup=False)
    if not trials:
        raise ConfigError("No method fits these data: nothing to run.")
    if arguments.dry_run:
        for trial in trials:
            console.print(f"{trial.id}  {trial.track}  {trial.title}", markup=False, soft_wrap=True)
        return 0
    jobs = arguments.jobs or automatic_jobs(len(trials))
    options = Options(
        arguments.leaderboard, arguments.runs, arguments.logger, arguments.accelerator, jobs, arguments.retry
    )
    records = launch(trials, options, console)
    made = build(arguments.leaderboard / "records", arguments.leaderboard)
    for line in made.problems:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    everything, _ = options.records.load()
    for track in dict.fromkeys(trial.track for trial in trials):
        terminal_table(everything, track, console)
    bad = [record for record in records if record["status"] != "completed"]
    for record in bad:
        console.print(
            f"{record['label']} seed {record['seed']} fold {record['fold']} {record['status']}: "
            f"{record['error']['message']}",
            style="red",
            markup=False,
            soft_wrap=True,
        )
    if bad:
        console.print("To run these again: the same command with --retry.", style="red")
    ended = {record["id"] for record in records}
    for trial in trials:
        if trial.id not in ended:
            console.print(
                f"{trial.title} has no record: its process was ended (out of memory?). The same command continues it.",
                style="red",
                markup=False,
                soft_wrap=True,
            )
    return 1 if bad or len(records) < len(trials) else 0


def report(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Make the leaderboard from the records."""
    from mmbench.report import build

    made = build(arguments.leaderboard / "records", arguments.leaderboard)
    for path in made.files:
        console.print(str(path), markup=False, soft_wrap=True)
    for line in made.problems:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
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
        found = numbers(launch(trials, options, console))
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


if __name__ == "__main__":
    sys.exit(main())
