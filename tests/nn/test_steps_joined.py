"""Sequences that follow each other in one, and attention over them."""

from __future__ import annotations

import pytest
import torch

from mmbench.nn.steps import Layout, Steps

LENGTHS = ([3, 0, 2, 0], [1, 4, 0, 0], [2, 2, 2, 0])


@pytest.mark.parametrize("packed", [True, False])
def test_joined_layouts_keep_the_real_steps_in_their_order(packed):
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randn(4, steps, 5, generator=generator) for steps in (4, 5, 2)]
    layouts = [
        Layout(torch.tensor(lengths), values.shape[1], values.device, packed)
        for lengths, values in zip(LENGTHS, sequences, strict=True)
    ]
    rows, layout = Steps.joined((one.rows(values), one) for one, values in zip(layouts, sequences, strict=True))
    assert (layout.steps, layout.packed) == (11, packed)
    assert layout.lengths.tolist() == [6, 6, 4, 1]
    assert len(rows) == (17 if packed else 44)
    padded = layout.padded(rows)
    for sample in range(4):
        expected = torch.cat([x[sample, : lengths[sample]] for x, lengths in zip(sequences, LENGTHS, strict=True)])
        assert torch.equal(padded[sample, : len(expected)], expected)
        assert not padded[sample, len(expected) :].any()
    means = torch.stack([values[:length].mean(0) for values, length in zip(padded, (6, 6, 4), strict=False)])
    torch.testing.assert_close(layout.mean(rows)[:3], means)
    assert not layout.mean(rows)[3].any()
    firsts = [sequences[0][sample, 0] for sample in (0, 2)]
    torch.testing.assert_close(layout.first(rows)[[0, 2]], torch.stack(firsts))


@pytest.mark.parametrize("packed", [True, False])
def test_joined_single_vectors_are_whole(packed):
    one = Layout(torch.ones(3, dtype=torch.long), 1, torch.device("cpu"), packed).one_each()
    layout, places = Layout.joined([one, one])
    assert places.tolist() == [0, 3, 1, 4, 2, 5]
    assert layout.real is None


@pytest.mark.parametrize("lengths", [(4, 2), (2, 4), (4, 4), (3, 3, 1), (1, 40, 2)])
def test_every_query_has_its_own_place(lengths):
    """Samples in any order of lengths, the last and shortest one of a group among them."""
    layout = Layout(torch.tensor(lengths), max(lengths), torch.device("cpu"))
    q, k, v = torch.randn(3, sum(lengths), 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = [
        (a @ b.mT / 2).softmax(-1) @ c for a, b, c in zip(*(x[:, 0].split(lengths) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(layout.reads()(q, k, v), torch.cat(expected), rtol=1e-12, atol=1e-12)
