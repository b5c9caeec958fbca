import pytest

from mmbench.nn.grouping import group_shapes


def padding(lengths, shapes):
    """Return the steps of padding that groups leave."""
    return sum(samples * steps for samples, steps in shapes) - sum(lengths)


@pytest.mark.parametrize(
    ("lengths", "cost", "expected"),
    [
        ([7], 0, [(1, 7)]),
        ([5, 5, 5], 0, [(3, 5)]),
        ([9, 9, 2, 2, 2], 20.9, [(2, 9), (3, 2)]),  # the cut spares 3 times 7 steps
        ([9, 9, 2, 2, 2], 21, [(5, 9)]),
        ([50, 20, 19, 3], 0, [(1, 50), (1, 20), (1, 19), (1, 3)]),
        ([50, 20, 19, 3], 20, [(1, 50), (3, 20)]),  # then 1 + 16 or 17 steps would be spared
        ([50, 20, 19, 3], 16, [(1, 50), (2, 20), (1, 3)]),
    ],
)
def test_groups_are_cut_where_it_spares_enough(lengths, cost, expected):
    assert group_shapes(lengths, cost) == expected


@pytest.mark.parametrize("cost", [0, 3, 10, 100])
def test_every_cut_spares_more_than_it_costs_and_none_that_would_is_left(cost):
    lengths = [40, 31, 31, 30, 22, 12, 12, 9, 5, 5, 5, 2, 1]
    shapes = group_shapes(lengths, cost)
    assert sum(samples for samples, _ in shapes) == len(lengths)
    assert padding(lengths, [(len(lengths), 40)]) - padding(lengths, shapes) >= cost * (len(shapes) - 1)
    start = 0
    for samples, steps in shapes:
        group = lengths[start : start + samples]
        assert steps == group[0]
        assert all((group[0] - group[cut]) * (samples - cut) <= cost for cut in range(samples))
        start += samples
