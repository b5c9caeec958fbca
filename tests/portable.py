"""The tests on other processors, as far as this one can play them: leg after leg, and in the end what came of each.

The arguments are those of pytest. A leg that fails does not keep the others from running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Leg:
    """One run of the tests.

    Attributes:
        name: What the run plays.
        environment: The variables that make it so.
        missing: What this machine would need for it and lacks.
    """

    name: str
    environment: dict[str, str]
    missing: str = ""


def wide_features() -> list[str]:
    """Return the AVX-512 features, by NumPy's names, of which it has functions that this machine can run."""
    found = np.show_config("dicts")["SIMD Extensions"].get("found", [])
    return [name for name in found if name.startswith("AVX512") or name == "X86_V4"]


def legs() -> list[Leg]:
    """Return the legs; where nothing else is said, a process has one thread, as in ``make test``."""
    narrow = "" if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else "AVX2"
    wide = wide_features()
    return [
        Leg("torch with its default kernels", {"ATEN_CPU_CAPABILITY": "default"}),
        Leg("torch with its AVX2 kernels", {"ATEN_CPU_CAPABILITY": "avx2"}, narrow),
        Leg("NumPy without AVX-512", {"NPY_DISABLE_CPU_FEATURES": " ".join(wide)}, "" if wide else "AVX-512"),
        Leg("one thread", {"OMP_NUM_THREADS": "1"}),
        # There are more threads than processors: those that wait must not keep the others from running.
        Leg("two threads", {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}),
    ]


def main(arguments: list[str]) -> int:
    """Run the legs and return 1 when one of them failed."""
    results = []
    for leg in legs():
        print(f"\n== {leg.name}", flush=True)
        if leg.missing:
            result = f"skipped: this machine has no {leg.missing}"
        else:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **leg.environment}
            status = subprocess.run([sys.executable, "-m", "pytest", *arguments], env=environment).returncode
            result = "failed" if status else "passed"
        results.append((leg.name, result))
    print()
    for name, result in results:
        print(f"{name:<32} {result}")
    return int(any(result == "failed" for _, result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
