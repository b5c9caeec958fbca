"""The place of a process in a training over several devices, as Lightning is told of it."""

from __future__ import annotations

from dataclasses import dataclass

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port


@dataclass(frozen=True)
class Rank:
    """The place of a process in a training on this machine.

    Attributes:
        number: From 0.
        world: Number of processes.
        port: Where they meet.
    """

    number: int = 0
    world: int = 1
    port: int = 0

    @classmethod
    def first(cls, world: int) -> Rank:
        """Return the place of the process that starts the others, with a port that is free."""
        return cls(0, world, find_free_network_port() if world > 1 else 0)


class RankEnvironment(ClusterEnvironment):
    """Tells Lightning the place of this process, which nobody but this project has started."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.rank = rank

    creates_processes_externally = True
    main_address = "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Where the processes meet."""
        return self.rank.port

    @staticmethod
    def detect() -> bool:
        """It is chosen, never found."""
        return False

    def world_size(self) -> int:
        """Return the number of processes."""
        return self.rank.world

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """Return the place among all processes."""
        return self.rank.number

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Return the place among the processes of this machine, which are all."""
        return self.rank.number

    def node_rank(self) -> int:
        """Return the number of this machine."""
        return 0
