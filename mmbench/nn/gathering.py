"""Rows of all processes: what compares samples sees the batch that one process would have.

Under DDP each of ``N`` processes has ``B / N`` rows of a batch of ``B``, as many as every other: process ``r`` those at
``r, r + N, r + 2 N, ...``. A term of the loss that every process computes from gathered rows is the same everywhere,
and its gradient with respect to rows is added up over the processes; DDP's mean over them is then exactly the gradient
of the term. Terms that are means over a process's own rows need nothing: DDP averages them.

Every process must gather in the same order, so training alone may gather: evaluated batches are not as many everywhere.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbench.nn.precision import at_least_single


class BatchStatistics:
    """What normalises by the statistics of a batch.

    Attributes:
        gathers: Whether these are, in training, those of the rows of all processes.
    """

    gathers: bool = False


def gather_statistics(module: nn.Module) -> None:
    """Let all normalisations inside a module see the rows of all processes."""
    for part in module.modules():
        if isinstance(part, BatchStatistics):
            part.gathers = True


def gathered(x: Tensor) -> Tensor:
    """Return the rows of all processes ``(B, ...)`` for ``(B / N, ...)``, in the order that one process would have.

    Differentiable as ``torch.distributed.nn.functional.all_gather`` is, where ``x`` is of a floating type: the gradient
    of this process's rows is the sum of the gradients that all processes have for them. Without other processes it is
    ``x`` itself.

    Args:
        x: This process's rows, of any type; all processes have tensors of one shape.
    """
    return x if processes() == 1 else _Gathered.apply(x)


def own(x: Tensor) -> Tensor:
    """Return this process's rows ``(B / N, ...)`` of gathered ones ``(B, ...)``: the inverse of :func:`gathered`."""
    count = processes()
    return x if count == 1 else x[dist.get_rank() :: count]


def summed(x: Tensor) -> Tensor:
    """Return the sum of a tensor of any shape over all processes, differentiable as :func:`gathered` is."""
    return gathered(x[None]).sum(0)


def agreed(x: Tensor) -> Tensor:
    """Return the values that the first process has, without gradient: what all draw is what one has drawn."""
    if processes() > 1:
        x = x.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(x, src=0)
    return x


def agree_on_buffers(module: nn.Module) -> None:
    """Give the buffers of a module the values that the first process has: memories, and statistics of batches.

    A checkpoint keeps those of one process, so only what all begin an epoch with can be gone on from. DDP does this in
    its first step alone where optimisation is manual.
    """
    if processes() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def processes() -> int:
    """Return the number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gathered(torch.autograd.Function):
    """All-gather, whose transpose adds up what all processes say of a row."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        rows = x.contiguous()
        sent = rows.view(torch.uint8) if rows.dtype == torch.bool else rows  # gloo knows no bool
        shards = [torch.empty_like(sent) for _ in range(processes())]
        dist.all_gather(shards, sent)
        return torch.stack(shards, dim=1).flatten(0, 1).view(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        total = at_least_single(gradients[0]).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return own(total).to(gradients[0].dtype)
