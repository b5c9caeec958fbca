"""``mmbench status``: how plans are doing whose workers were started elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import check_folder, say


def fill_status(parser: ArgumentParser) -> None:
    """Add the arguments of ``status``."""
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints and logs")


def status(arguments: Namespace) -> int:
    """Print a line per plan, and one per trial that runs or has failed."""
    from mmbench.runner.progress import titles
    from mmbench.runner.shared_plan import plans, state

    check_folder(arguments.runs, "--runs")
    found = plans(arguments.runs)
    if not found:
        say(f"No plan of {arguments.runs} has workers elsewhere.")
    for plan in found:
        states = {trial.id: state(trial, plan.options) for trial in plan.trials}
        counts = Counter(what for what, _ in states.values())
        line = ", ".join(f"{counts[what]} {what}" for what in ("waiting", "running", "done", "failed"))
        logs = f" What workers print: {plan.logs}." if plan.logs.is_dir() else ""
        say(f"{plan.executor}, {len(plan.trials)} trials: {line}.{logs}")
        names = titles(plan.trials)
        for key, (what, text) in states.items():
            if what in ("running", "failed"):
                say(f"  {names[key]}: {what}, {text}", style="red" if what == "failed" else "")
        for trial, trouble in plan.troubles():
            if states[trial.id][0] == "waiting":
                say(f"  {names[trial.id]}: given up by a worker, {trouble}", style="red")
        if counts["done"] + counts["failed"] == len(plan.trials):
            plan.remove()
            say("  It is complete; nothing of it is kept but records, checkpoints and logs of training.")
    return 0
