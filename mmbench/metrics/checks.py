"""Checks that turn a silent broadcast or an empty split into an error."""

from __future__ import annotations

from torch import Tensor


def check_shapes(
    prediction: Tensor, target: Tensor, prediction_tail: tuple[int, ...] = (), target_tail: tuple[int, ...] = ()
) -> None:
    """Require prediction ``(N, *prediction_tail)`` and target ``(N, *target_tail)`` with the same N.

    Raises:
        ValueError: If a shape differs; the message has both.

    Example:
        >>> from torch import zeros
        >>> from mmbench.metrics.checks import check_shapes
        >>> check_shapes(zeros(4, 3), zeros(4), prediction_tail=(3,))
        >>> check_shapes(zeros(4, 1), zeros(4))
        Traceback (most recent call last):
            ...
        ValueError: expected prediction (N) and target (N), got prediction (4, 1) and target (4,)
    """
    rows = target.shape[:1]
    if not rows or prediction.shape != (*rows, *prediction_tail) or target.shape != (*rows, *target_tail):
        wanted = (", ".join(["N", *map(str, tail)]) for tail in (prediction_tail, target_tail))
        raise ValueError(
            "expected prediction ({}) and target ({}), ".format(*wanted)
            + f"got prediction {tuple(prediction.shape)} and target {tuple(target.shape)}"
        )


def check_split(
    prediction: Tensor, target: Tensor, prediction_tail: tuple[int, ...] = (), target_tail: tuple[int, ...] = ()
) -> None:
    """Require the shapes of :func:`check_shapes` and at least one sample.

    Raises:
        ValueError: If a shape differs or the split is empty.

    Example:
        >>> from torch import zeros
        >>> from mmbench.metrics.checks import check_split
        >>> check_split(zeros(0), zeros(0))
        Traceback (most recent call last):
            ...
        ValueError: empty split: metrics need at least one sample
    """
    check_shapes(prediction, target, prediction_tail, target_tail)
    if not len(target):
        raise ValueError("empty split: metrics need at least one sample")
