"""``mmbench cost``: what methods cost, each measured alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from mmbench.cli.common import add_leaderboard, console, own_folder, say
from mmbench.cli.run import add_benchmarks, add_rows, print_settings

if TYPE_CHECKING:
    from mmbench.runner.costs import MethodCost


def fill_cost(parser: ArgumentParser) -> None:
    """Add the arguments of ``cost``."""
    add_rows(parser)
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator")
    add_leaderboard(parser)
    add_benchmarks(parser)


def cost(arguments: Namespace) -> int:
    """Measure one row after the other, each in a new process, store what was found and print it."""
    if "help" in arguments.dotted["method"]:
        return print_settings(arguments.method)
    from mmbench.methods import ConfigError
    from mmbench.runner.costs import BUSY, Costs, measure_alone
    from mmbench.runner.environment import check_machine
    from mmbench.runner.plan import make_plan
    from mmbench.runner.settings import benchmarks_folder, find_suite

    folder = own_folder(arguments.leaderboard)
    benchmarks = benchmarks_folder(arguments.benchmarks)
    suite = find_suite(benchmarks, arguments.suite)
    check_machine(arguments.accelerator, suite.training.precision, "csv")
    trials, left_out = make_plan(
        dataclasses.replace(suite, seeds=suite.seeds[:1]),
        dataset=arguments.dataset or suite.dataset,
        methods_wanted=arguments.method,
        folds=[0],
        path=arguments.store,
        overrides=arguments.dotted["method"],
        benchmarks=benchmarks,
    )
    for name, why in left_out.items():
        say(f"{name} is left out: {why}.")
    if not trials:
        raise ConfigError("No method fits these data: nothing to measure.")
    costs, found, failed = Costs(folder / "costs"), [], False
    for number, trial in enumerate(trials, 1):
        say(f"[{number}/{len(trials)}] {trial.label}", style="dim")
        try:
            one = measure_alone(trial, arguments.accelerator)
        except RuntimeError as error:  # of the method; the others are measured all the same
            say(f"{trial.label} was not measured: {error}", style="red")
            failed = True
            continue
        costs.write(one)
        found.append((trial.label, one))
        if not one.alone:
            say(
                f"Other processes used {one.others:.0%} of the processors meanwhile (at most {BUSY:.0%} may be): times "
                "are too long. The table says so; measure again when the machine is idle.",
                style="yellow",
            )
    if found:
        _print(found)
        say(f"Written below {costs.root / trials[0].track}")
    return int(failed)


def _print(found: list[tuple[str, MethodCost]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    for head in ("parameters", "MMAC", "s / epoch", "s / 1000", "MB"):
        table.add_column(head, justify="right", no_wrap=True)
    for label, one in found:
        memory = "?" if one.memory is None else f"{one.memory / 1e6:,.0f}"
        numbers = (f"{one.macs / 1e6:,.3g}", f"{one.seconds_per_epoch:.3g}", f"{one.seconds_to_predict:.3g}", memory)
        table.add_row(label, f"{one.parameters:,}", *numbers)
    console.print(table)
