"""MVCL: the classes that attract each other, and the terms of the joint loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_modules.schema import MODALITIES, TargetSpec
from mmbench.nn.contrastive import supervised_contrastive
from tests.methods.mvcl.parts import STILL, build, gradients, sample

# Classes


def test_a_regression_label_has_seven_classes():
    method = build()
    target = torch.tensor([-4.6, -3.0, -2.6, -1.6, -0.4, 0.0, 0.4, 1.0, 2.4, 2.6, 3.0])
    assert method.classes(target).tolist() == [-3, -3, -3, -2, 0, 0, 0, 1, 2, 3, 3]
    assert len(method.classes(torch.linspace(-3, 3, 1001)).unique()) == 7
    method.task = replace(method.task, target=TargetSpec("regression", ("arousal",), 0.0, 1.0))
    assert method.classes(torch.tensor([0.0, 0.49, 0.5, 0.66, 1.0])).tolist() == [-3, 0, 0, 1, 3]
    method.task = replace(method.task, target=TargetSpec("regression", ("arousal",)))
    assert method.classes(torch.tensor([-7.2, 0.4])).tolist() == [-7, 0]


def test_other_classes():
    target = torch.tensor([-2.0, -0.1, 0.0, 0.1])
    assert build(classes="sign").classes(target).tolist() == [-1, -1, 0, 1]
    assert torch.equal(build(classes="exact").classes(target), target)
    method = build(classes="sign")
    method.task = replace(method.task, target=TargetSpec("regression", ("arousal",), 0.0, 1.0))
    assert method.classes(torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])).tolist() == [-1, -1, 0, 1, 1]
    for kind in ("multiclass", "multilabel", "binary"):
        batch = sample(kind=kind)
        assert torch.equal(build(kind).classes(batch.target), batch.target)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_classes_of_one_sample_give_no_loss(kind):
    method, batch = build(kind, mode="joint", classes="exact").train(), sample(3, kind)
    batch.target = torch.tensor([-1.5, 0.25, 1.0]) if kind == "regression" else torch.eye(3)
    terms, reached = gradients(method, batch)
    assert terms["unimodal"] == terms["fused"] == 0
    assert all(gradient.isfinite().all() for gradient in reached.values())


@pytest.mark.parametrize("name", ["unimodal", "fused"])
def test_supervised_contrasts_are_over_classes(name):
    method, batch = build(mode="joint").eval(), sample(24)
    output = method(batch)
    classes = batch.target.clamp(-3, 3).round()
    compared = MODALITIES if name == "unimodal" else ("fused",)
    expected = sum(supervised_contrastive(output.named[f"projected_{item}"], classes, 0.07) for item in compared)
    torch.testing.assert_close(method.objective(output, batch)[name], expected)


# Joint


def test_joint_loss_is_the_sum_of_the_weighted_terms():
    batch, settings = sample(24), {"mode": "joint", **STILL}
    plain = gradients(build(**settings), batch)[0]
    assert list(plain) == ["task", "unimodal", "cross", "fused"]
    weights = {"unimodal_weight": 2.0, "cross_weight": 0.5, "fused_weight": 3.0}
    weighted = gradients(build(**settings, **weights), batch)[0]
    for name, weight in {"task": 1.0, "unimodal": 2.0, "cross": 0.5, "fused": 3.0}.items():
        torch.testing.assert_close(weighted[name], weight * plain[name])


def test_joint_without_contrasts_is_the_plain_fusion():
    settings = {"mode": "joint", **STILL}
    full = build(**settings)
    bare = build(**settings, unimodal_weight=0.0, cross_weight=0.0, fused_weight=0.0)
    assert not any(word in name for name, _ in bare.named_parameters() for word in ("unimodal", "projector", "vector"))
    bare.load_state_dict({name: full.state_dict()[name] for name in bare.state_dict()})
    batch = sample(24)
    terms, reached = gradients(bare, batch)
    assert list(terms) == ["task"]
    assert set(reached) == {name for name, _ in bare.named_parameters()}
    output = full(batch)
    torch.testing.assert_close(terms["task"], (output.prediction[:, 0] - batch.target).abs().mean())


@pytest.mark.parametrize("name", ["unimodal", "cross", "fused"])
def test_a_contrast_left_out_takes_its_projectors_along_and_leaves_the_rest(name):
    settings, batch = {"mode": "joint", **STILL}, sample(24)
    full, less = build(**settings), build(**settings, **{f"{name}_weight": 0.0})
    own = {"unimodal": (".unimodal.", ".vector."), "cross": (".view_projectors.",), "fused": (".fused_projector.",)}[
        name
    ]
    gone = {key for key, _ in full.named_parameters()} - {key for key, _ in less.named_parameters()}
    assert gone == {key for key, _ in full.named_parameters() if any(word in key for word in own)}
    less.load_state_dict({key: full.state_dict()[key] for key in less.state_dict()})
    terms, reached = gradients(less, batch)
    before, _ = gradients(full, batch)
    assert set(before) - set(terms) == {name}
    for key, term in terms.items():
        torch.testing.assert_close(term, before[key])
    assert set(reached) == {key for key, _ in less.named_parameters()}


@pytest.mark.parametrize(
    ("setting", "changes"),
    [("supervised_temperature", {"unimodal", "fused"}), ("pair_temperature", {"cross"}), ("pairs", {"cross"})],
)
def test_a_setting_of_the_losses_changes_its_terms_only(setting, changes):
    batch, settings = sample(24), {"mode": "joint", **STILL}
    before = gradients(build(**settings), batch)[0]
    after = gradients(build(**settings, **{setting: "last" if setting == "pairs" else 0.5}), batch)[0]
    assert {name for name in before if not torch.allclose(before[name], after[name])} == changes
