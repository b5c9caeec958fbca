"""``mmbench run --estimate``: how long a plan will take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.table import Table
from rich.text import Text

from mmbench.cli.common import console, published_records, say
from mmbench.runner.costs import Costs, MethodCost
from mmbench.runner.environment import environment
from mmbench.runner.estimate import Key, estimate
from mmbench.runner.plan import Trial
from mmbench.runner.records import Records
from mmbench.runner.work import Options


def print_estimate(trials: Sequence[Trial], options: Options) -> None:
    """Print how long the trials that are left will take."""
    left = [trial for trial in trials if options.finished_record(trial) is None]
    if not left:
        say(f"All {len(trials)} trials are recorded: nothing is left to run.")
        return
    tracks = {trial.track for trial in left}
    sources = [options.records, *filter(None, [published_records()])]
    costs: dict[Key, MethodCost] = {}
    records, problems = [], []
    for source in sources:
        found, lines = Costs(source.root.parent / "costs").load()
        costs = found | costs  # one's own, of one's own machine, before published ones
        recorded, more = Records(source.root, tracks).load()
        records.append(recorded)
        problems += lines + more
    for line in problems:
        say(line, style="yellow")
    on_gpu = options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    rows = estimate(left, costs, records, environment(torch.device("cuda") if on_gpu else None).device)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in (["track"] if len(tracks) > 1 else []) + ["method"]:
        table.add_column(head, no_wrap=True)
    for head in ("trials", "s / epoch", "epochs", "time", "at most"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        pace = "?" if row.seconds_per_epoch is None else f"{row.seconds_per_epoch:.3g}{'' if row.measured else ' ~'}"
        epochs = f"{row.most}" if row.epochs is None else f"{row.epochs:g} of {row.most}"
        names = ([row.track] if len(tracks) > 1 else []) + [row.label]
        table.add_row(*map(Text, names), str(row.trials), pace, epochs, _span(row.expected), _span(row.limit))
    console.print(table)
    expected, limit = sum(row.expected or 0.0 for row in rows), sum(row.limit or 0.0 for row in rows)
    unknown = [row.label for row in rows if row.seconds_per_epoch is None]
    rest = f" without {', '.join(unknown)}, of which nobody knows (`mmbench cost` measures them)" if unknown else ""
    say(
        f"{len(left)} of {len(trials)} trials are left: about {_span(expected)} of one process, at most "
        f"{_span(limit)}{rest}; by {options.jobs} processes, which may slow each other down, "
        f"{_span(expected / options.jobs)}."
    )
    if any(row.seconds_per_epoch is not None and not row.measured for row in rows):
        say("~: on another machine, or beside other work; `mmbench cost` measures a method here and alone.")


def _span(seconds: float | None) -> str:
    """Return a time for people."""
    if seconds is None:
        return "?"
    return f"{seconds / 60:.1f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
