"""Workers as the tasks of one SLURM array job, by submitit (the extra ``slurm``).

A worker is told two minutes before its time limit, gives its trial back and is queued again; it then goes on with what
is left. One that is told to end for another reason gives its trial back and waits for its end: where SLURM preempts by
queueing again, it does so with this one. What workers print lies in the folder of the plan.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.methods.config import ConfigError
from mmbench.runner.executors.worker import run_worker, serve_worker
from mmbench.runner.interruption import deaf
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import exit_stuck

NOTICE = 120
"""Seconds before its end in which a worker is told."""
OURS = {"array", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "time", "signal", "output", "error", "wrap"}
"""Options of ``sbatch`` on which workers rest."""
ASK = 5.0
"""Seconds between two questions to SLURM."""


@dataclass(frozen=True)
class SlurmSettings:
    """What each worker asks SLURM for; empty or 0 leaves it to the cluster.

    Attributes:
        partition: Partition, or several with commas.
        minutes: Time limit of a worker in minutes, after which it is queued again; longer than an epoch.
        cpus: Cores of a worker.
        gres: Generic resources of a worker, such as ``gpu:1``.
        memory: Memory of a worker, such as ``16GB``.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that nodes must have.
        setup: Shell commands before a worker starts, such as ``module load cuda``.
        more: Further options of ``sbatch`` by name, such as ``{nice: 100}``.
    """

    partition: str = ""
    minutes: int = 240
    cpus: int = 1
    gres: str = ""
    memory: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.cpus < 1 or self.minutes < 4:
            raise ConfigError(
                f"A worker of {self.cpus} cores and {self.minutes} minutes: give at least 1 core, and 4 minutes, of "
                "which the last two are for its end."
            )
        if taken := sorted(name for name in self.more if str(name).replace("_", "-") in OURS):
            raise ConfigError(
                f"Of SLURM's options {', '.join(taken)} cannot be among `more`: --jobs and --nodes say how many "
                "workers on how many machines there are, the other settings of slurm what each asks for."
            )


class SlurmExecutor:
    """Starts the tasks of an array job.

    Args:
        jobs: How many.
        settings: What each asks for.
        nodes: Machines of each, with what it asks for on every one.

    Raises:
        ConfigError: When SLURM or submitit is not there.
    """

    name, one_machine = "slurm", False

    def __init__(self, jobs: int, settings: SlurmSettings, nodes: int = 1) -> None:
        for program in ("sbatch", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise ConfigError(
                    f"There is no SLURM here (no `{program}`): run this on a machine from which jobs are submitted, or "
                    "leave --executor away."
                )
        try:
            import submitit  # noqa: F401 # before anything is written
        except ImportError as error:
            raise ConfigError("--executor slurm needs the library submitit: pip install 'mmbench[slurm]'.") from error
        self.jobs, self.settings, self.nodes = jobs, settings, nodes

    @property
    def text(self) -> str:
        """What will be used, in a line."""
        chosen = [f"{name} {value}" for name in ("partition", "gres") if (value := getattr(self.settings, name))]
        cores = f"{self.settings.cpus} core{'s' * (self.settings.cpus > 1)}"
        what = ", ".join([cores, *chosen, f"{self.settings.minutes} minutes at a time"])
        machines = f"{self.nodes} machines with " if self.nodes > 1 else ""
        return f"{self.jobs} SLURM tasks of {machines}{what}"

    def start(self, plan: SharedPlan) -> SlurmWorkers:
        """Submit the array job."""
        import submitit

        wanted, nodes = self.settings, self.nodes
        threads = max(1, wanted.cpus * nodes // max(trial.devices for trial in plan.trials))
        executor = submitit.SlurmExecutor(folder=plan.logs)
        named = {name: getattr(wanted, name) for name in ("partition", "gres", "account", "qos", "constraint")}
        executor.update_parameters(
            job_name="mmbench",
            time=wanted.minutes,
            cpus_per_task=wanted.cpus,
            nodes=nodes,
            ntasks_per_node=1,
            array_parallelism=self.jobs,
            signal_delay_s=NOTICE,
            stderr_to_stdout=True,
            setup=list(wanted.setup),
            # Cores are not everywhere taken from the job of a step; and no machine waits for one that has failed.
            srun_args=[f"--cpus-per-task={wanted.cpus}", "--kill-on-bad-exit=1"],
            additional_parameters={"requeue": True, **wanted.more},
            **{name: value for name, value in named.items() if value},
            **({"mem": wanted.memory} if wanted.memory else {}),
        )
        try:
            with executor.batch():
                jobs = [
                    executor.submit(SlurmWorker(plan.folder.absolute(), f"task{number}", threads, nodes))
                    for number in range(self.jobs)
                ]
        except submitit.core.utils.FailedJobError as error:
            raise ConfigError(f"SLURM did not take the job: {error}".rstrip()) from error
        return SlurmWorkers([job.job_id for job in jobs], plan.logs)


class SlurmWorker:
    """A worker as submitit runs it.

    Args:
        folder: The folder of the plan.
        name: Names it among the workers of the plan.
        threads: Threads to compute with.
        nodes: Machines of this worker.
    """

    def __init__(self, folder: Path, name: str, threads: int, nodes: int) -> None:
        self.folder, self.name, self.threads, self.nodes = folder, name, threads, nodes

    def __call__(self) -> None:
        """Work on the plan; where the task has several machines, that is for the first one."""
        attempt = ".".join(filter(None, map(os.environ.get, ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))))
        meeting = f"{self.name}.{attempt}" if self.nodes > 1 else ""
        if node := int(os.environ.get("SLURM_NODEID", "0")):
            serve_worker(self.folder, meeting, node, self.threads)
            return
        # Heard in the place of submitit, which would queue again in the middle of a step: an error of SLURM would then
        # look like one of the method.
        told = run_worker(self.folder, self.name, self.threads, meeting=meeting, leave=_leave)
        deaf()
        if told:
            _end(again=signal.SIGUSR2 in told)


def _leave(again: bool) -> None:
    """End this task from another thread than the one that waits for good."""
    try:
        if again:
            _end(again)
    finally:
        exit_stuck(again)


def _end(again: bool) -> None:
    """Wait for the end of this task, which is queued again if it is to be; if not, SLURM may have done so."""
    if again:
        job, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
        own = f"{job}_{task}" if job else os.environ["SLURM_JOB_ID"]
        subprocess.run(["scontrol", "requeue", own], check=True)
    time.sleep(NOTICE)  # who ended now would have finished, and is not queued again


class SlurmWorkers:
    """Tasks of SLURM.

    Args:
        ids: Their ids.
        logs: Folder of their output.
    """

    def __init__(self, ids: list[str], logs: Path) -> None:
        self.ids, self.logs = ids, logs
        self._asked, self._alive = -ASK, True

    def alive(self) -> bool:
        """Say whether any of them runs or waits, as SLURM said a moment ago."""
        if time.monotonic() - self._asked >= ASK:
            found = subprocess.run(
                ["squeue", "--noheader", "--jobs", ",".join(self.ids)], capture_output=True, text=True
            )
            # Of jobs that are forgotten it says "Invalid job id"; where the server does not answer, nothing is known.
            self._alive = bool(found.stdout.strip()) if not found.returncode else "Invalid job id" not in found.stderr
            self._asked = time.monotonic()
        return self._alive

    def end(self) -> None:
        """Cancel those that are left."""
        if self.alive():
            subprocess.run(["scancel", *self.ids], capture_output=True)

    def go_on_alone(self) -> bool:
        """Ask whether they go on; they do where nobody can be asked."""
        first = self.ids[0].partition("_")[0]
        if sys.stdin.isatty():
            try:
                said = input(f"\nDo the SLURM tasks {first} go on without this command? [Y/n] ").strip().lower()
            except (EOFError, KeyboardInterrupt):  # whoever leaves in a hurry loses nothing
                said = ""
            if said.startswith("n"):
                return False
        print(f"The SLURM tasks {first} go on: `mmbench status` shows them, `scancel {first}` ends them.")
        return True

    def silent(self) -> MachineError:
        """Return what is said when all have ended and none began."""
        return MachineError(
            f"No SLURM task has begun to work, and none is left. Do the nodes see {os.path.abspath(self.logs)}? What "
            "they printed, if they did, lies there.",
            everything=True,
        )
