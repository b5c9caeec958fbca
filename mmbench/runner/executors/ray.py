"""Workers as tasks of Ray Core (the extra ``ray``): on this machine, or on a cluster by its address."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from mmbench.methods.config import ConfigError
from mmbench.runner.executors.worker import run_worker
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError

PATIENCE = 10.0
"""Seconds in which the head of a cluster has to answer."""


class RayExecutor:
    """Starts tasks of Ray.

    Args:
        trials: How many trials there are.
        jobs: How many tasks; 0 for as many as the cluster holds.
        address: Of the cluster, such as ``ray://head:10001`` or ``auto``; empty starts Ray on this machine.
        cpu: Whether they compute on the CPU.
        per_gpu: Tasks that share a GPU.
        devices: GPUs, or cores, of one trial.

    Raises:
        ConfigError: When Ray is not there, or no cluster at the address.
    """

    name, one_machine = "ray", False

    def __init__(
        self, trials: int, jobs: int = 0, address: str = "", cpu: bool = False, per_gpu: int = 1, devices: int = 1
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--executor ray needs the library ray: pip install 'mmbench[ray]'.") from error
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        host, _, port = address.rpartition("://")[2].rpartition(":")
        try:
            if port.isdecimal():  # Ray itself tries for minutes
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            ray.init(
                address=address or "local", log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"There is no Ray cluster at {address or 'this machine'}: {error}") from error
        self._ray: Any = ray
        self.address = address
        found = ray.cluster_resources()
        gpus, cores = int(found.get("GPU", 0)), max(1, int(found.get("CPU", 1)))
        self.gpus = 0 if cpu else gpus
        self.per_gpu, self.devices = per_gpu, devices
        most = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if self.gpus and devices > most:
            raise ConfigError(f"--devices is {devices}, and no machine of the Ray cluster has more than {most} GPUs.")
        self.jobs = max(1, min(trials, jobs or (self.gpus * per_gpu or cores) // devices))
        # A task has to fit on one machine.
        largest = max(int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"])
        self.threads = max(1, min(cores // self.jobs, largest))
        self._beside = max(1, largest // self.threads)

    @property
    def text(self) -> str:
        """What will be used, in a line."""
        where = f"the Ray cluster at {self.address}" if self.address else "Ray on this machine"
        gpus = f"{self.devices} GPUs each" if self.devices > 1 else f"{self.per_gpu} per GPU"
        share = gpus if self.gpus else f"{self.threads} core{'s' * (self.threads > 1)} each"
        return f"{self.jobs} tasks on {where}, {share}"

    def start(self, plan: SharedPlan) -> RayWorkers:
        """Start the tasks."""
        task = self._ray.remote(
            num_cpus=self.threads,
            num_gpus=self.devices / self.per_gpu if self.gpus else 0,
            max_retries=0,  # whoever else works on the plan takes what a worker leaves
        )(run_worker)
        threads = 0 if self.gpus else max(1, self.threads // self.devices)
        return RayWorkers(
            self._ray,
            [
                task.remote(plan.folder.absolute(), f"task{number}", threads, self._beside)
                for number in range(self.jobs)
            ],
        )


class RayWorkers:
    """Tasks of Ray.

    Args:
        ray: The library, connected.
        tasks: References to their ends.
    """

    def __init__(self, ray: Any, tasks: list[Any]) -> None:
        self._ray, self.tasks = ray, tasks
        self._error = ""

    def alive(self) -> bool:
        """Say whether any of them runs or waits."""
        ended, self.tasks = (
            self._ray.wait(self.tasks, num_returns=len(self.tasks), timeout=0) if self.tasks else ([], [])
        )
        for task in ended:
            try:
                self._ray.get(task)
            except Exception as error:  # what ended a worker that says nothing of it
                self._error = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return bool(self.tasks)

    def end(self) -> None:
        """End them, and the connection; a Ray that was started here ends with it."""
        for task in self.tasks:
            self._ray.cancel(task)
        self._ray.wait(self.tasks, num_returns=len(self.tasks), timeout=10) if self.tasks else None
        self._ray.shutdown()

    def go_on_alone(self) -> bool:
        """They end with the command: Ray ends the tasks of a driver that has gone."""
        return False

    def silent(self) -> MachineError:
        """Return what is said when all have ended and none began."""
        return MachineError(
            f"No task of Ray has begun to work: {self._error or 'the cluster ended them'}. Its machines need the same "
            "code, installed at the same place, and the folders of this command.",
            everything=True,
        )
