"""CFN-SR: its published size, what its block implies, and its forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.cfn_sr import CFNSR
from mmbench.methods.cfn_sr.cepstrum import Cepstrum
from mmbench.methods.cfn_sr.network import AudioGuidedBlock, AudioInput, CFNSRNetwork, VisionMap
from mmbench.nn.steps import Layout
from mmbench.testing.builders import changed, make_batch, make_spec
from tests.methods.forms import assert_forms_agree, watch_steps
from tests.methods.training import step

MEDIA = {"audio": "waveform", "vision": "frames"}
SMALL = {
    "dim": 16,
    "heads": 2,
    "layers": 1,
    "depth": 14,
    "width": 8,
    "cardinality": 2,
    "frames": 4,
    "mels": 40,
    "window_ms": 40.0,
    "hop_ms": 20.0,
    "seconds": 0.8,
    "columns": 41,
    "pretrain_epochs": 0,
}
BOTH = ("audio", "vision")


def build(kinds=MEDIA, modalities=BOTH, **settings):
    torch.manual_seed(0)
    return CFNSR(make_spec("multiclass", modalities, kinds=kinds), config=CFNSR.Config(**SMALL | settings))


def sample(size=4, kinds=MEDIA, modalities=BOTH, seed=0, phase=""):
    return replace(make_batch(make_spec("multiclass", modalities, kinds=kinds), size, seed), phase=phase)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def block(**settings):
    torch.manual_seed(0)
    return AudioGuidedBlock(6, CFNSR.Config(**SMALL | settings)).eval()


def maps(clips=3, slices=2, positions=5):
    torch.manual_seed(1)
    return VisionMap(torch.randn(clips, 6, slices, positions)), torch.randn(clips, 16, 7)


# Sizes


@pytest.mark.parametrize(
    "audio",
    [ModalitySpec("audio", 1, 130_000, "waveform", rate=44_100), ModalitySpec("audio", 13, 212)],
    ids=["waveform", "features"],
)
def test_published_parameter_count(audio):
    vision = ModalitySpec("vision", 3, 30, "frames", size=(224, 224))
    network = CFNSRNetwork({"audio": audio, "vision": vision}, 8, CFNSR.Config())
    assert count(network) == 26_301_417
    assert (count(network.vision), count(network.audio)) == (25_865_664, 20_704)
    assert count(network.block.encoder) == 250_048
    assert count(network.block) - count(network.block.encoder) == 135_297
    assert count(network.head) == 29_704
    assert network.widths == {"vision": 2048, "audio": 1664}
    if audio.kind == "waveform":
        assert (network.audio_input.cepstrum.mel.window, network.audio_input.cepstrum.mel.hop) == (2048, 512)
        assert network.audio_input.samples == 108_045


def test_heads_of_the_preparation_are_no_part_of_the_network():
    method = build(pretrain_epochs=2)
    assert count(method) - count(method.network) == sum(3 * width + 3 for width in method.network.widths.values())
    assert count(build()) == count(build().network)


# The block


@pytest.mark.parametrize("positions", [1, 5])
def test_weights_add_up_to_one_in_every_slice(positions):
    (_, alpha), vision = block()(*maps(positions=positions)), maps(positions=positions)[0]
    assert alpha.shape == vision.values[:, 0].shape
    torch.testing.assert_close(alpha.sum(-1), torch.ones(3, 2))
    assert (alpha >= 0).all()


def test_residual_keeps_what_was_seen():
    vision, audio = maps()
    found, alpha = block()(vision, audio)
    ratio = found.values / vision.values
    assert (ratio >= 1).all()
    assert (ratio <= 2).all()
    torch.testing.assert_close(ratio, 1 + alpha[:, None].expand_as(ratio))
    alone, again = block(residual=False)(vision, audio)
    torch.testing.assert_close(alone.values, again[:, None] * vision.values)


@pytest.mark.parametrize(("residual", "factor"), [(True, 6 / 5), (False, 1 / 5)])
def test_without_scores_all_positions_weigh_the_same(residual, factor):
    vision, audio = maps()
    even = block(residual=residual)
    torch.nn.init.zeros_(even.score.weight)
    torch.testing.assert_close(even(vision, audio)[0].values, factor * vision.values)


def test_equation_of_the_block():
    vision, audio = maps()
    made = block()
    layout = Layout(torch.tensor([7, 7, 7]), 7, audio.device)
    state = made.encoder(audio.mT.flatten(0, 1), layout, causal=True)[[6, 13, 20]]
    _, alpha = made(vision, audio)
    for clip in range(3):
        for s in range(2):
            scores = torch.stack(
                [
                    made.score.weight[0]
                    @ torch.tanh(
                        made.vision.weight @ vision.values[clip, :, s, p]
                        + made.vision.bias
                        + made.audio.weight @ state[clip]
                    )
                    for p in range(5)
                ]
            )
            torch.testing.assert_close(alpha[clip, s], scores.exp() / scores.exp().sum())


def test_audio_is_read_from_the_past_to_the_last_step():
    _, audio = maps()
    made = block(layers=2)
    states = []
    watch_steps(made.encoder, states.append)
    first, last = audio.clone(), audio.clone()
    first[:, :, 0] = torch.randn(3, 16)
    last[:, :, -1] = torch.randn(3, 16)
    found = [made.listen(item) for item in (audio, first, last)]
    assert (found[1] - found[0]).abs().max() > 1e-3
    assert (found[2] - found[0]).abs().max() > 1e-3
    torch.testing.assert_close(states[2][:, :-1], states[0][:, :-1])


def test_without_self_attention_the_mean_of_the_audio_map_guides():
    vision, audio = maps()
    plain = block(self_attention=False)
    assert plain.encoder is None
    expected = plain(vision, audio.mean(2, keepdim=True).expand(-1, -1, 7))[1]
    torch.testing.assert_close(plain(vision, audio)[1], expected)
    assert not torch.allclose(plain(vision, 2 * audio)[1], expected)


def test_clips_stand_alone_unless_the_weights_of_a_batch_are_added_up():
    vision, audio = maps()
    other = VisionMap(torch.cat([vision.values[:1], vision.values[1:].flip(0) + 1]))
    torch.testing.assert_close(block()(other, audio)[0].values[0], block()(vision, audio)[0].values[0])
    summed = block(legacy_batch_sum=True)
    found = summed(vision, audio)[0].values
    assert (summed(other, audio)[0].values[0] - found[0]).abs().max() > 1e-2
    twice = VisionMap(vision.values.repeat(2, 1, 1, 1))
    doubled = summed(twice, audio.repeat(2, 1, 1))[0].values[:3]
    torch.testing.assert_close(doubled - vision.values, 2 * (found - vision.values))


# The network


def test_real_steps_alone_give_the_numbers_of_all_steps():
    dropouts = dict.fromkeys(("attention", "relu", "residual", "embed", "audio", "flat"), 0.0)
    settings = {f"{name}_dropout": value for name, value in dropouts.items()}
    method, batch = build({}, layers=2, **settings).double().train(), sample(kinds={})
    for name, sequence in batch.inputs.items():
        batch.inputs[name] = PaddedSequence(sequence.values.double(), sequence.lengths)
    assert_forms_agree(method, lambda: method(batch).prediction)


def test_audio_guides_sight_and_goes_on_as_it_is():
    method, batch = build().eval(), sample()
    before = method(batch).named["summary"]
    with torch.no_grad():
        for parameter in method.network.block.parameters():
            parameter.add_(torch.randn_like(parameter))
    after = method(batch).named["summary"]
    seen, heard = method.network.widths.values()
    assert (after[:, :seen] - before[:, :seen]).abs().max() > 1e-4
    assert torch.equal(after[:, seen:], before[:, seen:])
    assert before.shape[1] == seen + heard


def test_without_the_block_both_maps_are_concatenated():
    method, batch = build(attention=False).eval(), sample()
    assert method.network.block is None
    vision, audio = method.network.see(batch.inputs["vision"]), method.network.hear(batch.inputs["audio"])
    expected = method.network.head(torch.cat([vision.values.mean((2, 3)), audio.flatten(1)], 1))
    torch.testing.assert_close(method(batch).prediction, expected)


def double(batch):
    audio = PaddedSequence(batch.inputs["audio"].values.double(), batch.inputs["audio"].lengths)
    return replace(batch, inputs={**batch.inputs, "audio": audio})


def test_official_stem_has_no_rectifier():
    batch, grads = sample(), {}
    for legacy in (False, True):
        method = build(legacy_stem=legacy).double()
        terms, gradients, _ = step(method, double(batch))
        grads[legacy] = gradients["network.vision.norm.bias"].abs().max()
        assert terms["task"] > 0
    assert grads[False] > 1e-4
    assert grads[True] < 1e-12  # the next normalisation takes a constant away again


def test_augmentation_is_for_training():
    batch = sample()
    method = build()
    frames = batch.inputs["vision"]
    views = [method.network.see(frames).values for _ in range(2)]
    assert (views[0] - views[1]).abs().max() > 1e-3
    method.eval()
    assert torch.equal(method.network.see(frames).values, method.network.see(frames).values)
    plain = build(augment="none").train()
    assert torch.equal(plain.network.see(frames).values, plain.network.see(frames).values)


@pytest.mark.parametrize(("augment", "each"), [("clip", False), ("frame", True)])
def test_augmentation_is_drawn_for_clips_or_frames(augment, each, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mmbench.methods.cfn_sr.network.random_views", lambda frames, each: seen.append(each) or frames.float()
    )
    method = build(augment=augment).train()
    method.network.see(sample().inputs["vision"])
    assert seen == [each]


# Forms


@pytest.mark.parametrize("samples", [40, 6400, 12_800, 20_000])
def test_every_clip_has_the_same_columns(samples):
    spec = ModalitySpec("audio", 1, 12_800, "waveform", rate=16_000)
    found = AudioInput(spec, CFNSR.Config(**SMALL))(PaddedSequence(torch.randn(2, samples), torch.tensor([samples, 0])))
    assert found.shape == (2, 41, 13)
    assert not found[1].any()


def test_a_part_of_the_clip_is_heard():
    """From 0.25 s on for 0.5 s, as if nothing else had been there: the edges are those of the part."""
    spec = ModalitySpec("audio", 1, 12_800, "waveform", rate=16_000)
    made = AudioInput(spec, CFNSR.Config(**SMALL | {"start": 0.25, "seconds": 0.5})).double()
    torch.manual_seed(0)
    wave = torch.randn(3, 20_000, dtype=torch.float64)
    found = made(PaddedSequence(wave, torch.tensor([20_000, 9_000, 3_000])))
    cepstrum = Cepstrum(16_000, 640, 320, 40, 13, edges="reflect").double()
    for row, samples in ((0, 8_000), (1, 5_000)):
        expected = cepstrum(PaddedSequence(wave[[row], 4_000 : 4_000 + samples], torch.tensor([samples]))).values[0]
        torch.testing.assert_close(found[row, : len(expected)], expected)
        assert not found[row, len(expected) :].any()
    assert not found[2].any()


@pytest.mark.parametrize(("longest", "start"), [(8_000, 0), (9_600, 1_600), (40_000, 4_000), (3_000, 0)])
def test_clips_that_were_cut_before_are_not_cut_again(longest, start):
    """Of the 0.25 s before the 0.5 s that are heard, as many are left out as the longest clip has to spare."""
    spec = ModalitySpec("audio", 1, longest, "waveform", rate=16_000)
    made = AudioInput(spec, CFNSR.Config(**SMALL | {"start": 0.25, "seconds": 0.5}))
    torch.manual_seed(0)
    wave = torch.randn(1, longest)
    part = wave[:, start : start + 8_000]
    expected = Cepstrum(16_000, 640, 320, 40, 13, edges="reflect")(
        PaddedSequence(part, torch.tensor([part.shape[1]]))
    ).values
    found = made(PaddedSequence(wave, torch.tensor([longest])))
    torch.testing.assert_close(found[:, : expected.shape[1]], expected)


def test_frames_are_spread_and_scaled_before_the_network():
    """Of a clip of three frames, by hand: frames 0, 0, 1, 2, as floor(3 i / 4) says."""
    method = build().eval()
    values = torch.randint(0, 256, (1, 3, 3, 48, 48), dtype=torch.uint8)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    clip = torch.stack([(values[0, at] / 255 - mean) / deviation for at in (0, 0, 1, 2)], dim=1)
    expected = method.network.vision(clip[None]).flatten(3)
    found = method.network.see(PaddedSequence(values, torch.tensor([3]))).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", [{}, {"audio": "waveform"}, {"vision": "frames"}], ids=str)
def test_sound_and_sight_may_each_be_features(kinds):
    method = build(kinds).eval()
    output = method(sample(kinds=kinds))
    assert output.prediction.shape == (4, 3)
    assert output.named["alpha"].dim() == 3


def test_of_features_the_real_steps_are_weighted():
    method = build({}).eval()
    batch = sample(kinds={})
    vision = batch.inputs["vision"]
    _, alpha = method.network.block(method.network.see(vision), method.network.hear(batch.inputs["audio"]))
    assert alpha.shape == (4, 1, 8)
    torch.testing.assert_close(alpha[:, 0].sum(-1), torch.ones(4))
    assert not alpha[:, 0][~vision.mask].any()
    assert (alpha[:, 0][vision.mask] > 0).all()
    values = method.network.see(vision)
    for row, length in enumerate(vision.lengths):
        torch.testing.assert_close(values.mean()[row], values.values[row, :, 0, :length].mean(-1))


def test_of_one_step_the_block_doubles_the_map():
    method = build({}).eval()
    vision = method.network.see(PaddedSequence(torch.randn(3, 4, 6), torch.ones(3, dtype=torch.long)))
    weighted, _ = method.network.block(vision, torch.randn(3, 16, 2))
    torch.testing.assert_close(weighted.values, 2 * vision.values)


def test_features_of_nothing_are_finite():
    method = build({}).eval()
    empty = {name: PaddedSequence(item.values, 0 * item.lengths) for name, item in sample(kinds={}).inputs.items()}
    assert method(replace(sample(kinds={}), inputs=empty)).prediction.isfinite().all()


def test_text_is_not_looked_at():
    three = ("text", *BOTH)
    method, batch = build(modalities=three).eval(), sample(modalities=three)
    assert tuple(method.spec.modalities) == BOTH
    text = torch.randn_like(batch.inputs["text"].values)
    assert torch.equal(method(changed(batch, "text", text)).prediction, method(batch).prediction)


def test_half_precision_has_weights_in_single():
    method = build(pretrain_epochs=0)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(sample())
        terms = method.objective(output, sample())
    assert output.named["alpha"].dtype == torch.float32
    assert all(term.isfinite() for term in terms.values())
