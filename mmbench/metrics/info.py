"""What a metric means, in words: the source of leaderboard column headings."""

from __future__ import annotations

from typing import NamedTuple


class MetricInfo(NamedTuple):
    """Direction and convention of one metric.

    Attributes:
        higher_is_better: Whether a larger value is a better one.
        description: What is measured, including every convention on which the field disagrees.

    Example:
        >>> from mmbench.metrics import DESCRIPTIONS
        >>> DESCRIPTIONS["sentiment"]["mae"]
        MetricInfo(higher_is_better=False, description='mean absolute error of raw predictions')
    """

    higher_is_better: bool
    description: str
