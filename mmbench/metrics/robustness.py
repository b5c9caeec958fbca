"""How a metric holds up as more and more of the input goes missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def auilc(rates: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under a metric's curve over missing rates, by the trapezoid rule.

    Area Under the Indicators Line Chart, as TFR-Net and EMT-DLFR (arXiv 2208.07589) report it, for any spacing of the
    rates. The area of a constant c over rates 0..1 is c; a shorter range gives a proportionally smaller area. Its
    direction is that of the metric.

    Args:
        rates: Missing rates in [0, 1], increasing.
        values: The metric at each rate, in any unit.

    Example:
        >>> from mmbench.metrics import auilc
        >>> round(auilc([0.0, 0.5, 1.0], [0.8, 0.6, 0.2]), 4)  # 0.5 * 0.7 + 0.5 * 0.4
        0.55
    """
    if len(rates) != len(values) or len(rates) < 2:
        raise ValueError(f"expected one value per rate and at least two, got {len(rates)} rates, {len(values)} values")
    if any(left >= right for left, right in pairwise(rates)):
        raise ValueError(f"rates must increase, got {list(rates)}")
    steps = zip(pairwise(rates), pairwise(values), strict=True)
    return sum((x0 + x1) / 2 * (r1 - r0) for (r0, r1), (x0, x1) in steps)
