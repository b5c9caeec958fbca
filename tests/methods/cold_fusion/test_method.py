"""COLD Fusion: weights, fusion, time and what is refused; see also the files on its losses and on training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_modules.schema import MODALITIES
from mmbench.methods.cold_fusion import COLDFusion
from mmbench.methods.cold_fusion.network import certainty_weights
from mmbench.methods.config import ConfigError
from mmbench.nn.steps import Layout
from mmbench.testing.builders import DIMS, make_batch, make_spec, padded, with_garbage
from tests.methods.forms import assert_forms_agree


def build(kind="regression", modalities=MODALITIES, aligned=False, **settings):
    torch.manual_seed(0)
    spec = replace(make_spec(kind, modalities), aligned=aligned)
    return COLDFusion(spec, config=COLDFusion.Config(**{"hidden": 8, "dropout": 0.0, **settings}))


def sample(size=6, kind="regression", modalities=MODALITIES, aligned=False, seed=0):
    return make_batch(replace(make_spec(kind, modalities, steps=6 * aligned), aligned=aligned), size, seed)


@torch.no_grad()
def certain(method, name, logvar):
    """Let a modality claim the same variance whatever it sees."""
    part = method.network.distributions[name].logvar
    part.weight.zero_()
    part.bias.fill_(logvar)


def by_step(output, batch, part, name):
    """Return ``(B, T, ...)`` of what the output holds for the rows of a modality's steps."""
    return Layout.of(batch.inputs[name]).padded(output.named[f"{part}_{name}"])


# The weights


def test_equal_scores_weigh_the_same_and_four_times_the_variance_a_fifth():
    scores = torch.tensor([[2.0, 2.0], [2.0, 8.0]])
    expected = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    torch.testing.assert_close(certainty_weights(scores, torch.ones(2, 2, dtype=torch.bool)), expected)


def test_weights_are_the_normalised_inverse_scores():
    scores = torch.rand(5, 4, 3) + 0.01
    weights = certainty_weights(scores, torch.ones(5, 4, 3, dtype=torch.bool))
    torch.testing.assert_close(weights, (1 / scores) / (1 / scores).sum(-1, keepdim=True))
    assert (weights > 0).all()


def test_what_is_absent_has_no_weight():
    scores = torch.tensor([[1.0, 2.0, 4.0]] * 3)
    present = torch.tensor([[True, False, True], [False, False, True], [False, False, False]])
    weights = certainty_weights(scores, present)
    torch.testing.assert_close(weights[:2], torch.tensor([[0.8, 0.0, 0.2], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(weights[2].sum(), torch.tensor(1.0))  # nothing is left; the weights stay finite


@pytest.mark.parametrize("aligned", [False, True])
def test_a_common_factor_of_all_variances_changes_no_fused_mean(aligned):
    method, batch = build(aligned=aligned), sample(aligned=aligned)
    before = method(batch)
    with torch.no_grad():
        for distribution in method.network.distributions.values():
            distribution.logvar.bias += np.log(3.0)
    after = method(batch)
    torch.testing.assert_close(after.named["score_text"], 3 * before.named["score_text"])
    torch.testing.assert_close(after.prediction, before.prediction)


@pytest.mark.parametrize(("score", "weight"), [("variance", 1 / 5), ("std", 1 / 3)])
def test_four_times_the_variance_weighs_by_the_norm_that_is_chosen(score, weight):
    method = build(modalities=("audio", "vision"), score=score)
    certain(method, "audio", 0.0)
    certain(method, "vision", np.log(4.0))
    named = method(sample(modalities=("audio", "vision"))).named
    torch.testing.assert_close(named["weight_vision"], torch.full((6, 1), weight))
    norm = 8**0.5 * (4 if score == "variance" else 2)
    torch.testing.assert_close(named["score_vision"], torch.full((6,), norm))


def test_variances_are_clamped_where_scores_see_them_and_not_in_the_prior():
    method, batch = build(lambda_reg=1.0), sample()
    certain(method, "audio", -20.0)
    certain(method, "vision", 11.0)
    output = method(batch)
    torch.testing.assert_close(output.named["score_audio"], torch.full((6,), 8**0.5 * 1e-6))
    torch.testing.assert_close(output.named["score_vision"], torch.full((6,), 8**0.5 * 1e4))
    assert method.objective(output, batch)["prior"] > 8 * 0.5 * (np.exp(11.0) - 11 - 1)


# Fusion and time


def naive(method, batch):
    """Fuse sample by sample, step by step, with plain loops; return scores by sample and fused vectors."""
    scores, fused = {name: [] for name in batch.inputs}, []
    output = method(batch)
    moments = {(part, name): by_step(output, batch, part, name) for part in ("mean", "logvar") for name in batch.inputs}
    for row in range(batch.size):
        lengths = {name: int(sequence.lengths[row]) for name, sequence in batch.inputs.items()}
        means = {name: moments["mean", name][row, : lengths[name]] for name in lengths}
        norms = {name: moments["logvar", name][row, : lengths[name]].exp().norm(dim=-1) for name in lengths}
        for name in lengths:
            scores[name].append(norms[name].mean())
        if method.network.by_step:
            steps = []
            for step in range(lengths["text"]):
                total = sum(1 / norms[name][step] for name in lengths)
                steps.append(sum(means[name][step] / norms[name][step] / total for name in lengths))
            fused.append(torch.stack(steps).mean(0))
        else:
            total = sum(1 / norms[name].mean() for name in lengths)
            fused.append(sum(means[name].mean(0) / norms[name].mean() / total for name in lengths))
    return {name: torch.stack(values) for name, values in scores.items()}, torch.stack(fused)


@pytest.mark.parametrize(("aligned", "level", "by_step"), [(0, "auto", 0), (1, "auto", 1), (1, "sample", 0)])
def test_fusion_is_by_step_where_modalities_share_their_steps(aligned, level, by_step):
    method, batch = build(aligned=bool(aligned), level=level), sample(aligned=bool(aligned))
    assert method.network.by_step == bool(by_step)
    output = method(batch)
    scores, fused = naive(method, batch)
    for name in MODALITIES:
        torch.testing.assert_close(output.named[f"score_{name}"], scores[name])
        assert output.named[f"weight_{name}"].shape == (6, 6 if by_step else 1)
    torch.testing.assert_close(output.prediction, method.network.heads["fused"](fused))


@pytest.mark.parametrize("aligned", [False, True])
def test_padding_changes_no_score_weight_prediction_or_loss(aligned):
    method, batch = build(aligned=aligned), sample(aligned=aligned)
    output, terms = method(batch), method.objective(method(batch), batch)
    for other in (padded(batch, 3), padded(with_garbage(batch), 3)):
        got = method(other)
        for name, value in method.objective(got, other).items():
            torch.testing.assert_close(value, terms[name])
        torch.testing.assert_close(got.prediction, output.prediction)
        for name in MODALITIES:
            mask = batch.inputs[name].mask
            torch.testing.assert_close(got.named[f"score_{name}"], output.named[f"score_{name}"])
            weights = (item.named[f"weight_{name}"] for item in (got, output))
            theirs, ours = (weight[:, : mask.shape[1]] for weight in weights)
            torch.testing.assert_close(theirs[mask] if aligned else theirs, ours[mask] if aligned else ours)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_both_forms_of_a_batch_agree(aligned, legacy):
    method, batch = build(aligned=aligned, legacy_averages=legacy).double(), sample(aligned=aligned)
    for sequence in batch.inputs.values():
        sequence.values = sequence.values.double()
    batch.target = batch.target.double()
    assert_forms_agree(method, lambda: torch.stack(list(method.objective(method(batch), batch).values())))


def test_legacy_averages_count_padding():
    method, batch = build(legacy_averages=True), sample()
    assert not torch.allclose(method(padded(batch, 3)).prediction, method(batch).prediction)


@pytest.mark.parametrize("aligned", [False, True])
def test_with_equal_variances_the_fused_mean_is_the_plain_mean(aligned):
    method, batch = build(aligned=aligned, lambda_co=0.0), sample(aligned=aligned)
    for name in MODALITIES:
        certain(method, name, 0.0)
    output = method(batch)
    masked = {name: batch.inputs[name].mask[..., None] for name in MODALITIES}
    means = [by_step(output, batch, "mean", m).sum(1) / masked[m].sum(1) for m in MODALITIES]
    torch.testing.assert_close(output.prediction, method.network.heads["fused"](torch.stack(means).mean(0)))


@pytest.mark.parametrize("aligned", [False, True])
def test_a_modality_that_was_lost_has_no_say(aligned):
    method, batch = build(aligned=aligned), sample(aligned=aligned)
    kept = {name: sequence.mask.clone() for name, sequence in batch.inputs.items()}
    kept["audio"][2] = False
    corrupted = replace(batch, kept=kept)
    output, before = method(corrupted), method(batch)
    weight, whole = (
        {name: item.named[f"weight_{name}"][2][batch.inputs["text"].mask[2] if aligned else [0]] for name in MODALITIES}
        for item in (output, before)
    )
    assert not weight["audio"].any()
    torch.testing.assert_close(weight["text"] / weight["vision"], whole["text"] / whole["vision"])
    torch.testing.assert_close(weight["text"] + weight["vision"], torch.ones_like(weight["text"]))
    others = torch.tensor([0, 1, 3, 4, 5])
    torch.testing.assert_close(output.prediction[others], before.prediction[others])
    terms = method.objective(output, corrupted)
    output.score["audio"] = output.score["audio"] + 100.0 * (torch.arange(6) == 2)
    again = method.objective(output, corrupted)
    for name in ("calibration", "ordinality"):
        torch.testing.assert_close(again[name], terms[name])
        assert terms[name] != method.objective(before, batch)[name]


@pytest.mark.parametrize("sampled", [False, True])
def test_latents_are_drawn_in_training_when_asked_for(sampled):
    method, batch = build(sample=sampled), sample()
    for training in (True, False):
        first, second = method.train(training)(batch), method(batch)
        for name in ("prediction_text", "fused"):
            assert torch.equal(first.named[name], second.named[name]) is not (sampled and training)
        assert torch.equal(first.named["score_text"], second.named["score_text"])


def test_heads_drop_out_their_inputs():
    method = build(dropout=1.0).train()
    output = method(sample())
    for name in ("prediction_text", "prediction_audio"):
        torch.testing.assert_close(output.named[name], output.named[name][:1].expand(6, -1))
    torch.testing.assert_close(output.prediction, output.prediction[:1].expand(6, -1))


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "step"}, "'level' is 'step'.*do not share their steps"),
        ({"modalities": ("audio",)}, "at least 2 modalities"),
        ({"temperature": 0.0}, "'temperature'.*must be at least"),
        ({"dropout": 1.1}, "'dropout'.*must be at most 1"),
        ({"score": "norm"}, "'score'.*must be one of: variance, std"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_size():
    """Per modality a GRU of three gates with two biases and two square linear maps; and a head each and for all."""
    h = 8
    expected = sum(3 * h * (dim + h + 2) + 2 * (h * h + h) + h + 1 for dim in DIMS.values()) + h + 1
    assert sum(parameter.numel() for parameter in build().parameters()) == expected


def test_no_published_number_is_claimed():
    assert COLDFusion.card.published == ()
    assert COLDFusion.card.fidelity == "paper"
    assert COLDFusion.card.code is None
    assert COLDFusion.card.deviations[0].startswith("There is no official code")
