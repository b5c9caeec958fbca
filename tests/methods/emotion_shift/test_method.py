"""Emotion-Shift: sizes, the switches of its mechanisms, losses and what they weigh."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import MODALITIES, DataSpec, ModalitySpec, TargetSpec
from mmbench.methods import ConfigError
from mmbench.methods.emotion_shift import EmotionShift
from mmbench.testing.builders import changed, make_batch, make_spec, padded
from tests.golden.cases import snapshot
from tests.methods.training import more_padding, step

SMALL = {"context": 6, "party": 7, "emotion": 5, "hidden": 4}
STILL = {"dropout_recurrent": 0.0, "dropout_states": 0.0, "dropout": 0.0}
IEMOCAP = {"text": 768, "audio": 100, "vision": 512}
SIX = ("hap", "sad", "neu", "ang", "exc", "fru")


def build(kind="multiclass", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    config = EmotionShift.Config(**{**SMALL, **STILL, **settings})
    return EmotionShift(make_spec(kind, modalities, dialogue=True), config=config)


def sample(kind="multiclass", size=6, **options):
    return make_batch(make_spec(kind, dialogue=True), size, **options)


def predict(method, batch):
    with torch.no_grad():
        return method.eval()(batch).prediction[batch.target_mask]


# Sizes


def published(dims, target, **settings):
    """Return parameters of the method at the published sizes, and of its detector."""
    spec = DataSpec(
        "iemocap", "a", "a", {m: ModalitySpec(m, d, 1) for m, d in dims.items()}, target, dialogue=True, speakers=2
    )
    with torch.device("meta"):
        method = EmotionShift(spec, config=EmotionShift.Config(**settings))
    count = sum(parameter.numel() for parameter in method.parameters())
    detector = method.network.detector
    return method, count, 0 if detector is None else sum(parameter.numel() for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("dims", "target", "expected"),
    [
        (IEMOCAP, TargetSpec("multiclass", SIX), 5_149_506),
        (IEMOCAP, TargetSpec("multiclass", SIX[:4]), 5_145_904),
        ({"text": 768, "audio": 384, "vision": 711}, TargetSpec("binary", ("happiness",)), 5_577_002),
    ],
)
def test_parameters_of_the_published_networks(dims, target, expected):
    _, count, detector = published(dims, target)
    assert detector == 4_610
    assert count - detector == expected


def test_parameters_of_single_nets_and_of_the_variants():
    target = TargetSpec("multiclass", SIX)
    method, count, detector = published(IEMOCAP, target)
    for way in ("forward", "backward"):
        sizes = [sum(p.numel() for p in getattr(method.network.nets, f"{m}_{way}").parameters()) for m in MODALITIES]
        assert sizes == [988_350, 687_750, 873_150]
    _, plain, plain_detector = published(IEMOCAP, target, backward_gate="plain_gru")
    assert (plain - plain_detector, plain - count) == (5_300_706, 3 * 50_400)
    _, base, no_detector = published(IEMOCAP, target, use_shift=False)
    assert (base, no_detector) == (5_451_906, 0)
    assert base == count - detector + 6 * 50_400


# Mechanisms


@pytest.mark.parametrize(
    "settings",
    [
        {"use_shift": False},
        {"backward_gate": "plain_gru"},
        {"backward_gate": "legacy_zero"},
        {"shift_scope": "same_speaker"},
        {"attn_mask": False},
    ],
    ids=str,
)
def test_every_switch_changes_predictions(settings):
    method, other = build(), build(**settings)
    own = snapshot(method)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name in own and own[name].shape == parameter.shape:
                parameter.copy_(own[name])
    batch = sample()
    assert not torch.allclose(predict(other, batch), predict(method, batch), atol=1e-6)


def with_gates(method, p):
    """Make the detector sure of a shift, or of none, everywhere."""
    with torch.no_grad():
        method.network.detector.classifier.weight.zero_()
        method.network.detector.classifier.bias.copy_(torch.tensor([50.0, -50.0]) * (1 if p else -1))
    return method


def test_gates_decide_whether_emotion_moves():
    batch = sample()
    still = with_gates(build(), 0).eval()(batch).named["emotion_text_forward"]
    assert still.abs().max() < 1e-6  # from zero, and kept
    moved = with_gates(build(), 1).eval()
    named = moved(batch).named
    cell = moved.network.nets.text_forward.emotion
    expected = torch.tanh(cell.read(named["party_text_forward"]) + cell.keep.bias)
    torch.testing.assert_close(named["emotion_text_forward"], expected)


def test_reversed_nets_are_gated_by_what_follows():
    """The last utterance always moves them; before it the shift to the next one decides."""
    batch = sample()
    named = with_gates(build(), 0).eval()(batch).named
    states, lengths = named["emotion_audio_backward"], batch.target_mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        assert states[row, length - 1].abs().max() > 1e-4
        torch.testing.assert_close(states[row, :length], states[row, length - 1].expand(length, -1))


def test_released_reversed_nets_never_learn():
    method = build(backward_gate="legacy_zero").train()
    _, gradients, output = step(method, replace(sample(), phase="joint"))
    dead = [name for name in gradients if "_backward." in name]
    assert len(dead) == 3 * 13
    assert not any(gradients[name].any() for name in dead)
    assert not any(output.named[f"emotion_{name}_backward"].any() for name in MODALITIES)
    _, gradients, _ = step(build().train(), replace(sample(), phase="joint"))
    assert all(gradients[name].any() for name in dead)


def test_what_the_mask_keeps_out():
    batch = sample()
    more = padded(batch, 3)
    torch.testing.assert_close(predict(build(), more), predict(build(), batch))
    released = build(attn_mask=False)
    assert not torch.allclose(predict(released, more), predict(released, batch), atol=1e-6)


@pytest.mark.parametrize("phase", ["siamese", "joint"])
def test_what_padding_holds_changes_no_loss(phase):
    batch = replace(sample(), phase=phase)
    other = more_padding(batch.inputs, 0, torch.nan)
    expected, _, _ = step(build().train(), batch)
    terms, gradients, _ = step(build().train(), replace(batch, inputs=other))
    torch.testing.assert_close(terms, expected)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients.values())


def test_predecessor_of_the_same_speaker_is_what_the_detector_compares():
    batch = sample()
    batch.speaker = torch.arange(5).expand(6, 5) % 2 * batch.target_mask
    text = batch.inputs["text"].values
    logits = build(shift_scope="same_speaker").eval()(batch).named["shift"]
    detector = build().network.detector
    for row, place in batch.target_mask.nonzero().tolist():
        before = text[row, place - 2] if place > 1 else torch.zeros_like(text[row, place])
        torch.testing.assert_close(logits[row, place], detector(before, text[row, place]))


def test_who_speaks_matters_and_what_they_are_called_does_not():
    method, batch = build(), sample()
    swapped = replace(batch, speaker=(1 - batch.speaker) * batch.target_mask)
    torch.testing.assert_close(predict(method, swapped), predict(method, batch))
    many = replace(batch, speaker=(batch.speaker * 70 + 20) * batch.target_mask)
    torch.testing.assert_close(predict(method, many), predict(method, batch))
    one = replace(batch, speaker=torch.zeros_like(batch.speaker))
    assert not torch.allclose(predict(method, one), predict(method, batch), atol=1e-6)
    torch.testing.assert_close(predict(method, replace(batch, speaker=None)), predict(method, one))


def test_every_modality_of_an_utterance_reaches_the_others():
    method, batch = build(), sample()
    before = method.eval()(batch).prediction[0]
    for name in MODALITIES:
        values = batch.inputs[name].values.clone()
        values[0, 2] += 1.0
        after = method(changed(batch, name, values)).prediction[0]
        assert ((after - before).abs().amax(-1) > 1e-6).all()


def test_dropouts_are_where_they_belong():
    batch = replace(sample(), phase="joint")

    def named(**settings):
        method = build(**settings).train()
        return method, method(batch)

    method, output = named(dropout_recurrent=1.0)
    assert not output.named["context_text_forward"].any()
    method, output = named(dropout_states=1.0)
    assert output.named["emotion_text_forward"].any()
    bias = method.network.shared.bias.relu()
    torch.testing.assert_close(output.named["hidden_text"], bias.expand_as(output.named["hidden_text"]))
    method, output = named(dropout=1.0)
    torch.testing.assert_close(output.prediction, method.network.head.bias.expand_as(output.prediction))


# Losses


def test_losses_are_means_over_utterances():
    method, batch = build().eval(), sample()
    terms, _, output = step(method, batch)
    real = batch.target_mask
    assert set(terms) == {"task", "shift"}
    torch.testing.assert_close(terms["task"], F.cross_entropy(output.prediction[real], batch.target[real]))
    group = (batch.target != 1).long()  # angry, happy, sad
    before = torch.cat([torch.zeros_like(group[:, :1]), group[:, :-1]], 1)
    same = (group == before).long()
    torch.testing.assert_close(terms["shift"], F.cross_entropy(output.named["shift"][real], same[real]))
    more, _, _ = step(method, padded(batch, 4))
    torch.testing.assert_close(more, terms)


def test_rare_classes_weigh_more():
    method, batch = build().eval(), sample()
    weights = torch.tensor([1.0, 2.0, 5.0])
    method.class_weights.copy_(weights)
    method.shift_weights.copy_(torch.tensor([4.0, 1.0]))
    terms, _, output = step(method, batch)
    real = batch.target_mask
    expected = F.cross_entropy(output.prediction[real], batch.target[real], weight=weights)
    torch.testing.assert_close(terms["task"], expected)
    labels, _, _ = method._shifts(batch, method._previous(batch))
    expected = F.cross_entropy(output.named["shift"][real], labels[real], weight=torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(terms["shift"], expected)


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_answers_that_stand_together_are_weighed_name_by_name(kind):
    method, batch = build(kind).eval(), sample(kind)
    names = len(method.task.target.names)
    method.class_weights.copy_(1 + torch.rand(names, 2))
    terms, _, output = step(method, batch)
    real, expected = batch.target_mask, []
    for number, weights in enumerate(method.class_weights):
        target = batch.target[real][:, number].long()
        if kind == "binary":
            logits = output.prediction[real].view(-1, names, 2)[:, number]
        else:
            logits = torch.stack([torch.zeros(len(target)), output.prediction[real][:, number]], -1)
        expected.append(F.cross_entropy(logits, target, weight=weights))
    torch.testing.assert_close(terms["task"], torch.stack(expected).mean())


def test_a_score_has_the_plain_absolute_error():
    method, batch = build("regression").eval(), sample("regression")
    terms, _, output = step(method, batch)
    real = batch.target_mask
    torch.testing.assert_close(terms["task"], (output.prediction[real][:, 0] - batch.target[real]).abs().mean())
    assert not hasattr(method, "class_weights")


def test_shifts_can_be_between_all_classes():
    batch = sample()
    before = torch.cat([torch.zeros_like(batch.target[:, :1]), batch.target[:, :-1]], 1)
    wanted, real = (batch.target == before).long(), batch.target_mask
    for groups, equal in (("classes", True), ("valence", False)):
        method = build(groups=groups)
        labels, _, _ = method._shifts(batch, method._previous(batch))
        assert torch.equal(labels[real], wanted[real]) == equal


def test_utterances_without_a_label_are_context_and_no_target():
    method, batch = build().eval(), sample()
    labelled = replace(batch, target_mask=batch.target_mask.clone())
    labelled.target_mask[0, 1] = False
    terms, _, output = step(method, labelled)
    real = labelled.target_mask
    torch.testing.assert_close(terms["task"], F.cross_entropy(output.prediction[real], batch.target[real]))
    labels, pairs, counted = method._shifts(labelled, method._previous(labelled))
    assert not counted[0, 1:3].any()
    assert not pairs[0, :3].any()
    torch.testing.assert_close(terms["shift"], F.cross_entropy(output.named["shift"][counted], labels[counted]))
    torch.testing.assert_close(output.prediction, method(batch).prediction)


def test_the_detector_learns_from_both_losses():
    method, batch = build().eval(), sample()
    for name in ("task", "shift"):
        method.zero_grad()
        method.objective(method(batch), batch)[name].backward()
        assert method.network.detector.classifier.weight.grad.any()


def test_the_shift_loss_has_a_weight():
    batch = sample()
    terms = {weight: step(build(shift_weight=weight).eval(), batch)[0] for weight in (0.0, 1.0, 2.0)}
    assert set(terms[0.0]) == {"task"}
    torch.testing.assert_close(terms[2.0]["shift"], 2 * terms[1.0]["shift"])
    assert set(step(build(use_shift=False).eval(), batch)[0]) == {"task"}


def test_losses_in_half_precision_are_finite():
    method, batch = build().train(), replace(sample(), phase="joint")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, gradients, _ = step(method, batch)
    assert all(term.isfinite() for term in terms.values())
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients.values())


# Refusals


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="needs the modality 'text'"):
        EmotionShift(make_spec("multiclass", ("audio", "vision"), dialogue=True))
    with pytest.raises(ConfigError, match="works on dialogues"):
        EmotionShift(make_spec("multiclass"))
    with pytest.raises(ConfigError, match=r"'backward_gate' is 'none'; it must be one of: shifted"):
        EmotionShift.Config(backward_gate="none")
