"""InterMulti: sizes, products of high order, the hierarchy of pairs and who leads them, and what is refused."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError
from mmbench.methods.intermulti import InterMulti
from mmbench.methods.intermulti.network import InterMultiNetwork, PolynomialPooling
from mmbench.testing.builders import DIMS, make_spec, write_toy_store
from tests.methods import training
from tests.methods.intermulti.parts import build, sample
from tests.methods.parts import count


def balanced(method, named):
    """Return the specific representations times their weights."""
    return {m: weight * named[f"specific_{m}"] for m, weight in method.network.balance().items()}


def weights_of(method):
    return {name: weight.item() for name, weight in method.network.balance().items()}


def reaches(tensor, source):
    """Whether a tensor depends on another one."""
    (gradient,) = torch.autograd.grad(tensor.square().sum(), source, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())


# Sizes


def test_sizes_at_the_default_settings():
    """By the formulas: products, their normalisations, views, head, balance."""
    network = InterMultiNetwork(make_spec().modalities, DIMS, 1, "text", InterMulti.Config())
    assert [count(part) for part in network.products.level1.values()] == 2 * [2 * 4 * 128 * 257 + 256]
    assert count(network.products.level2) == count(network.fusion) == 3 * 4 * 128 * 385 + 256
    assert count(network.views.full) == 65_792
    assert count(network.views.shared) == 16_512
    assert count(network.views.specific) == 49_536
    assert count(network.head) == 8_321
    assert count(network.balance) == 3
    assert count(network) - count(network.vectors) == 1_850_244


@pytest.mark.parametrize(
    ("settings", "readers"),
    [({}, ["mean", "lstm", "lstm"]), ({"reader": "gru", "text_reader": "lstm"}, ["lstm", "gru", "gru"])],
)
def test_readers_are_settings(settings, readers):
    parts = build(**settings).network.vectors.parts.values()
    assert ["lstm" if p.lstm is not None else "gru" if p.gru is not None else "mean" for p in parts] == readers


def test_dropout_is_where_the_settings_say():
    network = build(dropout=0.5, encoder_dropout=0.25).network
    rates = {name: part.p for name, part in network.named_modules() if isinstance(part, nn.Dropout)}
    encoders = {f"vectors.parts.{name}.dropout": 0.25 for name in MODALITIES}
    assert rates == {**encoders, "views.full.2": 0.25, "head.0": 0.5}


def test_the_maps_end_in_a_sigmoid():
    """Moments are compared of entries in [0, 1]."""
    views = build().network.views
    assert {type(part[1]) for part in (views.shared, *views.specific.values())} == {nn.Sigmoid}


def test_the_text_encoder_learns_at_the_rate_of_the_card():
    assert InterMulti.Config().text_lr == 2e-5


# High order


def test_a_polynomial_is_the_sum_of_products_of_linear_maps():
    torch.manual_seed(0)
    pooling = PolynomialPooling(5, 3, order=3, rank=2).double()
    x, y = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for n in range(4):
        entries = [*x[n], *y[n], 1.0]
        for out, r in product(range(3), range(2)):
            factors = [sum(w * e for w, e in zip(pooling.weight[q, r, out], entries, strict=True)) for q in range(3)]
            expected[n, out] += factors[0] * factors[1] * factors[2]
    torch.testing.assert_close(pooling.polynomial([x, y]), expected)
    normal = (expected - expected.mean(1, True)) / (expected.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(pooling([x, y]), normal)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_order_is_the_degree(order):
    """The (P+1)-th finite difference along a line vanishes, the P-th does not."""
    torch.manual_seed(0)
    pooling = PolynomialPooling(6, 5, order, rank=3).double()
    x = torch.randn(2, 6, dtype=torch.float64)
    for step, vanishes in ((order, False), (order + 1, True)):
        difference = sum(
            (-1) ** (step - k) * math.comb(step, k) * pooling.polynomial([(k - 1.5) * x]) for k in range(step + 1)
        )
        assert bool(difference.abs().max() < 1e-9) is vanishes


def test_weights_start_with_a_variance_of_one_over_the_inputs():
    torch.manual_seed(0)
    weight = PolynomialPooling(399, 50, order=2, rank=2).weight
    assert weight.shape == (2, 2, 50, 400)
    assert weight.std().item() == pytest.approx(1 / 20, rel=0.02)


def learn(order):
    """Return the accuracy that a polynomial of three numbers reaches on the sign of their product."""
    torch.manual_seed(0)
    given = [torch.randn(256, 1) for _ in MODALITIES]
    label = (given[0] * given[1] * given[2] > 0).float()
    pooling, head = PolynomialPooling(3, 16, order, rank=4), nn.Linear(16, 1)
    optimiser = torch.optim.Adam([*pooling.parameters(), *head.parameters()], lr=0.02)
    for _ in range(200):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(head(pooling.polynomial(given)), label)
        loss.backward()
        optimiser.step()
    return ((head(pooling.polynomial(given)) > 0) == (label > 0)).float().mean().item()


def test_order_three_learns_the_sign_of_a_product_of_three_and_order_one_does_not():
    assert learn(3) > 0.9
    assert learn(1) < 0.7


def test_the_levels_have_their_orders():
    network = build(pair_order=1, modality_order=2, view_order=4).network
    assert {part.weight.shape[0] for part in network.products.level1.values()} == {1}
    assert network.products.level2.weight.shape[0] == 2
    assert network.fusion.weight.shape[0] == 4


def test_half_precision_leaves_the_products_alone():
    method = build().eval()
    vectors = [torch.rand(4, 8) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = method.network.fusion([vector.bfloat16() for vector in vectors])
        terms = method.objective(method(sample()), sample())
        torch.stack(list(terms.values())).sum().backward()
    assert torch.equal(inside, method.network.fusion([vector.bfloat16().float() for vector in vectors]))
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


# Hierarchy and dominance


def test_text_is_in_every_pair_and_no_pair_is_without_it():
    method = build().eval()
    network, batch = method.network, sample()
    views = network.views(network.vectors(batch.inputs))
    pairs, together = network.products(views.specific)
    found = {name: [m for m in MODALITIES if reaches(pair, views.specific[m])] for name, pair in pairs.items()}
    assert found == {"text_audio": ["text", "audio"], "text_vision": ["text", "vision"]}
    assert all(reaches(together, views.specific[m]) for m in MODALITIES)


@pytest.mark.parametrize(
    ("modalities", "leader", "pairs"),
    [
        (MODALITIES, "auto", ["text_audio", "text_vision"]),
        (MODALITIES, "audio", ["audio_text", "audio_vision"]),
        (MODALITIES, "vision", ["vision_text", "vision_audio"]),
        (("text", "vision"), "auto", ["text_vision"]),
        (("audio", "vision"), "auto", ["audio_vision"]),
        (("audio", "vision"), "vision", ["vision_audio"]),
    ],
)
def test_pairs_follow_the_leader(modalities, leader, pairs):
    method = build(modalities=modalities, leader=leader)
    named, weights = method(sample(modalities=modalities)).named, weights_of(method)
    assert [name for name in named if name.startswith("pair_")] == [f"pair_{pair}" for pair in pairs]
    assert max(weights, key=weights.get) == pairs[0].partition("_")[0]


def test_every_product_is_of_its_vectors():
    products = build().network.products
    specific = {name: torch.rand(4, 8) for name in MODALITIES}
    found, together = products(specific)
    pairs = [products.level1[name]([specific["text"], specific[name]]) for name in ("audio", "vision")]
    assert torch.equal(found["text_audio"], pairs[0])
    assert torch.equal(found["text_vision"], pairs[1])
    assert torch.equal(together, products.level2([specific["text"], *pairs]))


def test_text_meets_the_pairs_again():
    """With pairs that say nothing, the second level still hears text, and text alone."""
    products = build().network.products
    for pair in products.level1.values():
        nn.init.zeros_(pair.norm.weight)
    specific = {name: torch.rand(4, 8, requires_grad=True) for name in MODALITIES}
    _, fused = products(specific)
    assert [name for name in MODALITIES if reaches(fused, specific[name])] == ["text"]


def test_the_last_level_sees_the_three_kinds():
    method, batch = build(), sample()
    named = method(batch).named
    torch.testing.assert_close(named["z"], method.network.fusion([named["full"], named["common"], named["modalities"]]))
    pairs, together = method.network.products(balanced(method, named))
    assert all(torch.equal(pair, named[f"pair_{name}"]) for name, pair in pairs.items())
    assert torch.equal(together, named["modalities"])


def test_prediction_is_the_head_of_the_fused_representation():
    method = build(kind="multiclass").eval()
    output = method(sample())
    assert torch.equal(output.prediction, method.network.head(output.named["z"]))
    assert output.prediction.shape == (12, 3)


@pytest.mark.parametrize("fusion", ["flat", "concat"])
def test_without_a_hierarchy_all_five_representations_meet_at_once(fusion):
    method = build(fusion=fusion)
    named = method(sample()).named
    assert not any(name.startswith("pair_") or name == "modalities" for name in named)
    five = [named["full"], named["common"], *balanced(method, named).values()]
    fusion_part = method.network.fusion
    torch.testing.assert_close(named["z"], fusion_part(five))
    assert fusion_part.weight.shape == ((3, 2, 8, 41) if fusion == "flat" else (1, 1, 8, 41))
    if fusion == "concat":
        linear = torch.cat([*five, torch.ones(12, 1)], 1) @ fusion_part.weight[0, 0].T
        torch.testing.assert_close(named["z"], fusion_part.norm(linear))


# Balance


def test_text_starts_with_the_largest_weight():
    expected = [3 * math.e / (math.e + 2), 3 / (math.e + 2), 3 / (math.e + 2)]
    assert expected == pytest.approx([1.728, 0.636, 0.636], abs=1e-3)
    assert list(weights_of(build()).values()) == pytest.approx(expected)


def test_the_balance_scales_the_specific_representations():
    method = build().eval()
    with torch.no_grad():
        method.network.balance.beta.copy_(torch.tensor([0.0, -1e4, 0.0]))
    assert weights_of(method) == {"text": 1.5, "audio": 0, "vision": 1.5}
    method(sample()).named["modalities"].square().sum().backward()
    reached = {m: bool(part[0].weight.grad.any()) for m, part in method.network.views.specific.items()}
    assert reached == {"text": True, "audio": False, "vision": True}


def test_the_lead_is_a_setting():
    assert weights_of(build(lead=0.0)) == dict.fromkeys(MODALITIES, 1)


def test_the_balance_is_learned_and_watched(tmp_path):
    """As the epoch leaves it; a mean over its steps would be nearer to the start."""
    method = build(lr=0.05)
    start = {"text": 1.728, "audio": 0.636, "vision": 0.636}
    assert weights_of(method) == pytest.approx(start, abs=1e-3)
    store = write_toy_store(tmp_path / "toy.h5", make_spec())
    training.fit(method, lambda: FusionDataModule(store, batch_size=8))
    weights = weights_of(method)
    assert weights != pytest.approx(start, abs=1e-3)
    assert sum(weights.values()) == pytest.approx(3)
    watched = {name: value for name, value in method.terms().items() if name.startswith("balance")}
    assert watched == {f"balance_{m}": pytest.approx(weight) for m, weight in weights.items()}
    plain = build(specific=False)
    training.fit(plain, lambda: FusionDataModule(store, batch_size=8))
    assert not any(name.startswith("balance") for name in plain.terms())


# What is refused


def test_no_view_at_all_is_refused():
    with pytest.raises(ConfigError, match="'full', 'shared' and 'specific' are all off; leave one on"):
        build(full=False, shared=False, specific=False)


def test_a_leader_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"'leader' is 'text', which toy.* does not have; choose one of: auto, a"):
        build(modalities=("audio", "vision"), leader="text")


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))
