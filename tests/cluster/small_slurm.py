"""A SLURM of two nodes, both of them this machine, from the programs that are installed: started, used, and stopped."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
WAIT = 60.0
"""Seconds until it has to be there."""
CONFIGURATION = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=2
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores} State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


NEEDED = [
    pytest.mark.timeout(900),
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]
"""Marks of tests that use it."""


@contextmanager
def slurm(folder: Path, cores: int = 2) -> Iterator[dict[str, str]]:
    """Run a SLURM, and yield the environment variables by which its programs find it.

    Args:
        folder: An empty folder with a short path, for all that it writes.
        cores: As how many each node counts those of this machine; it binds nothing to them.
    """
    for name in ("state", "spool.node1", "spool.node2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    ports = [_free_port() for _ in range(3)]
    text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=folder, ports=ports, cores=cores)
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    files = {name: str(folder / f"munge.{name}") for name in ("socket", "pid", "log", "seed")}
    munge = [
        f"--{'pid-file' if name == 'pid' else name if name == 'socket' else f'{name}-file'}={path}"
        for name, path in files.items()
    ]
    with ExitStack() as stack:
        for command in (
            ["munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "node1"],
            ["slurmd", "-D", "-N", "node2"],
        ):
            stack.enter_context(_running(command, folder, variables))
            time.sleep(1.0)
        deadline = time.monotonic() + WAIT
        while set((state := _state(variables)).split()) != {"idle"}:
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
                raise RuntimeError(f"SLURM did not start ({state}):\n{logs}")
            time.sleep(0.5)
        yield variables
        subprocess.run(["scancel", "--full", "--user", "root"], env={**os.environ, **variables}, capture_output=True)


@contextmanager
def _running(command: list[str], folder: Path, variables: dict[str, str]) -> Iterator[None]:
    with (folder / f"{command[0]}.{Path(command[-1]).name}.out.log").open("w") as out:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask(node: dict[str, str], *command: str) -> str:
    """Run one of its programs, and return what it says."""
    return subprocess.run(
        command, env={**os.environ, **node}, capture_output=True, text=True, check=True
    ).stdout.strip()


def tasks(node: dict[str, str]) -> dict[str, str]:
    """Return the state of each task by its id."""
    lines = ask(node, "squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def _state(variables: dict[str, str]) -> str:
    ran = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env={**os.environ, **variables}, capture_output=True, text=True
    )
    return ran.stdout.strip() or ran.stderr.strip()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
