"""What a trial costs: memory and parameters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch
from torch import nn

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Start a new measurement of peak memory, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        CLEAR.write_text("5")


def peak_memory() -> tuple[int | None, Literal["cuda", "process"]]:
    """Return the peak since the reset in bytes, and what it counts: ``cuda`` tensors or the ``process`` as a whole."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(), "cuda"
    if not STATUS.exists():
        return None, "process"
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return (int(found[1]) * 1024 if found else None), "process"


def parameters(model: nn.Module) -> int:
    """Return the number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
