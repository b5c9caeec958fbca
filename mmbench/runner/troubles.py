"""What is not a method's fault, and therefore no result of the method."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

import torch

from data_modules import DataError
from mmbench.methods import ConfigError
from mmbench.runner.record import Record

HITS_ALL = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENODEV,
    errno.ENOTDIR,
}
"""Errors of files that every other trial would meet as well."""

MEMORY = re.compile(
    r"out of memory\b(?! bank)|can.t allocate memory|not enough memory|cannot allocate memory|std::bad_alloc"
    r"|DataLoader (worker .* (is killed|exited)|timed out)|can.t start new thread|CU(BLAS|DNN)_STATUS_ALLOC_FAILED",
    re.I,
)
DISK = re.compile(r"No space left on device|Too many open files|unable to open shared memory", re.I)
DEVICE = re.compile(
    r"no CUDA-capable device|CUDA driver|NVIDIA driver|devices? (is|are) busy|device unavailable|ECC error"
    r"|No CUDA GPUs are available|CUDA unknown error|CUDA initialization|Torch not compiled with CUDA"
    r"|CUBLAS_STATUS_NOT_INITIALIZED|CUDNN_STATUS_(NOT_INITIALIZED|INTERNAL_ERROR)|the launch timed out",
    re.I,
)
PORT = re.compile(r"EADDRINUSE|address already in use", re.I)
DEAD_CONTEXT = re.compile(r"device-side assert|illegal memory access|unspecified launch failure", re.I)
"""What a method can do to a GPU so that its process can compute no more on it."""


class MachineError(RuntimeError):
    """A trial ended, and its method is not to blame; it leaves no record and can be run again.

    Attributes:
        everything: Whether it hits all trials, so that going on makes no sense.
    """

    def __init__(self, message: str, everything: bool) -> None:
        super().__init__(message, everything)
        self.message, self.everything = message, everything

    def __str__(self) -> str:
        return self.message


class TakenOver(MachineError):
    """Another process has taken the trial over: what becomes of it is for that one to say."""

    def __init__(self, message: str) -> None:
        super().__init__(message, everything=False)


def machine_error(error: BaseException) -> MachineError | None:
    """Return what of the machine, the data or the command ended a trial; None when it was the method.

    Full memory and a bad option concern one trial. A full disk, a store that is gone and a device that does not answer
    concern all.
    """
    for one in _chain(error):
        text = f"{type(one).__name__}: {one}"
        if isinstance(one, MachineError):
            return one
        if isinstance(one, DataError):
            return MachineError(str(one), True)
        if isinstance(one, ConfigError):
            return MachineError(str(one), False)
        runtime = isinstance(one, RuntimeError)
        if isinstance(one, MemoryError | torch.OutOfMemoryError) or (runtime and MEMORY.search(str(one))):
            return MachineError(
                f"{text}. It did not have the memory: run fewer trials at a time (--jobs 1) or with smaller batches "
                "(--method.batch_size).",
                False,
            )
        if runtime and DISK.search(str(one)):
            return MachineError(f"{text}. Make room, or raise the limit.", True)
        if runtime and PORT.search(str(one)):
            return MachineError(f"{text}. Another program took its port: the same command continues.", False)
        if runtime and DEVICE.search(str(one)):
            return MachineError(f"{text}. The device does not answer: give another --accelerator.", True)
        if isinstance(one, OSError | EOFError):
            everything = getattr(one, "errno", None) in HITS_ALL
            if everything and type(one) is OSError and one.filename is None:  # of a file that was open already
                text += ". Free some space where it writes, or give other folders (--runs, --leaderboard)."
            return MachineError(text, everything)
        if isinstance(one, ImportError) and not str(one.name).startswith(("mmbench", "data_modules")):
            return MachineError(f"{text}. Install what is missing.", False)
        if type(one).__module__.partition(".")[0] == "wandb":
            return MachineError(f"{text}. Weights & Biases does not answer: give --logger csv.", True)
    return None


def dead_context(record: Record) -> bool:
    """Return whether a trial left this process without a GPU that computes."""
    return record.error is not None and bool(DEAD_CONTEXT.search(record.error.message))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error and what it was raised from; what it was raised beside says nothing of it."""
    while error is not None:
        yield error
        error = error.__cause__
