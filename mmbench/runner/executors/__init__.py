"""Where the workers of a plan start: processes of this machine, jobs of SLURM, or tasks of Ray.

An executor decides nothing else. What a worker does (``worker.py``) is the same everywhere, and so are plan, leases,
records and what a killed trial goes on from: the same command goes on with any of them.
"""

from __future__ import annotations

from typing import Protocol

from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError


class Workers(Protocol):
    """The workers that were started for a plan."""

    def alive(self) -> bool:
        """Say whether any of them works or will."""

    def end(self) -> None:
        """End them: in a while by themselves, then at once."""

    def go_on_alone(self) -> bool:
        """Ask whether they go on when the command ends; False for those that cannot."""

    def silent(self) -> MachineError:
        """Return what is said when all have ended and none began."""


class Executor(Protocol):
    """Starts workers."""

    name: str
    one_machine: bool
    """Whether what hits one worker hits all, and what one writes all see at once."""

    @property
    def text(self) -> str:
        """What will be used, in a line."""

    def start(self, plan: SharedPlan) -> Workers:
        """Start the workers of a plan, as many as its options say."""
