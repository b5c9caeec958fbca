"""CMC with each part switched off."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.golden.cases import snapshot
from tests.methods.cmc.parts import build, count, naive, remembering, sample, terms_of


def test_without_correlation_it_is_late_fusion():
    method, full, batch = build(correlation=0.0).train(), build().train(), sample()
    assert set(terms_of(method, batch)) == {"task"}
    assert [phase.name for phase in method.phases] == ["main"]
    assert not method.network.predictors
    assert len(method.parameter_groups()["main"]) == 1
    ours, theirs = snapshot(method), snapshot(full)
    assert {name for name in theirs if name not in ours} == {
        name for name in theirs if "predictors" in name or "frozen" in name
    }
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert terms_of(method, batch)["task"] == terms_of(full, batch)["task"]


def test_the_weight_scales_the_correlation_alone():
    once, twice = (terms_of(build(correlation=weight).train(), sample()) for weight in (0.1, 0.2))
    assert twice["task"] == once["task"]
    torch.testing.assert_close(twice["correlation"], 2 * once["correlation"])


def test_self_supervised_targets_know_no_labels():
    """All negatives are 1 apart, so that other labels change the task alone."""
    batch = sample()
    other = replace(batch, target=-batch.target.flip(0))
    for targets, same in (("constant", True), ("label", False)):
        terms, changed = (terms_of(build(targets=targets), item) for item in (batch, other))
        assert (terms["correlation"] == changed["correlation"]) == same
        assert terms["task"] != changed["task"]
    method = build(targets="constant")
    (first,), (second,) = method.sampler(12, couples=1)
    assert method._targets(batch.target, first, second).tolist() == [0.0] * 12 + [1.0] * 48


def test_without_levels_and_discarding_there_is_no_curriculum():
    method, batch, _ = remembering(levels=1, discard=0.0)
    plain = terms_of(method, replace(batch, phase="pretrain"))
    assert terms_of(method, batch)["correlation"].item() == pytest.approx(plain["correlation"].item())
    for settings in ({"levels": 1}, {"discard": 0.0}):
        method, batch, _ = remembering(**settings)
        assert terms_of(method, batch)["correlation"] < 0.99 * plain["correlation"]


def test_without_pre_training_the_predictors_of_today_decide():
    method, batch = build(pretrain_epochs=0).train(), sample()
    assert [phase.name for phase in method.phases] == ["main"]
    assert terms_of(method, batch)["correlation"].item() == pytest.approx(0.1 * naive(method, batch, {})[0], rel=1e-4)


def test_pre_trained_difficulty_is_a_switch():
    """With mix 1 what is remembered has no say, with mix 0 today's predictors have none."""
    buckets = {}
    for mix in (0.0, 1.0):
        for forget in ("nothing", "cache", "today"):
            method, batch, _ = remembering(mix=mix)
            if forget == "cache":
                method.scorer.cache.fill(method.scorer.cache.index, method.scorer.cache.vectors.flip(0))
            if forget == "today":
                for parameter in method.network.predictors.parameters():
                    parameter.data.neg_()
            batch = replace(batch, index=torch.where(torch.isin(batch.index, torch.tensor([3, 7])), 0, batch.index))
            torch.manual_seed(5)
            buckets[mix, forget] = method._pairs(method(batch).h, batch)[1]
    assert torch.equal(buckets[1.0, "nothing"], buckets[1.0, "cache"])
    assert not torch.equal(buckets[1.0, "nothing"], buckets[1.0, "today"])
    assert torch.equal(buckets[0.0, "nothing"], buckets[0.0, "today"])
    assert not torch.equal(buckets[0.0, "nothing"], buckets[0.0, "cache"])


def test_the_predictors_may_have_a_hidden_layer():
    assert count(build(hidden=6).network.predictors) == 3 * (6 * 17 + 7)
