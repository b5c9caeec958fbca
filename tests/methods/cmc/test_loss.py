"""CMC's loss beside naive loops: pairs, their difficulty, and the easiest ones that are fed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.methods.cmc.parts import build, naive, remembering, sample, terms_of


def test_pre_training_takes_all_pairs():
    method, batch = build().train(), sample()
    terms = terms_of(method, batch)
    assert set(terms) == {"task", "correlation"}
    assert terms["task"].item() == pytest.approx((method(batch).prediction[:, 0] - batch.target).abs().mean().item())
    assert terms["correlation"].item() == pytest.approx(0.1 * naive(method, batch)[0], rel=1e-5)
    assert method._fed[1].tolist() == [3 * 12 * 5, 0, 0, 0, 0]


@pytest.mark.parametrize("level", [1, 3, 5])
@pytest.mark.parametrize("settings", [{}, {"mix": 0.0}, {"mix": 1.0}, {"discard": 0.3}, {"negatives": 2}])
def test_the_main_phase_takes_the_easiest_pairs(level, settings):
    method, batch, remembered = remembering(**settings)
    method.level.fill_(level)
    terms = terms_of(method, batch)
    loss, buckets = naive(method, batch, remembered)
    assert terms["correlation"].item() == pytest.approx(0.1 * loss, rel=1e-4)
    sums, counts = method._fed.tolist()
    assert counts == [len(losses) for losses in buckets.values()]
    assert sums == pytest.approx([sum(losses) for losses in buckets.values()], rel=1e-4)


def test_every_level_feeds_its_share_of_the_kept_pairs():
    method, batch, _ = remembering()
    for level in range(1, 6):
        method.level.fill_(level)
        _, buckets = method._pairs(method(batch).h, batch)
        for kinds, kept in ((buckets[:, :12], 11), (buckets[:, 12:], 44)):
            assert (kinds < 5).sum(1).tolist() == [kept] * 3
            assert (kinds < level).sum(1).tolist() == [math.ceil(level * kept / 5)] * 3


def test_evaluation_counts_nothing():
    method, batch, _ = remembering()
    terms_of(method.eval(), batch)
    assert not method._fed.any()


def test_each_term_trains_what_it_should():
    """The task leaves the predictors alone, and the correlation the head."""
    method, batch, _ = remembering()
    reached = {}
    for name, term in terms_of(method, batch).items():
        method.zero_grad()
        term.backward(retain_graph=True)
        reached[name] = {key.split(".")[1] for key, p in method.named_parameters() if p.grad is not None}
    assert reached == {"task": {"encoders", "head"}, "correlation": {"encoders", "predictors"}}


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary"])
def test_classes_are_one_apart(kind):
    method, batch = build(kind), sample(kind=kind)
    (first,), (second,) = method.sampler(12, couples=1)
    targets = method._targets(batch.target, first, second)
    labels = batch.target.reshape(12, -1).tolist()
    for i, j, target in zip(first.tolist(), second.tolist(), targets.tolist(), strict=True):
        share = sum(a != b for a, b in zip(labels[i], labels[j], strict=True)) / len(labels[i])
        assert target == (0.0 if i == j else pytest.approx((share + 0.1) / 1.1))


def test_half_precision_is_finite():
    method, batch, _ = remembering()
    with torch.autocast("cpu", torch.bfloat16):
        terms = terms_of(method, batch)
        sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)


def test_a_step_follows_the_device_and_waits_for_no_value():
    """On a device without values whatever asks for one, or mixes devices, is an error."""
    method, batch, _ = remembering()
    method.to("meta")
    for phase in ("pretrain", "main"):
        terms = terms_of(method, replace(batch, phase=phase).to("meta"))
        sum(terms.values()).backward()
        assert {term.device.type for term in terms.values()} == {"meta"}
        assert method._fed.device.type == "meta"
