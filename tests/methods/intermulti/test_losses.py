"""InterMulti: the terms of the loss, and what is left when one of them or a view is taken away."""

from __future__ import annotations

import pytest
import torch

from mmbench.nn.three_view import pairwise_discrepancy, view_orthogonality
from tests.methods import training
from tests.methods.intermulti.parts import build, sample
from tests.methods.parts import assert_a_term_is_gone


def step(size=13, **settings):
    """Return terms, gradients and output of a training step without dropout.

    An odd number of samples: the signs of absolute errors cannot cancel in the gradient of the last bias.
    """
    return training.step(build(dropout=0.0, encoder_dropout=0.0, **settings).train(), sample(size))


@pytest.fixture(scope="module")
def whole():
    return step()


def test_the_terms_are_those_of_the_views(whole):
    terms, gradients, output = whole
    views = output.views
    assert set(terms) == {"task", "similarity", "difference"}
    torch.testing.assert_close(terms["task"], (output.prediction[:, 0] - sample(13).target).abs().mean())
    torch.testing.assert_close(terms["similarity"], 0.3 * pairwise_discrepancy(views.shared))
    torch.testing.assert_close(terms["difference"], 0.1 * view_orthogonality(views))
    assert all(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize(
    ("weight", "untouched"), [("similarity", ".specific."), ("difference", ".full."), ("difference", ".fusion.")]
)
def test_a_term_without_weight_is_gone_and_nothing_else(whole, weight, untouched):
    assert_a_term_is_gone(step(**{weight: 0.0}), whole, weight, untouched)


@pytest.mark.parametrize(("size", "there"), [(7, False), (8, True)])
def test_moments_need_eight_samples(size, there):
    assert ("similarity" in step(size)[0]) is there


@pytest.mark.parametrize(
    ("view", "terms", "parts"),
    [
        ("full", {"task", "similarity", "difference"}, 2),
        ("shared", {"task", "difference"}, 2),
        ("specific", {"task", "similarity"}, 2),
    ],
)
def test_a_view_can_be_switched_off(view, terms, parts):
    found, gradients, output = step(**{view: False})
    assert set(found) == terms
    assert not any(f".views.{view}." in name for name in gradients)
    assert all(gradient.any() for gradient in gradients.values())
    assert not any(name.startswith(view) for name in output.named)
    assert gradients["network.fusion.weight"].shape[-1] == parts * 8 + 1
    if view == "specific":
        assert not any("balance" in name or "products" in name for name in gradients)


@pytest.mark.parametrize("view", ["full", "shared", "specific"])
def test_a_single_view_is_enough(view):
    off = {other: False for other in ("full", "shared", "specific") if other != view}
    for fusion in ("hierarchical", "flat", "concat"):
        assert all(gradient.any() for gradient in step(fusion=fusion, **off)[1].values())
