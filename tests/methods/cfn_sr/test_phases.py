"""CFN-SR: the preparation in which its networks learn alone, its settings, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_modules.batches.data_module import FusionDataModule
from mmbench.methods import ConfigError
from mmbench.methods.cfn_sr import CFNSR
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods.cfn_sr.test_method import BOTH, MEDIA, SMALL, build, sample
from tests.methods.training import assert_resumes, step

DROPOUTS = (
    *("attention_dropout", "relu_dropout", "residual_dropout"),
    *("embed_dropout", "audio_dropout", "flat_dropout"),
)


# Preparation


def test_the_networks_learn_alone_before_they_learn_together():
    method, batch = build(pretrain_epochs=3), sample()
    assert [(phase.name, phase.start, phase.stop) for phase in method.phases] == [("alone", 0, 3), ("joint", 3, None)]
    assert method.first_epoch == 3
    terms, gradients, _ = step(method, batch)
    assert set(terms) == {"audio", "vision"}
    alone = {name for name, gradient in gradients.items() if gradient is not None}
    assert alone == {name for name in gradients if name.startswith(("network.audio.", "network.vision.", "heads."))}
    groups = method.parameter_groups()
    assert {id(p) for p in groups["alone"][0]["params"]} == {id(dict(method.named_parameters())[n]) for n in alone}
    assert groups["alone"][0]["lr"] == method.config.pretrain_lr
    method.zero_grad(set_to_none=True)
    terms, gradients, _ = step(method, replace(batch, phase="joint"))
    assert set(terms) == {"task"}
    assert {name for name, gradient in gradients.items() if gradient is None} == {
        name for name in gradients if name.startswith("heads.")
    }
    assert {id(p) for p in groups["main"][0]["params"]} == {id(p) for p in method.network.parameters()}


def test_each_network_follows_its_own_loss():
    method, batch = build(pretrain_epochs=1, augment="none", flat_dropout=0.0, audio_dropout=0.0), sample()
    _, together, _ = step(method, batch)
    together = {name: gradient for name, gradient in together.items() if gradient is not None}
    for name in BOTH:
        method.zero_grad(set_to_none=True)
        method.objective(method(batch), batch)[name].backward()
        own = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
        assert set(own) == {n for n in together if n.startswith((f"network.{name}.", f"heads.{name}."))}
        for parameter, gradient in own.items():
            torch.testing.assert_close(gradient, together[parameter])


def test_the_networks_alone_have_their_rectifier():
    """The official unimodal network has the ReLU that the fused one leaves out."""
    method, batch = build(pretrain_epochs=1, legacy_stem=True, augment="none"), sample()
    found = method(batch).named["prediction_vision"]
    vision = method.network.see(batch.inputs["vision"], stem_relu=True)
    torch.testing.assert_close(found, method.heads["vision"](vision.values.mean((2, 3))))
    assert torch.equal(method.eval()(batch).prediction, method.network(batch.inputs).prediction)


def test_without_preparation_there_is_one_phase():
    method = build()
    assert [phase.name for phase in method.phases] == ["joint"]
    assert set(method.parameter_groups()) == {"main"}
    assert not method.heads


def test_a_run_resumes_after_its_preparation(tmp_path):
    spec = make_spec("multiclass", BOTH)
    store = write_toy_store(tmp_path / "toy.h5", spec)

    def make():
        torch.manual_seed(0)
        return CFNSR(
            spec,
            config=CFNSR.Config(**SMALL | {"pretrain_epochs": 1} | dict.fromkeys(DROPOUTS, 0.0)),
        )

    assert_resumes(make, lambda: FusionDataModule(store, batch_size=16), 3, tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "'heads' is 3; it must divide dim, 16"),
        ({"cardinality": 3}, "'cardinality' is 3; it must divide width, 8"),
        ({"dim": 15, "heads": 3}, "'dim' is 15; it must be even"),
        ({"width": 9, "cardinality": 3}, "'width' is 9; it must be even"),
        ({"mfccs": 41}, "'mfccs' is 41; it must be at most mels, 40"),
        (
            {"attention": False, "residual": False},
            "'residual' has no effect while attention is False",
        ),
        ({"attention": False, "self_attention": False}, "'self_attention' has no effect"),
        ({"attention": False, "legacy_batch_sum": True}, "'legacy_batch_sum' has no effect"),
        ({"depth": 18}, "'depth' is 18; it must be one of: 14, 26, 50, 101"),
        ({"columns": 11}, "'columns' is 11; it must be at least 12"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CFNSR.Config(**SMALL | settings)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="CFNSR does not fit toy/random/standard: it needs the modality 'vision'"):
        build({}, ("text", "audio"))
    spec = make_spec("multiclass", BOTH, kinds=MEDIA)
    spec.modalities["audio"] = replace(spec.modalities["audio"], rate=0.0)
    with pytest.raises(ConfigError, match=r"toy/random/standard differ in their sampling rate; .*one for all"):
        CFNSR(spec, config=CFNSR.Config(**SMALL))
