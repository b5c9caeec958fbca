"""Groups of samples of similar length, each of which is padded to its longest."""

from __future__ import annotations

from collections.abc import Sequence


def group_shapes(lengths: Sequence[int], cost: float) -> list[tuple[int, int]]:
    """Return samples and steps of each group of samples that stand from the longest to the shortest.

    Every cut between groups is the one that spares most padding, and there are cuts as long as they spare enough.

    Args:
        lengths: Lengths, none greater than the one before.
        cost: Steps of padding that take as long as a further group.
    """

    def spared(start: int) -> int:
        return (lengths[0] - lengths[start]) * (len(lengths) - start)

    start = max(range(len(lengths)), key=spared)
    if spared(start) <= cost:
        return [(len(lengths), lengths[0])]
    return group_shapes(lengths[:start], cost) + group_shapes(lengths[start:], cost)
