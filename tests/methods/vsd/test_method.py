"""VSD: the network, padding, precision and settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_modules.schema import MODALITIES, PaddedSequence, TargetSpec
from mmbench.methods.config import ConfigError
from mmbench.methods.mv2d import MV2D
from mmbench.methods.vsd import VSD
from mmbench.methods.vsd.network import VSDOutput
from mmbench.nn import branches
from mmbench.runner.settings import shipped_settings
from mmbench.testing.builders import DIMS, changed, make_spec
from tests.methods.forms import assert_forms_agree
from tests.methods.outputs import from_names
from tests.methods.vsd.parts import ALL, NARROW, QUIET, build, reached, run, sample, under

# The network


@pytest.mark.parametrize(
    ("width", "first", "second", "z", "hidden", "bins", "settings"),
    [(128, 128, 64, 64, 128, 7, {}), (10, 12, 6, 4, 5, 3, NARROW)],
)
def test_size(width, first, second, z, hidden, bins, settings):
    unit = width // 2
    recurrent = 2 * (3 * unit * (width + unit) + 2 * 3 * unit)
    bottleneck = width * first + 3 * first + first * second + 3 * second + second * z + z
    half = z // 2
    branch = 2 * width + (width * bins + bins) + bottleneck + (z * half + 3 * half + half * bins + bins)
    fusion = 6 * z * hidden + hidden + hidden + 1
    linear = sum(2 * width * (dim + 1) for dim in DIMS.values())
    expected = linear + 4 * (recurrent + branch) + fusion
    assert sum(item.numel() for item in build("regression", **settings).parameters()) == expected


def test_fusion_drops_out():
    batch = sample()
    for rate, varies in ((0.0, False), (0.5, True)):
        method = build(fusion_dropout=rate).train()
        assert torch.equal(method(batch).prediction, method(batch).prediction) is not varies


@pytest.mark.parametrize(("kind", "width"), [("regression", 7), ("multiclass", 3), ("multilabel", 6), ("binary", 4)])
def test_heads_speak_of_classes_bins_or_two_answers_per_name(kind, width):
    named = build(kind)(sample(kind=kind)).named
    assert {key for key in named if key[0] in "pq"} == {
        f"{part}_{prefix}{view}" for part in "pq" for prefix in ("", "shared_") for view in MODALITIES
    }
    assert {named[key].shape for key in named if key[0] in "pq"} == {(12, width)}
    assert named["v_text"].shape == named["v_shared_text"].shape == (12, 128)
    assert named["z_text"].shape == named["z_shared_text"].shape == (12, 64)


def test_all_views_share_the_shared_branch():
    method, batch = build().eval(), sample()
    before = method(batch).named
    with torch.no_grad():
        method.network.branches["shared"].neck.weight.mul_(2)
        method.network.shared_encoder.forwards.bias_ih_l0.add_(1)
    after = method(batch).named
    for view in MODALITIES:
        assert not torch.allclose(before[f"v_shared_{view}"], after[f"v_shared_{view}"])
        for part in "vpzq":
            assert torch.equal(before[f"{part}_{view}"], after[f"{part}_{view}"])


def test_the_shared_branch_sees_one_view_at_a_time():
    named = build().train()(sample()).named
    for view in MODALITIES:
        torch.testing.assert_close(named[f"v_shared_{view}"].mean(0), torch.zeros(128), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("fuse_on", "uses_z"), [("z", True), ("v", False)])
def test_fusion_reads_representations_or_observations(fuse_on, uses_z):
    method = build(fuse_on=fuse_on)
    _, terms = run(method, sample())
    names = reached(method, terms["task"])
    assert bool(under(names, "branches.text.bottleneck")) is uses_z
    assert bool(under(names, "branches.shared.bottleneck")) is uses_z
    assert under(names, "branches.text.neck")


@pytest.mark.parametrize("cls", [VSD, MV2D])
@pytest.mark.parametrize("first", [False, True])
def test_both_forms_of_a_batch_agree(cls, first):
    """Where the views take their steps together in the encoder that they share, and where each has its own turn."""
    torch.manual_seed(0)
    method = cls(make_spec("multiclass"), config=cls.Config(text_first=first, **QUIET, **NARROW)).double().train()
    inputs = {name: PaddedSequence(item.values.double(), item.lengths) for name, item in sample().inputs.items()}
    inputs["audio"].lengths[2] = 0
    assert_forms_agree(method.network, lambda: torch.cat(list(method.network(inputs).named.values()), 1))


def test_views_take_their_steps_together_in_the_encoder_that_they_share(monkeypatch):
    read, rows = branches.gru, []
    monkeypatch.setattr(branches, "gru", lambda *args, **more: rows.append(len(args[1])) or read(*args, **more))
    batch = sample()
    build()(batch)
    steps = [int(item.lengths.sum()) for item in batch.inputs.values()]
    assert rows == [count for count in (*steps, sum(steps)) for _ in ("forwards", "backwards")]


def test_text_may_be_its_first_state_alone():
    batch = sample()
    values = batch.inputs["text"].values.clone()
    values[:, 1:] = 0.0
    other = changed(batch, "text", values)
    for first in (True, False):
        method = build(text_first=first).eval()
        assert torch.equal(method(batch).prediction, method(other).prediction) is first
    assert build(text_first=True).network.encoders["text"].reader is None


@pytest.mark.parametrize("cls", [VSD, MV2D])
def test_shipped_settings_read_the_first_state_of_bert(cls):
    """A subset of modalities without text gets them too."""

    def shipped(dataset, feature_set):
        folder = Path(__file__).parents[3] / "benchmarks"
        return cls.Config(**shipped_settings(folder, cls.__name__.lower(), dataset, feature_set, "default"))

    for dataset in ("mosi", "mosei"):
        for alignment in ("aligned", "unaligned"):
            assert shipped(dataset, f"{alignment}_50_tokens").text_first
            assert not shipped(dataset, f"{alignment}_50").text_first
    cls(make_spec(modalities=("audio", "vision")), config=shipped("mosi", "aligned_50_tokens"))


# Padding, precision, settings


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_terms_keep_their_precision_under_autocast(kind):
    """What the network says may be coarse, what is made of it is not."""
    method, batch = build(kind, **ALL).train(), sample(kind=kind)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch)
        terms = method.objective(output, batch)
    assert output.named["q_text"].dtype == torch.bfloat16
    same = {name: value.float() for name, value in output.named.items()}
    expected = method.objective(from_names(VSDOutput, output.prediction.float(), same), batch)
    for name in terms.keys() - {"task"}:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-5, atol=1e-6)


def test_gradients_are_not_clipped_as_in_the_official_code():
    assert VSD.Config().gradient_clip == 0


def test_padding_does_not_change_the_terms():
    method, batch = build(**ALL), sample()
    padded = {}
    for name, item in batch.inputs.items():
        values = torch.nn.functional.pad(item.values, (0, 0, 0, 5))
        values[~PaddedSequence(values, item.lengths).mask] = 100.0
        padded[name] = PaddedSequence(values, item.lengths)
    (_, expected), (_, terms) = run(method, batch), run(method, replace(batch, inputs=padded))
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 33}, "'width' is 33; it must be even"),
        (
            {"legacy_kl": True, "kl_direction": "student_teacher"},
            "'kl_direction' has no effect unless legacy_kl is",
        ),
        ({"dist": "gaussian", "legacy_kl": True}, "'legacy_kl' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "label_smoothing": 0.1}, "'label_smoothing' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "kl_direction": "student_teacher"}, "'kl_direction' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "bins": 5}, "'bins' has no effect unless dist is 'bins'"),
        ({"kl_direction": "both"}, "'kl_direction'.*must be one of"),
        ({"head_dropout": 1.5}, "'head_dropout'.*must be at most 1"),
    ],
)
def test_settings_that_cannot_be_had_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VSD.Config(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vcd_pairs": "text_teacher"}, "'vcd_pairs' is 'text_teacher', and .* has no text"),
        ({"dist": "gaussian"}, "'dist' is 'gaussian', and the target is multiclass"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(modalities=("audio", "vision"), **settings)


def test_bins_need_a_scale():
    spec = replace(make_spec(), target=TargetSpec("regression", ("arousal",)))
    with pytest.raises(ConfigError, match="'bins', and the target has no ends"):
        VSD(spec)
    assert VSD(spec, config=VSD.Config(dist="gaussian")).labels.width == 1


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))
