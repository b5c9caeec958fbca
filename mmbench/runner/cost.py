"""What a training costs: parameters, memory, matrix products."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

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


def product_counter() -> FlopCounterMode:
    """Return a context that counts the multiplications and additions of matrix products and convolutions.

    ``get_total_flops()`` of it says how many; two of them are one multiply-accumulate (MAC).
    """
    kernels = {  # which PyTorch does not count
        torch.ops.aten.mkldnn_rnn_layer: _lstm_layer,
        torch.ops.aten.mkldnn_rnn_layer_backward: _lstm_layer_backward,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=kernels)


def _lstm_layer(shape: Sequence[int], inputs: Sequence[int], hidden: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of an LSTM layer in one kernel.

    Args:
        shape: ``(T, B, D)`` of its input.
        inputs: ``(4 H, D)``, of its weights.
        hidden: ``(4 H, H)``.
    """
    return 2 * prod(shape[:-1]) * (prod(inputs) + prod(hidden))


def _lstm_layer_backward(*arguments: Any, **named: Any) -> int:
    """Return those of its gradients: two products for one."""
    return 2 * _lstm_layer(*arguments, **named)


def _attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of attention in one kernel: of the scores, and of what they mix.

    Args:
        query: ``(B, heads, T_q, C)``.
        key: ``(B, heads, T_k, C)``.
    """
    return 2 * 2 * prod(query) * key[-2]


def _attention_backward(gradient: Sequence[int], query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """Return those of its gradients: two products for one."""
    return 2 * _attention(query, key)
