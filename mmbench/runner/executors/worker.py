"""What every worker does, wherever it was started."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from data_modules.batches.streaming import automatic_workers
from mmbench.runner.interruption import deaf, listening
from mmbench.runner.nodes import Nodes, serve
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.trial import follow
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import EDITED, edited, exit_stuck, run_trials


def run_worker(
    folder: Path,
    name: str,
    threads: int = 0,
    beside: int = 1,
    meeting: str = "",
    leave: Callable[[bool], None] = exit_stuck,
) -> list[int]:
    """Work on a plan until nothing is left of it, or until this process is told to end by a signal.

    Then the trial that runs is given back: it goes on from its last epoch, here or elsewhere.

    Args:
        folder: The folder of the plan.
        name: Names this worker among those of the plan.
        threads: Threads to compute with; 0 leaves that to PyTorch.
        beside: How many workers share this machine, and so its processes that load media.
        meeting: Where this worker has other machines: what they know it by.
        leave: Ends this process where it waits for good; told whether another one in its place could go on.

    Returns:
        The signals by which it was told to end.
    """
    plan = SharedPlan(folder)
    plan.enter()
    if threads:
        torch.set_num_threads(threads)
    devices = max(trial.devices for trial in plan.trials) // plan.options.nodes
    options = replace(plan.options, media_workers=automatic_workers(beside * devices))
    with listening() as told, plan.reporter(name) as report, ExitStack() as stack:
        try:
            nodes = stack.enter_context(Nodes(options.nodes, plan.meeting(meeting))) if meeting else None
            if apart := plan.apart():
                report(plan.trials[0], apart)
            elif changed := edited(plan.trials):
                report(changed, EDITED)
            else:
                run_trials(plan.trials, options, report, plan.given_up, nodes, leave)
        except MachineError as error:  # of the machines of this worker
            report(plan.trials[0], error)
        except KeyboardInterrupt:
            pass
        return list(told)


def serve_worker(folder: Path, meeting: str, node: int, threads: int = 0) -> None:
    """Have processes of this machine train with those of a worker on another one, until that one ends.

    Args:
        folder: The folder of the plan.
        meeting: What the worker is known by.
        node: Number of this machine among those of the worker, from 1.
        threads: Threads to compute with; 0 leaves that to PyTorch.
    """
    deaf()  # the worker lets this machine go
    plan = SharedPlan(folder)
    plan.enter()
    if threads:
        torch.set_num_threads(threads)
    serve(plan.meeting(meeting), node, follow)
