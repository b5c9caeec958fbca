import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.emt_dlfr.mutual_promotion import (
    ContextPooling,
    MutualPromotion,
    PromotionUnit,
    interleaved_positions,
)
from mmbench.nn.steps import Layout, Steps
from tests.methods.parts import count

STEPS = {"text": 4, "audio": 7, "vision": 5}
LENGTHS = {"text": [4, 1, 3], "audio": [2, 7, 1], "vision": [5, 4, 2]}
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(layers=2, names=MODALITIES, **settings):
    torch.manual_seed(0)
    return MutualPromotion(names, 8, layers, 2, **settings).double().eval()


def given():
    """Return a context and steps of every modality, whose padding is no zero."""
    torch.manual_seed(1)
    context = torch.randn(3, 3, 8, dtype=torch.float64)
    values = {name: torch.randn(3, count, 8, dtype=torch.float64) for name, count in STEPS.items()}
    return context, {name: PaddedSequence(values[name], torch.tensor(LENGTHS[name])) for name in STEPS}


def rows_of(sequences):
    return {name: Steps.of(item) for name, item in sequences.items()}


@pytest.fixture
def data():
    context, sequences = given()
    return context, rows_of(sequences)


@pytest.mark.parametrize("dim", [6, 7])
def test_positions_alternate_sine_and_cosine(dim):
    found = interleaved_positions(5, dim, torch.zeros((), dtype=torch.float64))
    for t in range(5):
        for j in range(dim):
            angle = t / 10000 ** ((j - j % 2) / dim)
            assert found[t, j].item() == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6)


def naive_attention(module, query, keys, mask=None):
    """Attention head by head, from the formula."""
    q_weight, k_weight, v_weight = module.packed.weight.chunk(3)
    q, k, v = query @ q_weight.T, keys @ k_weight.T, keys @ v_weight.T
    width, out = q.shape[-1] // module.heads, []
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        score = q[..., part] @ k[..., part].mT / width**0.5
        if mask is not None:
            score = score.masked_fill(~mask[:, None], -1e9)
        out.append(score.softmax(-1) @ v[..., part])
    return torch.cat(out, -1) @ module.out.weight.T + module.out.bias


def naive_unit(unit, x, context, mask=None, context_mask=None):
    """A promotion unit from its three equations, on padded steps."""
    x = x + naive_attention(unit.cross, unit.cross_norm(x), unit.context_norm(context), context_mask)
    own = unit.self_norm(x)
    x = x + naive_attention(unit.itself, own, own, mask)
    u, w = (unit.network_norm(x) @ unit.network.inner.weight.T + unit.network.inner.bias).chunk(2, -1)
    return x + (u * F.gelu(w)) @ unit.network.outer.weight.T + unit.network.outer.bias


@pytest.mark.parametrize("packed", [True, False])
def test_a_unit_is_its_three_equations(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    context, sequences = given()
    torch.manual_seed(0)
    unit = PromotionUnit(8, 2, 4).double().requires_grad_(False)
    for parameter in unit.parameters():  # norms, too, have weights of their own
        parameter.copy_(torch.randn_like(parameter))
    audio, tokens = sequences["audio"], Steps(context.flatten(0, 1), Layout.of_all(context))
    steps, mask = Steps.of(audio), audio.mask
    expected = naive_unit(unit, audio.values, context, mask)
    torch.testing.assert_close(unit(steps, tokens).padded()[mask], expected[mask], **EXACT)
    expected = naive_unit(unit, context, audio.values, context_mask=mask)
    torch.testing.assert_close(unit(tokens, steps).padded(), expected, **EXACT)


@pytest.mark.parametrize("packed", [True, False])
def test_a_stack_is_its_layers_on_padded_steps(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    context, sequences = given()
    fusion = build(layers=2, share_directions=False, share_modalities=False, share_layers=False)
    found, local = fusion(context, rows_of(sequences))
    steps = {}
    for name, item in sequences.items():
        steps[name] = item.values + interleaved_positions(STEPS[name], 8, item.values)
    for number in range(2):
        contexts, after = [], {}
        for name, x in steps.items():
            mask, key = sequences[name].mask, f"layer{number}-{name}"
            contexts.append(naive_unit(fusion.units[f"{key}-context"], context, x, context_mask=mask).flatten(1))
            after[name] = naive_unit(fusion.units[f"{key}-local"], x, context, mask)
        pooled, steps = fusion.poolings[number](torch.stack(contexts, 1))[0], after
        context = pooled.view_as(context)
    torch.testing.assert_close(found, context, **EXACT)
    for name, item in sequences.items():
        torch.testing.assert_close(local[name].padded()[item.mask], steps[name][item.mask], **EXACT)


def test_pooling_weighs_contexts():
    torch.manual_seed(0)
    pooling, contexts = ContextPooling(6), torch.randn(4, 3, 6)
    pooled, weights = pooling(contexts)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    torch.testing.assert_close(pooled, torch.einsum("bm,bmd->bd", weights, contexts))


@pytest.mark.parametrize(
    ("directions", "modalities", "layers", "units", "poolings"),
    [
        (1, 1, 1, 1, 1),
        (1, 1, 0, 3, 3),
        (1, 0, 1, 3, 1),
        (1, 0, 0, 9, 3),
        (0, 1, 1, 2, 1),
        (0, 1, 0, 6, 3),
        (0, 0, 1, 6, 1),
        (0, 0, 0, 18, 3),
    ],
)
def test_each_switch_shares_what_it_says(directions, modalities, layers, units, poolings):
    fusion = MutualPromotion(
        MODALITIES,
        8,
        3,
        2,
        share_directions=bool(directions),
        share_modalities=bool(modalities),
        share_layers=bool(layers),
    )
    assert (len(fusion.units), len(fusion.poolings)) == (units, poolings)
    used = {
        (i, name, way): fusion.units[fusion.unit_of(i, name, way)]
        for i in range(3)
        for name in MODALITIES
        for way in ("local", "context")
    }
    for (i, name, way), unit in used.items():
        assert (unit is used[i, name, "local"]) == (bool(directions) or way == "local")
        assert (unit is used[i, "text", way]) == (bool(modalities) or name == "text")
        assert (unit is used[0, name, way]) == (bool(layers) or i == 0)


def test_published_sizes():
    fusion = MutualPromotion(MODALITIES, 128, 3, 4)
    assert count(fusion) == 478_337
    assert count(fusion.units) == 330_112
    assert count(fusion.poolings) == 148_225
    assert count(MutualPromotion(MODALITIES, 128, 9, 4)) == 478_337  # layers cost nothing
    assert count(MutualPromotion(MODALITIES, 32, 4, 4)) == 30_497
    free = MutualPromotion(MODALITIES, 128, 3, 4, share_directions=False, share_modalities=False, share_layers=False)
    assert count(free) == 6_386_691


def test_padding_changes_neither_the_context_nor_any_real_step():
    context, sequences = given()
    longer = {
        name: PaddedSequence(F.pad(item.values, (0, 0, 0, 3), value=7.0), item.lengths)
        for name, item in sequences.items()
    }
    fusion = build(share_directions=False, share_modalities=False, share_layers=False)
    (before, local), (after, padded) = (fusion(context, rows_of(items)) for items in (sequences, longer))
    torch.testing.assert_close(before, after, **EXACT)
    for name, item in sequences.items():
        mask = item.mask
        torch.testing.assert_close(local[name].padded()[mask], padded[name].padded()[:, : STEPS[name]][mask], **EXACT)


@pytest.mark.parametrize("packed", [True, False])
def test_a_sample_without_steps_reads_one_of_zeros(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    context, sequences = given()
    silent = {**sequences, "text": PaddedSequence(sequences["text"].values, torch.tensor([4, 0, 0]))}
    zeros = {
        **sequences,
        "text": PaddedSequence(silent["text"].values * silent["text"].mask[..., None], torch.tensor([4, 1, 1])),
    }
    found, expected = (build()(context, rows_of(items))[0] for items in (silent, zeros))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, **EXACT)


def test_modalities_meet_in_the_context_alone(data):
    """After one layer steps know their own past and the context; the context knows all steps."""
    context, steps = data
    fusion = build(layers=1)
    leaves = [context.requires_grad_(), *(item.rows.requires_grad_() for item in steps.values())]
    pooled, local = fusion(context, steps)
    for name, found in local.items():
        gradients = torch.autograd.grad(found.rows.sum(), leaves, retain_graph=True, allow_unused=True)
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert reached == [True, *(other == name for other in steps)]
    assert all(gradient.any() for gradient in torch.autograd.grad(pooled.square().sum(), leaves))


def test_the_steps_of_the_last_layer_are_made_when_they_are_wanted(data):
    calls = []
    fusion = build(layers=3, share_directions=False)
    fusion.units["layers-modalities-local"].register_forward_hook(lambda *_: calls.append(1))
    context, steps = fusion(*data, local=False)
    assert (len(calls), steps) == (2 * 3, {})
    again, _ = fusion(*data, local=True)
    assert len(calls) == 5 * 3
    assert torch.equal(context, again)


@pytest.mark.parametrize("layers", [1, 3])
def test_idle_units_are_those_that_the_context_does_not_need(data, layers):
    for switches in itertools.product((False, True), repeat=3):
        sharing = dict(zip(("share_directions", "share_modalities", "share_layers"), switches, strict=True))
        fusion = build(layers, **sharing)
        fusion(*data, local=False)[0].sum().backward()
        reached = {key for key, unit in fusion.units.items() if all(p.grad is not None for p in unit.parameters())}
        idle = {key for key, unit in fusion.units.items() if unit in fusion.idle}
        assert idle == set(fusion.units) - reached
        assert bool(idle) == (not sharing["share_directions"] and (layers == 1 or not sharing["share_layers"]))


def test_dropout_acts_where_its_setting_says(data):
    for setting in ("embedding_dropout", "attention_dropout", "network_dropout"):
        fusion = build(**{setting: 0.5}).train()
        assert not torch.equal(fusion(*data)[0], fusion(*data)[0])
        fusion.eval()
        assert torch.equal(fusion(*data)[0], fusion(*data)[0])
