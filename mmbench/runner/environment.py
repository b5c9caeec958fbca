"""Where trials run: what a record says of the machine, and whether the machine can do what is asked."""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from mmbench.methods import ConfigError
from mmbench.runner.facts import Environment
from mmbench.runner.training import SILENT, one_device_trainer, quiet

Tracker = Literal["csv", "wandb", "tensorboard"]
"""Where curves go while training; the table in CSV is always there."""
CPUINFO = Path("/proc/cpuinfo")
HOUSE = Path(__file__).parents[2]
CODE = ("mmbench", "data_modules", "benchmarks")
"""What of the repository decides a result."""


def environment(device: torch.device | None = None) -> Environment:
    """Return where and when a trial ran.

    Args:
        device: What trained; by default the CPU.
    """
    commit, clean = _commit()
    return Environment(
        python=platform.python_version(),
        torch=version("torch"),
        lightning=version("lightning"),
        torchmetrics=version("torchmetrics"),
        numpy=version("numpy"),
        processor=_processor(),
        simd=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else "",
        threads=torch.get_num_threads(),
        date=now(),
        commit=commit,
        clean=clean,
    )


def now() -> str:
    """Return the time in UTC, ISO 8601 to the microsecond: texts in order are times in order."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


@cache
def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(), re.M) if CPUINFO.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


@cache
def _commit() -> tuple[str, bool | None]:
    """Return the commit of the repository and whether its code is unchanged; nothing where there is no repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(HOUSE), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        # An installed package may lie in a repository of somebody else, which does not track it.
        git("ls-files", "--error-unmatch", "mmbench/__init__.py")
        present = [name for name in CODE if (HOUSE / name).exists()]
        return git("rev-parse", "HEAD"), not git("status", "--porcelain", "--", *present)
    except (OSError, subprocess.SubprocessError):
        return "", None


def check_devices(accelerator: str, devices: int, per_gpu: int, executor: str) -> None:
    """Check, before anything is planned, that a trial can have as many devices as are asked for.

    Raises:
        ConfigError: When it cannot; the message says what there is.
    """
    if devices > 1 and per_gpu > 1:
        raise ConfigError(f"--devices {devices} gives a trial several GPUs and --per-gpu {per_gpu} a share of one.")
    gpus = torch.cuda.device_count()
    if executor == "local" and accelerator != "cpu" and gpus and devices > gpus:
        raise ConfigError(f"--devices is {devices}, and this machine has {gpus} GPU{'s' * (gpus > 1)}: give fewer.")


def check_nodes(nodes: int, executor: str) -> None:
    """Check, before anything is planned, that a trial can go over several machines.

    Raises:
        ConfigError: When it cannot; the message says where it could.
    """
    if nodes < 1:
        raise ConfigError(f"--nodes is {nodes}: give how many machines a trial is spread over, 1 or more.")
    if nodes > 1 and executor != "slurm":
        raise ConfigError(
            f"--nodes {nodes} needs --executor slurm, which gives a trial several machines at a time: add that, or "
            "give --devices alone."
        )


def check_machine(accelerator: str, precision: str, tracker: Tracker) -> None:
    """Check, before anything is planned, that the machine can do what is asked.

    Raises:
        ConfigError: When it cannot; the message says what it lacks.
    """
    if tracker != "csv" and importlib.util.find_spec(tracker) is None:
        raise ConfigError(
            f"--logger {tracker} needs the library {tracker}, which is not installed: pip install {tracker}."
        )
    try:
        with quiet():
            one_device_trainer(accelerator, precision=precision, **SILENT)
    except Exception as error:  # whatever Lightning says of a device that is not there
        raise ConfigError(
            f"This machine cannot train with --accelerator {accelerator} --precision {precision}: {error}"
        ) from error
