"""How the command uses the machine: threads wait briefly before they sleep, and memory that was used once is kept.

Neither decides a result. Both hold for the processes that the command starts as well: these find them among their
environment variables, which the C libraries read when they are loaded.

* Threads of OpenMP, with which PyTorch computes on a CPU, spin while they wait for work, GNU's for milliseconds. On a
  core that something else needs too they use up their share that way, and get none when there is work: with two threads
  and another process on one of the cores, a step of LMF takes fourteen times as long as with one thread. If they slept
  at once (the policy ``passive``), every small product would wait for them to wake: twice the time of one thread, on an
  idle machine. Spinning for some microseconds costs least where it is not known who else computes.
* The C library of most Linux systems gives the memory of every large tensor back to the system as soon as it is free,
  and each of its pages is cleared at the next use: a quarter of the time of a TFN step. Higher bounds keep it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
SPIN_COUNT = 2000
"""Looks at whether there is work before a thread sleeps."""
KEPT = 1 << 30
"""Bytes of free memory that a process keeps, more than a step of most methods needs."""
LARGE = (1 << 28, 1 << 25)
"""Bytes from which on a block is the system's own, the best first; glibc before 2.35 takes no more than the second."""
BLOCKS, TRIM = ("MALLOC_MMAP_THRESHOLD_", -3), ("MALLOC_TRIM_THRESHOLD_", -1)
"""What the environment and ``mallopt`` (glibc's ``malloc.h``) call the two bounds."""


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what suits this program, unless the user has set something like it; before PyTorch is imported.

    Args:
        environment: The variables of this process, which those that it starts inherit.
    """
    if POLICY not in environment and SPINS not in environment:
        environment[SPINS] = str(SPIN_COUNT)
    if not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environment):
        environment.update(_keep_memory())


def _keep_memory() -> dict[str, str]:
    """Let this process keep free memory, where its C library is glibc; return the variables that say so to others."""
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return {}
        import ctypes

        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, ImportError, OSError, ValueError):  # another system, or another C library
        return {}
    return {
        name: str(size)
        for (name, parameter), sizes in ((BLOCKS, LARGE), (TRIM, (KEPT,)))
        if (size := next((size for size in sizes if mallopt(parameter, size)), None))
    }
