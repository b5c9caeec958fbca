"""MMMIE: its bounds, what is left without them, and what training makes of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES, Batch, PaddedSequence
from mmbench.methods.mmmie.club import club
from mmbench.nn.steps import Layout
from tests.methods.mmmie.parts import build, gradients, sample


@pytest.fixture(scope="module")
def full():
    """Terms and gradients of a main step, all weights at work."""
    return gradients(build(warmup=0, beta=0.5).train(), sample(24))


def test_without_alpha_nothing_is_maximised(full):
    method = build(warmup=0, beta=0.5, alpha=0.0).train()
    state = build(warmup=0, beta=0.5).state_dict()
    method.load_state_dict({name: state[name] for name in method.state_dict()})
    terms, reached = gradients(method, sample(24))
    assert set(full[0]) - set(terms) == {"nce"}
    for name, term in terms.items():
        torch.testing.assert_close(term, full[0][name])
    assert set(full[1]) - set(reached) == {name for name in full[1] if ".projections." in name}
    torch.testing.assert_close(reached["network.fusion.token"], full[1]["network.fusion.token"])
    name = "network.encoders.audio.vector.0.weight"
    assert not torch.allclose(reached[name], full[1][name])


def test_without_beta_nothing_is_minimised_and_no_estimator_fitted(full):
    method = build(beta=0.0).train()
    assert [phase.name for phase in method.phases] == ["main"]
    assert not method.parameter_groups()["estimator"]
    assert not any("estimators" in name or "standards" in name for name in method.state_dict())
    state = build(warmup=0, beta=0.5).state_dict()
    method.load_state_dict({name: state[name] for name in method.state_dict()})
    terms, reached = gradients(method, sample(24, phase="main"))
    assert set(full[0]) - set(terms) == {"club"}
    for name, term in terms.items():
        torch.testing.assert_close(term, full[0][name])
    torch.testing.assert_close(reached["network.fusion.token"], full[1]["network.fusion.token"])
    name = "network.encoders.audio.vector.0.weight"
    assert not torch.allclose(reached[name], full[1][name])


def test_without_all_three_it_is_a_plain_transformer_over_tokens():
    method, batch = build(alpha=0.0, beta=0.0, identity="none").train(), sample(24, phase="main")
    assert {name.split(".")[1] for name, _ in method.named_parameters()} == {"encoders", "fusion"}
    terms, _ = gradients(method, batch)
    assert list(terms) == ["task"]
    network = method.network
    tokens = [network.fusion.token.expand(24, 1, 8)]
    tokens += [network.encoders[name](batch.inputs[name])[0][:, None] for name in MODALITIES]
    layout = Layout(torch.full((24,), 4), 4, batch.target.device)
    states = torch.cat(tokens, dim=1).flatten(0, 1)
    for layer in network.fusion.layers:
        states = layer(states, layout.reads())
    prediction = network.fusion.head(network.fusion.norm(states[::4]))
    torch.testing.assert_close(terms["task"], (prediction[:, 0] - batch.target).abs().mean())


def test_terms_are_weighted_sums_over_pairs_and_modalities(full):
    method, batch = build(warmup=0, beta=0.5).eval(), sample(24)
    output = method(batch)
    named, terms = output.named, method.objective(output, batch)
    bounds = [club(named[f"h_{m}"], named[f"mean_{m}"], named[f"logvar_{m}"]) for m in MODALITIES]
    torch.testing.assert_close(terms["club"], 0.5 * sum(max(bound, torch.zeros(())) for bound in bounds))
    nce = 0.0
    for m, n in (("text", "audio"), ("text", "vision"), ("audio", "vision")):
        scores = named[f"code_{m}"] @ named[f"code_{n}"].T / 0.1
        nce += (
            nn.functional.cross_entropy(scores, torch.arange(24))
            + nn.functional.cross_entropy(scores.T, torch.arange(24))
        ) / 2
    torch.testing.assert_close(terms["nce"], 0.1 * nce)
    double = build(warmup=0, beta=1.0, alpha=0.2).eval()
    again = double.objective(double(batch), batch)
    torch.testing.assert_close(again["club"], 2 * terms["club"])
    torch.testing.assert_close(again["nce"], 2 * terms["nce"])


def test_a_bound_below_zero_is_clamped_on_demand():
    batch = sample(24)
    for clamp in (True, False):
        method = build(warmup=0, beta=1.0, clamp=clamp).eval()
        output = method(batch)
        for name in MODALITIES:  # moments that know of another sample than their own
            output.mean[name], output.logvar[name] = output.h[name].roll(1, 0).detach(), torch.zeros(24, 8)
        bounds = [club(output.h[name], output.mean[name], torch.zeros(24, 8)) for name in MODALITIES]
        assert min(bounds) < 0
        expected = sum(bound.clamp(min=0) if clamp else bound for bound in bounds)
        torch.testing.assert_close(method.objective(output, batch)["club"], expected)


def toy_views(size=64):
    """Two modalities of one step that share a cause and have noise of their own."""
    random = torch.Generator().manual_seed(0)
    cause = torch.randn(size, 2, generator=random)
    inputs = {
        name: PaddedSequence(
            torch.cat([cause, torch.randn(size, dim - 2, generator=random)], 1)[:, None], torch.ones(size).long()
        )
        for name, dim in {"text": 7, "audio": 5}.items()
    }
    return Batch(inputs, cause[:, 0].clamp(-3, 3), torch.arange(size))


def test_training_raises_what_modalities_share_and_lowers_what_features_keep_of_inputs():
    batch, found = toy_views(), {}
    for beta in (1e-6, 0.05):
        method = build(modalities=("text", "audio"), beta=beta, warmup=0, lr=5e-3, lr_estimator=1e-2).train()
        optimizers = dict(zip(method.parameter_groups(), method.configure_optimizers()[0], strict=True))
        nce = []
        for _ in range(60):
            for phase in method.phases:
                terms, _ = gradients(method, replace(batch, phase=phase.name))
                optimizers[phase.optimizer].step()
            nce.append(terms["nce"].item() / 0.1)
        assert nce[-1] < nce[0] - 1
        assert math.log(64) - nce[-1] > 0.5
        found[beta] = terms["club"].item() / beta
    assert found[0.05] < 0.75 * found[1e-6]
