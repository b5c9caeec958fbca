"""``mmbench run --estimate``: how long a plan will take."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mmbench.cli.common import console, published_records, say
from mmbench.runner.costs import Costs, MethodCost
from mmbench.runner.estimate import Key, estimate
from mmbench.runner.launch import Options
from mmbench.runner.plan import Trial
from mmbench.runner.records import Records


def print_estimate(trials: Sequence[Trial], options: Options) -> None:
    """Print how long the trials that are left will take."""
    tracks = {trial.track for trial in trials}
    shipped = published_records()
    folders = [*filter(None, [shipped]), options.records]
    costs: dict[Key, MethodCost] = {}
    for folder in folders:  # one's own, of one's own machine, before published ones
        costs |= Costs(folder.root.parent / "costs").load()[0]
    records = [record for folder in folders for record in Records(folder.root, tracks).load()[0]]
    left = [trial for trial in trials if options.kept(trial) is None]
    rows = estimate(left, costs, records)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    for head in ("trials", "s / epoch", "epochs", "minutes", "at most"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        pace = "?" if row.seconds_per_epoch is None else f"{row.seconds_per_epoch:.3g}{'' if row.measured else ' ~'}"
        epochs = f"{row.most}" if row.epochs is None else f"{row.epochs:g} of {row.most}"
        times = ("?" if seconds is None else f"{seconds / 60:.1f}" for seconds in (row.expected, row.limit))
        table.add_row(row.label, str(row.trials), pace, epochs, *times)
    console.print(table)
    expected = sum(row.expected or 0.0 for row in rows) / 3600
    limit = sum(row.limit or 0.0 for row in rows) / 3600
    say(
        f"{len(left)} of {len(trials)} trials are left: about {expected:.1f} hours of one process, at most "
        f"{limit:.1f}; by {options.jobs} processes, which may slow each other down, {expected / options.jobs:.1f}."
    )
    if any(row.seconds_per_epoch is not None and not row.measured for row in rows):
        say("~: of recorded trials, which ran beside other work; `mmbench cost` measures a method alone.")
    if unknown := [row.label for row in rows if row.seconds_per_epoch is None]:
        say(f"Without {', '.join(unknown)}, of which nobody knows: `mmbench cost` measures them.", style="yellow")
