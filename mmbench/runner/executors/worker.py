"""What every worker does, wherever it was started."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch

from data_modules.batches.streaming import automatic_workers
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.work import EDITED, edited, work


def run_worker(folder: Path, name: str, threads: int = 0, beside: int = 1) -> bool:
    """Work on a plan until nothing is left of it, or until this process is told to end (SIGTERM, Ctrl-C).

    Then the trial that runs is given back: it goes on from its last epoch, here or elsewhere.

    Args:
        folder: The folder of the plan.
        name: Names this worker among those of the plan.
        threads: Threads to compute with; 0 leaves that to PyTorch.
        beside: How many workers share this machine, and so its processes that load media.

    Returns:
        Whether it was told to end.
    """
    plan = SharedPlan(folder)
    plan.enter()
    if threads:
        torch.set_num_threads(threads)
    devices = max(trial.devices for trial in plan.trials)
    options = replace(plan.options, media_workers=automatic_workers(beside * devices))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    with plan.reporter(name) as report:
        try:
            if apart := plan.apart():
                report(plan.trials[0], apart)
            elif changed := edited(plan.trials):
                report(changed, EDITED)
            else:
                work(plan.trials, options, report, plan.given_up)
        except KeyboardInterrupt:
            return True
    return False


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
