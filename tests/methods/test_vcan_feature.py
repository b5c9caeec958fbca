"""VCAN on features: which steps of sound stand out, and which steps of sight they choose."""

from __future__ import annotations

import math

import pytest
import torch

from data_modules.schema import DataSpec, ModalitySpec, PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.vcan_feature import VCANFeature, matching_steps, standardized, striking_steps
from mmbench.testing.builders import changed, make_batch, make_spec

SPEC = make_spec("multiclass")


def build(spec: DataSpec = SPEC, **settings: object) -> VCANFeature:
    torch.manual_seed(0)
    return VCANFeature(spec, config=VCANFeature.Config.parse(settings)).eval()


def ragged(lengths: list[int], dim: int, seed: int = 0) -> PaddedSequence:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), dim, generator=random)
    return PaddedSequence(values, torch.tensor(lengths))


def naive_choice(audio: PaddedSequence, vision: PaddedSequence, share: float) -> list[list[int]]:
    """Sort the steps of every sample by their variance, and look up each chosen step's time in the other sequence."""
    chosen = []
    for values, steps, other in zip(audio.values, audio.lengths.tolist(), vision.lengths.tolist(), strict=True):
        variances = [float(((step - step.mean()) ** 2).mean()) for step in values[:steps]]
        best = sorted(range(steps), key=lambda step: -variances[step])[: math.ceil(share * steps - 1e-9)]
        chosen.append(sorted({step * other // steps for step in best}))
    return chosen


@pytest.mark.parametrize("share", [0.07, 0.13, 0.5, 1.0])
@pytest.mark.parametrize(
    ("heard", "seen"), [([100, 1, 23, 8], [30, 30, 7, 1]), ([5, 9, 2, 9], [40, 9, 3, 8]), ([4, 4, 3, 1], [4, 4, 3, 1])]
)
def test_choice_by_a_loop(share, heard, seen):
    audio, vision = ragged(heard, 5), ragged(seen, 3, 1)
    chosen = matching_steps(striking_steps(audio.values, audio, share), audio, vision)
    found = [row.nonzero()[:, 0].tolist() for row in chosen]
    assert found == naive_choice(audio, vision, share)


def test_a_step_that_stands_out_is_chosen():
    audio = ragged([10, 6], 4)
    audio.values *= 0.1
    audio.values[0, 7] *= 100
    audio.values[1, 2] *= 100
    assert striking_steps(audio.values, audio, 0.1).nonzero().tolist() == [[0, 7], [1, 2]]
    vision = ragged([20, 3], 2)
    chosen = matching_steps(striking_steps(audio.values, audio, 0.1), audio, vision)
    assert chosen.nonzero().tolist() == [[0, 14], [1, 1]]


def test_ties_go_to_the_earlier_step():
    audio = PaddedSequence(torch.zeros(1, 8, 3), torch.tensor([8]))
    assert striking_steps(audio.values, audio, 0.25).nonzero()[:, 1].tolist() == [0, 1]


def test_the_smallest_share_is_one_step():
    audio = ragged([10, 1], 4)
    assert striking_steps(audio.values, audio, 1e-12).sum(1).tolist() == [1, 1]


def test_prediction_reads_the_mean_of_the_chosen_steps():
    batch = make_batch(SPEC)
    model = build(share=0.3)
    output = model(batch)
    vision = batch.inputs["vision"]
    choice = naive_choice(batch.inputs["audio"], vision, 0.3)
    means = torch.stack([vision.values[row, steps].mean(0) for row, steps in enumerate(choice)])
    torch.testing.assert_close(output.prediction, model.head(model.norm(means)))
    assert [row.nonzero()[:, 0].tolist() for row in output.named["chosen"]] == choice


def test_without_a_choice_it_is_the_mean_of_vision():
    """All of the longer acoustic steps point at all visual ones."""
    audio, vision = ragged([12, 9, 30, 8], 5), ragged([8, 8, 5, 2], 6, 1)
    batch = make_batch(make_spec("multiclass", ("audio", "vision")))
    batch.inputs = {"audio": audio, "vision": vision}
    model = build(make_spec("multiclass", ("audio", "vision")), share=1.0)
    means = torch.stack([values[:n].mean(0) for values, n in zip(vision.values, vision.lengths, strict=True)])
    torch.testing.assert_close(model(batch).prediction, model.head(model.norm(means)))
    less = build(make_spec("multiclass", ("audio", "vision")), share=0.2)
    assert (less(batch).prediction - model(batch).prediction).abs().max() > 1e-3


def test_standardized_by_a_loop():
    sequence = ragged([6, 3, 1], 4)
    found = standardized(sequence)
    for row, length in enumerate(sequence.lengths):
        real = sequence.values[row, :length].double()
        deviation = real.std(0, correction=0)
        expected = torch.where(deviation > 0, (real - real.mean(0)) / deviation, 0.0).nan_to_num()
        torch.testing.assert_close(found[row, :length].double(), expected, atol=1e-5, rtol=1e-5)
        assert not found[row, length:].any()


def test_units_decide_unless_they_are_made_equal():
    batch = make_batch(SPEC)
    audio = batch.inputs["audio"].values
    scaled = audio * torch.tensor([1000.0, 1.0, 1.0, 1.0, 0.001])
    for standardize in (False, True):
        model = build(share=0.4, standardize=standardize)
        before, after = model(batch), model(changed(batch, "audio", scaled))
        assert torch.equal(before.named["chosen"], after.named["chosen"]) == standardize


def test_a_constant_feature_says_nothing():
    """Although the mean of equal numbers may differ from them by a rounding."""
    sequence = ragged([40, 37, 1], 3)
    sequence.values[..., 1] = torch.tensor([1234.567, 0.1, -3.3])[:, None]
    means = torch.stack([values[:n, 1].mean() for values, n in zip(sequence.values, sequence.lengths, strict=True)])
    assert (means != sequence.values[:, 0, 1]).any()
    assert not standardized(sequence)[..., 1].any()


@pytest.mark.parametrize("single", ["audio", "vision"])
def test_one_step_leaves_nothing_to_choose(single):
    modalities = {
        name: ModalitySpec(name, item.dim, 1 if name == single else item.max_length)
        for name, item in SPEC.modalities.items()
    }
    spec = DataSpec("toy", "random", "standard", modalities, SPEC.target)
    model, batch = build(spec), make_batch(spec)
    assert set(model.spec.modalities) == {"vision"}
    other = changed(batch, "audio", batch.inputs["audio"].values.roll(1, 0))
    assert torch.equal(model(other).prediction, model(batch).prediction)
    vision = batch.inputs["vision"]
    means = torch.stack([values[:n].mean(0) for values, n in zip(vision.values, vision.lengths, strict=True)])
    torch.testing.assert_close(model(batch).prediction, model.head(model.norm(means)))


def test_sound_and_sight_are_used_and_text_is_not():
    model = build()
    assert set(model.spec.modalities) == {"audio", "vision"}
    assert model.text_encoder is None


def test_gradients_reach_the_classifier_alone():
    batch = make_batch(SPEC)
    batch.inputs["audio"].values.requires_grad_()
    batch.inputs["vision"].values.requires_grad_()
    model = build()
    output = model(batch)
    output.prediction.sum().backward()
    assert batch.inputs["audio"].values.grad is None
    moved = batch.inputs["vision"].values.grad.abs().sum(-1) > 0
    assert torch.equal(moved, output.named["chosen"])


def test_settings_and_data_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"'share' is 0; choose some steps"):
        VCANFeature.Config.parse({"share": 0.0})
    modalities = dict(SPEC.modalities, audio=ModalitySpec("audio", 1, 9))
    with pytest.raises(ConfigError, match="variance over one acoustic feature is 0"):
        build(DataSpec("toy", "random", "standard", modalities, SPEC.target))
    for subset in (("text", "audio"), ("text", "vision"), ("vision",)):
        with pytest.raises(ConfigError, match="needs the modality"):
            build(make_spec("multiclass", subset))
