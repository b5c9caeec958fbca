"""Find code that nothing but tests uses: ``python -m tests.unused``, part of ``make lint``."""

from __future__ import annotations

import sys
from fnmatch import fnmatch

from vulture import Vulture

from data_modules import datasets
from mmbench.methods import methods

PACKAGES = ("mmbench", "data_modules", "benchmarks")
CALLED_BY_LIBRARIES = (
    *("on_*", "configure_*", "*_step", "predict_dataloader", "automatic_optimization"),  # Lightning, and the next line
    *(
        "creates_processes_externally",
        "main_address",
        "main_port",
        "set_world_size",
        "set_global_rank",
        "*_rank",
    ),  # Lightning
    *("is_differentiable", "full_state_update", "get_extra_state", "set_extra_state", "_check_input_dim"),  # torch
    *("pytest_generate_tests", "repr_instance", "thread_type", "fill_uninitialized_memory", "storage_options"),
    *("dataloader_idx", "factory", "verbose", "early_stop", "set_device", "batch_sampler"),
)
READ_BY_CONSTRUCTED_NAMES = (
    *("hidden_*", "out_*", "kernel_*", "dropout_*", "post_*", "pair_*", "cross_*", "fused_*", "unimodal_*"),  # settings
    *("gres", "qos", "constraint"),  # of SLURM
    *("ece_*", "interval_*", "late_fusion", "licence", "citation", "python"),  # written as a whole: tables, records
    *("KEY", "repetition", "dense_flops"),  # of an importer; by place: of a RAVDESS name, of what a tower makes
)
FOR_TESTS_ELSEWHERE = ("doubled",)
"""Of ``mmbench.testing``, for the tests of methods."""


def unused() -> list[str]:
    """Return a line per name that is defined and not used."""
    found = Vulture()
    found.scavenge(PACKAGES)
    registered = {cls.__name__ for cls in (*methods().values(), *datasets().values())}
    known = (*CALLED_BY_LIBRARIES, *READ_BY_CONSTRUCTED_NAMES, *FOR_TESTS_ELSEWHERE)
    return [
        f"{item.filename}:{item.first_lineno}: {item.message}"
        for item in found.get_unused_code(min_confidence=60)
        if item.name not in registered and not any(fnmatch(item.name, pattern) for pattern in known)
    ]


if __name__ == "__main__":
    lines = unused()
    print("\n".join(lines) or "Everything is used.")
    sys.exit(bool(lines))
