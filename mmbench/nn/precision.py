"""Values in single precision where half precision would not do."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Return the values in single precision, or in double precision where they are.

    Softmaxes, statistics and small differences drown in half precision.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def has_half_precision(device: torch.device) -> bool:
    """Say whether a device has kernels in half precision for recurrent networks: of processors those with AVX-512."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
