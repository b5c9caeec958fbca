"""Metrics of a whole split, exact in any number of processes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from mmbench.metrics.checks import check_shapes
from mmbench.metrics.info import MetricInfo


class SplitMetric(Metric):
    """Collects a split and scores it once, in the order of the sample index and with every sample counted once.

    Scores therefore depend neither on batch size, nor on shuffling, nor on the number of processes: the duplicates by
    which a distributed sampler pads its shards are dropped. A subclass says how wide its inputs are and names its pure
    function.

    Attributes:
        names: Names of the outputs or classes, in the order of the target's columns or class numbers.
        info: Direction and convention of each metric, without the ``/<name>`` of per-name values.
        prediction_columns: Columns of the prediction per name; 0 for a vector.
        target_columns: Columns of the target per name; 0 for a vector.

    Example:
        >>> from torch import tensor
        >>> from mmbench.metrics import build_metric
        >>> metric = build_metric("sentiment", ("sentiment",))
        >>> metric.update(tensor([2.0, 0.5]), tensor([2.0, 1.0]), index=tensor([0, 1]))
        >>> metric.update(tensor([2.0]), tensor([2.0]), index=tensor([0]))  # sample 0 once more, which counts once
        >>> metric.compute()["mae"]
        0.25
    """

    is_differentiable = False
    full_state_update = False

    info: ClassVar[Mapping[str, MetricInfo]]
    prediction_columns: ClassVar[int] = 1
    target_columns: ClassVar[int] = 1

    prediction: list[Tensor]
    target: list[Tensor]
    index: list[Tensor]

    def __init__(self, names: tuple[str, ...]) -> None:
        """Start empty."""
        super().__init__(dist_sync_fn=_gather_rows, compute_with_cache=False)  # thresholds may change between computes
        self.names = names
        for state in ("prediction", "target", "index"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, prediction: Tensor, target: Tensor) -> dict[str, float]:
        """Return every metric of a whole split."""

    def update(self, prediction: Tensor, target: Tensor, index: Tensor) -> None:
        """Add a batch of B samples.

        Args:
            prediction: ``(B, prediction_columns * C)``, C the number of names, or ``(B,)`` for a vector; ``(B, 1)`` and
                ``(B,)`` are interchangeable. Half precision is widened to float32.
            target: ``(B, target_columns * C)`` or ``(B,)``, likewise.
            index: ``(B,)`` identity of each sample within the split.

        Raises:
            ValueError: If a shape is not the expected one.
        """
        prediction_tail, target_tail = self._tail(self.prediction_columns), self._tail(self.target_columns)
        prediction, target = _fit(prediction.detach(), prediction_tail), _fit(target.detach(), target_tail)
        check_shapes(prediction, target, prediction_tail, target_tail)
        if index.shape != target.shape[:1]:
            raise ValueError(f"expected index {tuple(target.shape[:1])}, got {tuple(index.shape)}")
        self.prediction.append(prediction.to(torch.promote_types(prediction.dtype, torch.float32)))
        self.target.append(target)
        self.index.append(index)

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return prediction, target and index of the whole split, of all processes, on the CPU.

        Rows are sorted by index, each index once. Every process must call it.

        Raises:
            ValueError: If there is no sample, or one index has two targets (then it identifies no sample).
        """
        with self.sync_context(dist_sync_fn=_gather_rows):
            return self._rows()

    def compute(self) -> dict[str, float]:
        """Return every metric of the split; all are NaN if any prediction is not finite, for the model has diverged."""
        prediction, target, _ = self._rows()
        values = self.score(prediction, target)
        return values if prediction.isfinite().all() else dict.fromkeys(values, math.nan)

    def higher_is_better_of(self, name: str) -> bool:
        """Return whether larger values of a metric are better; ``f1_pos/anger`` has the direction of ``f1_pos``."""
        return self.info[name.partition("/")[0]].higher_is_better

    def _tail(self, columns: int) -> tuple[int, ...]:
        return (columns * len(self.names),) if columns else ()

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        if not len(self.index):
            raise ValueError(f"empty split: {type(self).__name__} was asked for scores before any sample was added")
        prediction, target, index = (dim_zero_cat(state).cpu() for state in (self.prediction, self.target, self.index))
        index, order = index.sort(stable=True)
        prediction, target = prediction[order], target[order]
        repeated = index[1:] == index[:-1]
        if (target[1:] != target[:-1])[repeated].any():
            raise ValueError("one index has two targets: the index must identify a sample (an utterance in dialogues)")
        first = torch.cat([repeated.new_ones(1), ~repeated])
        return prediction[first], target[first], index[first]


def _fit(values: Tensor, tail: tuple[int, ...]) -> Tensor:
    """Reshape ``(B, 1)`` to ``(B,)`` or back if that is what is expected; leave anything else to the shape check."""
    wanted = (*values.shape[:1], *tail)
    vectors = values.shape[:1], (*values.shape[:1], 1)
    return values.reshape(wanted) if values.shape in vectors and wanted in vectors else values


def _gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Return the rows of every process, without those that have none.

    torchmetrics' own gather stands a float vector in for the state of a process without samples, which neither matches
    a matrix nor an integer index.
    """
    shards: list[Tensor] = [rows] * dist.get_world_size(group)
    dist.all_gather_object(shards, rows.cpu(), group=group)
    return [shard for shard in shards if len(shard)]
