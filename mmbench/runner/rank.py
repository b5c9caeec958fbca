"""The place of a process in a training over several devices, as Lightning is told of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import find_free_network_port


@dataclass(frozen=True)
class Rank:
    """The place of a process in a training, on one machine or on several with as many processes each.

    Attributes:
        number: From 0, those of a machine one after the other.
        world: Number of processes.
        nodes: Number of machines.
        address: Where they meet: the name of the first machine.
        port: The port there.
    """

    number: int = 0
    world: int = 1
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def first(cls, world: int, nodes: int = 1, address: str = "127.0.0.1") -> Rank:
        """Return the place of the process that starts the others, with a port that is free."""
        return cls(0, world, nodes, address, find_free_network_port() if world > 1 else 0)

    @property
    def per_node(self) -> int:
        """Number of processes of a machine."""
        return self.world // self.nodes

    def beside(self, node: int) -> list[Rank]:
        """Return the places of a machine but this one's own."""
        numbers = range(node * self.per_node, (node + 1) * self.per_node)
        return [replace(self, number=number) for number in numbers if number != self.number]


class RankEnvironment(ClusterEnvironment):
    """Tells Lightning the place of this process, which nobody but this project has started."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self.rank = rank

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        """The machine where the processes meet."""
        return self.rank.address

    @property
    def main_port(self) -> int:
        """The port where the processes meet."""
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
        """Return the place among the processes of this machine."""
        return self.rank.number % self.rank.per_node

    def node_rank(self) -> int:
        """Return the number of this machine."""
        return self.rank.number // self.rank.per_node
