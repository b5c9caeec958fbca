"""Attention over rows, and torch's encoder over them, beside plain computations of each sample alone."""

import math

import pytest
import torch

from mmbench.nn import attention
from mmbench.nn.steps import encode
from mmbench.nn.transformer import TransformerEncoder
from tests.nn.test_steps import EXACT, both_forms, layout_of, random, real_steps, samples, torch_encoder

# Long samples are far from each other and from the short ones, so that some stand alone and others in a group.
APART = ([160, 3, 90, 0, 5, 1, 4, 6], [90, 2, 160, 4, 0, 1, 7, 6])


# Attention


def plain(q, k, v, causal, levels=1):
    """Multi-head attention of one sample written out: ``(n, heads, C)``, and levels of keys after one another."""
    mixed = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head].T / math.sqrt(q.shape[2])
        n_q, n_k = len(q), len(k) // levels
        future = torch.arange(n_k) > torch.arange(n_q)[:, None] + abs(n_k - n_q)
        if causal:
            scores = scores.masked_fill(future.repeat(1, levels), -torch.inf)
        mixed.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ v[:, head])
    return torch.cat(mixed, 1)


def shifted(layout, values):
    """Return rows of which those that are no real steps hold something, too."""
    return layout.rows(values) + 0.7


@pytest.mark.parametrize(("packed", "p"), [(True, 0.0), (True, 0.5), (False, 0.0)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("levels", [0, 3])
@pytest.mark.parametrize("lengths", [APART, ([5, 5, 2], [6, 4, 4]), ([4, 4, 4], [2, 2, 2])])
def test_attention_is_that_of_each_sample_alone(monkeypatch, packed, p, causal, itself, levels, lengths):
    """With and without dropout, which go different ways on a CPU; it drops nothing here."""
    monkeypatch.setattr(attention, "dropout", lambda weights, _: weights)
    torch.manual_seed(0)
    lengths, batch = (lengths[0], lengths[0]) if itself else lengths, len(lengths[0])
    queries, keys = (layout_of(side, packed) for side in lengths)
    keys = queries if itself else keys
    several = (levels,) if levels else ()
    q, k, v = random(batch, queries.steps, 2, 3), *random(2, batch, keys.steps, *several, 2, 3)
    weights, found = random(sum(lengths[0]), 6), []
    for ours in (True, False):
        q, k, v = (side.detach().requires_grad_() for side in (q, k, v))
        if ours:
            plan = queries.reads(keys, causal)
            read = plan(shifted(queries, q), shifted(keys, k), shifted(keys, v), p)
            result = real_steps(read, queries, lengths[0])
        else:
            sides = (
                [part + 0.7 for part in samples(*side)] for side in zip((q, k, v), (*lengths, lengths[1]), strict=True)
            )
            if levels:
                one, *others = sides
                sides = one, *([part.transpose(0, 1).flatten(0, 1) for part in side] for side in others)
            alone = [plain(*sample, causal, levels or 1) for sample in zip(*sides, strict=True)]
            result = torch.cat([part for part, length in zip(alone, lengths[0], strict=True) if length])
        found.append([result, *torch.autograd.grad((result * weights).sum(), [q, k, v])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


@pytest.mark.parametrize("lengths", [APART, ([4] * 8, [6] * 8), ([5, 3, 4, 1, 2, 7, 6, 8], [1] * 8)])
def test_groups_compute_little_that_is_padding(monkeypatch, lengths):
    computed, attend = [], attention._attend
    monkeypatch.setattr(
        attention, "_attend", lambda q, k, v, group, p: computed.append(group) or attend(q, k, v, group, p)
    )
    queries, keys = (layout_of(side, packed=True) for side in lengths)
    sides = (torch.ones(len(layout.sample), 2, 3) for layout in (queries, keys, keys))
    queries.reads(keys)(*sides)
    sizes = [size for size, *_ in computed]
    assert sum(sizes) == 8
    if lengths is APART:
        assert sorted(sizes) == [1, 1, 6]
    else:
        assert sizes == [8]  # where scores are few, more groups would take longer
    real = sum(max(n_q, 1) * max(n_k, 1) for n_q, n_k in zip(*lengths, strict=True))
    scores = sum(size * n_q * n_k for size, n_q, n_k, _ in computed)
    assert real <= scores <= real + 8 * attention._GROUP_COST


def test_the_future_mask_has_the_published_shape():
    """Of MulT: query i sees the keys up to i + |n_k - n_q|; what is read are the weights themselves."""
    for queries, keys, seen in ((50, 500, range(451, 501)), (500, 50, [50] * 500), (6, 6, range(1, 7))):
        layout = layout_of([queries], packed=True)
        weights = layout.reads(layout_of([keys], packed=True), causal=True)(
            torch.zeros(queries, 1, keys), torch.zeros(keys, 1, keys), torch.eye(keys)[:, None]
        )
        for row, count in zip(weights, seen, strict=True):
            torch.testing.assert_close(row, (torch.arange(keys) < count) / count)


@both_forms
def test_weights_drop_with_their_probability(packed):
    """What is read of ones is the sum of what is left: one on average."""
    torch.manual_seed(0)
    layout = layout_of([30, 7, 30], packed)
    ones = torch.ones(len(layout.sample), 4, 8)
    read = torch.stack([layout.reads()(ones, ones, ones, 0.25) for _ in range(50)])
    of_long = layout.padded(read[0])[0]
    assert len(of_long.unique()) > 5
    torch.testing.assert_close(layout.padded(read.mean(0))[[0, 2]], torch.ones(2, 30, 32), rtol=0, atol=0.08)
    assert torch.equal(layout.reads()(ones, ones, ones), layout.reads()(ones, ones, ones))


def test_a_plan_is_made_once():
    queries, keys = (layout_of(side, packed=True) for side in APART)
    assert queries.reads(keys) is queries.reads(keys)
    assert queries.reads() is queries.reads(queries)
    assert len({queries.reads(), queries.reads(causal=True), queries.reads(keys), queries.reads(keys, True)}) == 4


# Torch's encoder


@both_forms
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    ("last", "final", "settings"),
    [
        (False, True, {"activation": "gelu"}),
        (True, True, {"activation": "relu"}),
        (True, False, {"activation": "gelu"}),
        (False, False, {"bias": False}),
    ],
)
def test_encode_is_torchs_encoder_on_each_sample_alone(packed, norm_first, last, final, settings):
    torch.manual_seed(0)
    encoder = torch_encoder(norm_first, final, dropout=0.0, **settings)
    lengths = [3, 1, 9, 4, 9]
    layout, values, found = layout_of(lengths, packed, more=1), random(5, 10, 6), []
    weights = random(5 if last else sum(lengths), 6)
    for ours in (True, False):
        values = values.detach().requires_grad_()
        if ours:
            result = encode(encoder, layout.rows(values), layout, last)
            result = result if last else real_steps(result, layout, lengths)
        else:
            alone = [encoder(part[None])[0] for part in samples(values, lengths)]
            result = torch.cat([part[-1:] if last else part for part in alone])
        found.append([result, *torch.autograd.grad((result * weights).sum(), [values, *encoder.parameters()])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("place", ["self_attn", "dropout", "dropout1", "dropout2"])
def test_encode_drops_where_torchs_encoder_does(norm_first, place):
    """All of a place drops, so that both give the same; where only that place does, nothing else may."""
    torch.manual_seed(0)
    encoder = torch_encoder(norm_first, final=True, dropout=0.0)
    layout, values = layout_of([4, 4], packed=True), random(2, 4, 6)
    still = encode(encoder, layout.rows(values), layout)
    for layer in encoder.layers:
        module = getattr(layer, place)
        if place == "self_attn":
            module.dropout = 1.0
        else:
            module.p = 1.0
    torch.testing.assert_close(encode(encoder, layout.rows(values), layout), encoder(values).flatten(0, 1), **EXACT)
    assert not torch.allclose(encode(encoder, layout.rows(values), layout), still)
    torch.testing.assert_close(encode(encoder.eval(), layout.rows(values), layout), still, **EXACT)


@both_forms
@pytest.mark.parametrize("kind", ["torch", "self"])
def test_half_precision_stays_near(packed, kind):
    torch.manual_seed(0)
    layout, values = layout_of([9, 2, 0, 5], packed), random(4, 9, 6)
    encoder = (torch_encoder(True, True, dropout=0.0) if kind == "torch" else TransformerEncoder(6, 2, 2)).double()

    def run(dtype):
        rows = layout.rows(values.to(dtype))
        return layout.padded(encode(encoder, rows, layout) if kind == "torch" else encoder(rows, layout, causal=True))

    exact = run(torch.float64)
    encoder.bfloat16()
    half = run(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    encoder.float()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(torch.float32)
    mixed.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    for found in (half, mixed):
        torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.1)
