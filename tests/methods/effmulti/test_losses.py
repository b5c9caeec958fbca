"""EffMulti: the terms of the loss, and what is left when one of them, a view or a level is taken away."""

from __future__ import annotations

import pytest
import torch

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.nn.three_view import modality_variance, overlap
from mmbench.testing.builders import padded, rows, with_garbage
from tests.methods import training
from tests.methods.effmulti.parts import ORDERS, build, normal, sample
from tests.methods.parts import assert_a_term_is_gone, count

# Terms of the loss and ablations


def step(**settings):
    """Return terms, gradients and output of a training step without dropout."""
    return training.step(build(dropout=0.0, **settings).train(), sample())


@pytest.fixture(scope="module")
def whole():
    return step()


def test_the_terms_are_those_of_the_views(whole):
    terms, gradients, output = whole
    views = output.views
    assert set(terms) == {"task", "similarity", "difference"}
    torch.testing.assert_close(terms["task"], (output.prediction[:, 0] - sample().target).abs().mean())
    torch.testing.assert_close(terms["similarity"], 0.1 * modality_variance(views.shared))
    torch.testing.assert_close(terms["difference"], 0.1 * overlap(views))
    assert 0 < terms["difference"] < 0.1
    assert all(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize(("weight", "untouched"), [("similarity", ".specific."), ("difference", ".full.")])
def test_a_term_without_weight_is_gone_and_nothing_else(whole, weight, untouched):
    assert_a_term_is_gone(step(**{weight: 0.0}), whole, weight, untouched)


@pytest.mark.parametrize("fusion", [*ORDERS, "concat"])
@pytest.mark.parametrize("view", ["full", "shared", "specific"])
def test_a_view_can_be_switched_off(fusion, view):
    terms, gradients, output = step(fusion=fusion, **{view: False})
    assert (
        set(terms)
        == {
            "full": {"task", "similarity", "difference"},
            "shared": {"task"},
            "specific": {"task", "similarity"},
        }[view]
    )
    assert not any(f".views.{view}." in name for name in gradients)
    assert all(gradient.any() for gradient in gradients.values())
    assert not any(name.startswith(view) for name in output.named)
    if fusion != "concat":
        assert output.named["kind_weights"].shape[-1] == 2
        assert ("modality_weights" in output.named) is not (view == "specific" and fusion == "modality_first")


@pytest.mark.parametrize("view", ["full", "shared", "specific"])
def test_a_single_view_is_enough(view):
    off = {other: False for other in ("full", "shared", "specific") if other != view}
    for fusion in (*ORDERS, "concat"):
        gradients = step(fusion=fusion, **off)[1]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


def test_the_first_level_may_be_a_mean(whole):
    _, gradients, output = step(level1=False)
    assert torch.equal(output.named["modality_weights"], torch.full((12, 3), 1 / 3))
    assert set(whole[1]) - set(gradients) == {
        f"network.fusion.attention.score.{n}" for n in ("0.weight", "0.bias", "2.weight")
    }


def test_the_second_level_may_be_a_mean(whole):
    _, gradients, output = step(level2=False)
    assert torch.equal(output.named["kind_weights"], torch.full((12, 3), 1 / 3))
    assert set(whole[1]) - set(gradients) == {f"network.fusion.gate.linear.{n}" for n in ("weight", "bias")}


def test_concatenation_is_a_linear_layer_of_five():
    method = build(fusion="concat")
    named = method(sample()).named
    five = torch.cat([named["full"], named["common"], *(named[f"specific_{m}"] for m in MODALITIES)], 1)
    linear = method.network.fusion.concat
    torch.testing.assert_close(named["z"], normal(five @ linear.weight.T + linear.bias))
    assert not any("weights" in name for name in named)
    assert count(method.network.fusion) == 8 * 40 + 8 + 16


@pytest.mark.parametrize(
    ("settings", "modalities"),
    [({}, True), ({"fusion": "semantic_first"}, True), ({"specific": False}, False)],
)
def test_the_weights_are_watched(settings, modalities):
    method = build(**settings).train()
    outputs = []
    for seed in range(2):
        batch = sample(seed=seed)
        outputs.append(method(batch).named)
        method.train().observe(method(batch), batch)
    kinds = [view for view in ("full", "shared", "specific") if settings.get(view, True)]
    names = [f"weight_{name}" for name in (*(MODALITIES if modalities else ()), *kinds)]
    found = method.terms()
    assert list(found) == names
    assert sum(found[f"weight_{name}"] for name in kinds) == pytest.approx(1)
    if modalities:
        expected = torch.cat([named["modality_weights"] for named in outputs]).mean(0)
        assert [found[f"weight_{name}"] for name in MODALITIES] == pytest.approx(expected.tolist(), abs=1e-6)
    first = torch.cat([named["kind_weights"] for named in outputs])[..., 0].mean()
    assert found[f"weight_{kinds[0]}"] == pytest.approx(first.item(), abs=1e-6)
    method.on_train_epoch_start()
    assert method.terms() == {}
    method.eval().observe(method(batch), batch)
    assert method.terms() == {}


@pytest.mark.parametrize("settings", [{"fusion": "semantic_first"}, {"text_reader": "gru"}], ids=str)
def test_variants_ignore_padding_and_the_order_of_samples_too(settings):
    method, batch, order = build(**settings).eval(), sample(), torch.arange(11, -1, -1)
    expected = method(batch).prediction
    for changed in (padded(batch, 3), with_garbage(batch)):
        torch.testing.assert_close(method(changed).prediction, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(method(rows(batch, order)).prediction, expected[order])


def test_audio_without_a_step_is_no_nan():
    method, batch = build().train(), sample()
    lengths = batch.inputs["audio"].lengths.clone()
    lengths[3] = 0
    batch.inputs["audio"] = PaddedSequence(batch.inputs["audio"].values, lengths)
    terms = method.objective(method(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())
