"""The shift component and the recurrent nets it gates, against loops over one utterance at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.methods.emotion_shift import utterances
from mmbench.methods.emotion_shift.gates import ShiftDetector, ShiftGatedCell, shift_probability
from mmbench.methods.emotion_shift.losses import inverse_frequencies, weighted_mean
from mmbench.methods.emotion_shift.multilogue import BothWays, Sizes, reversed_places
from mmbench.methods.emotion_shift.network import bimodal_attention
from mmbench.methods.emotion_shift.utterances import utterance_vectors

DIMS = {"text": 4, "audio": 3, "vision": 2}
SIZES = Sizes(5, 6, 3)
LENGTHS = (6, 3, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_without_a_shift_the_state_stays_and_with_one_it_is_forgotten():
    cell = ShiftGatedCell(4, 3)
    values, state = torch.randn(5, 4), torch.randn(5, 3)
    assert torch.equal(cell(values, state, torch.zeros(5)), state)
    fresh = torch.tanh(values @ cell.read.weight.T + cell.read.bias + cell.keep.bias)
    torch.testing.assert_close(cell(values, state, torch.ones(5)), fresh)
    torch.testing.assert_close(cell(values, torch.randn(5, 3), torch.ones(5)), fresh)


def test_gate_between_the_limits():
    cell, p = ShiftGatedCell(4, 3), torch.rand(5)
    values, state = torch.randn(5, 4), torch.randn(5, 3)
    kept = (1 - p)[:, None] * state
    expected = kept + p[:, None] * torch.tanh(cell.read(values) + cell.keep(kept))
    torch.testing.assert_close(cell(values, state, p), expected)


def test_detector_reads_both_utterances_and_their_distance():
    detector = ShiftDetector(2)
    previous, current = torch.randn(3, 2), torch.randn(3, 2)
    weight, bias = detector.classifier.weight, detector.classifier.bias
    expected = previous @ weight[:, :2].T + current @ weight[:, 2:4].T
    expected = expected + (previous - current).abs() @ weight[:, 4:].T + bias
    logits = detector(previous, current)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(shift_probability(logits), 1 / (1 + (logits[:, 1] - logits[:, 0]).exp()))
    assert sum(parameter.numel() for parameter in ShiftDetector(768).parameters()) == 4610


class OtherRecogniser(nn.Module):
    """A recogniser of emotion in dialogues that has nothing in common with ours but that it is recurrent."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.detector, self.cell = ShiftDetector(dim), ShiftGatedCell(dim, hidden)

    def forward(self, dialogue):
        state, states = dialogue.new_zeros(len(dialogue), self.cell.keep.in_features), []
        before = torch.zeros_like(dialogue[:, 0])
        for utterance in dialogue.unbind(1):
            state = self.cell(utterance, state, shift_probability(self.detector(before, utterance)))
            states.append(state)
            before = utterance
        return torch.stack(states, 1)


def test_any_recurrent_model_can_take_the_component():
    model = OtherRecogniser(4, 3)
    model(torch.randn(2, 6, 4)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())


# The nets, one utterance at a time


def naive(net, values, text, speakers, shift):
    """Return the states of one net for one dialogue ``(T, ...)``, by the equations of the module."""
    parties = {speaker: torch.zeros(SIZES.party) for speaker in speakers}
    context, emotion, earlier, found = torch.zeros(SIZES.context), torch.zeros(SIZES.emotion), [], []
    for k, speaker in enumerate(speakers):
        history = torch.zeros(SIZES.context)
        if earlier:
            past = torch.stack(earlier)
            history = (past @ net.history.weight[0]).softmax(0) @ past
        context = net.context(torch.cat([text[k], parties[speaker]])[None], context[None])[0]
        parties[speaker] = net.party(torch.cat([values[k], history])[None], parties[speaker][None])[0]
        if isinstance(net.emotion, nn.GRUCell):
            emotion = net.emotion(parties[speaker][None], emotion[None])[0]
        else:
            emotion = net.emotion(parties[speaker][None], emotion[None], shift[k : k + 1])[0]
        earlier.append(context)
        found.append((context, history, parties[speaker], emotion))
    return [torch.stack(items) for items in zip(*found, strict=True)]


def dialogues(speakers=3):
    real = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    values = {name: torch.randn(3, 6, dim) * real[..., None] for name, dim in DIMS.items()}
    speaker = torch.randint(0, speakers, (3, 6)) * real
    return values, speaker, real, (torch.rand(3, 6), torch.rand(3, 6))


@pytest.mark.parametrize("gated", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("speakers", [1, 2, 5])
def test_nets_are_those_of_each_dialogue_alone_step_by_step(gated, speakers):
    nets = BothWays(DIMS, SIZES, gated, 0.0)
    values, speaker, real, shift = dialogues(speakers)
    found = nets(values, speaker, real, shift)
    for key, net in nets.named_children():
        modality, way = key.split("_")
        for row, length in enumerate(LENGTHS):
            order = list(range(length)) if way == "forward" else list(range(length))[::-1]
            said = [values[name][row, order] for name in (modality, "text")]
            gate = shift[way == "backward"][row, order]
            expected = naive(net, *said, speaker[row, order].tolist(), gate)
            for kind, states in zip(("context", "history", "party", "emotion"), expected, strict=True):
                torch.testing.assert_close(getattr(found, kind)[key][row, order], states)


@torch.no_grad()
def test_forward_nets_look_back_and_backward_nets_ahead():
    nets = BothWays(DIMS, SIZES, (True, True), 0.0)
    values, speaker, real, shift = dialogues()
    before = nets(values, speaker, real, shift).emotion
    for name in DIMS:
        changed = {**values, name: values[name].clone()}
        changed[name][0, 3] += 1.0
        after = nets(changed, speaker, real, shift).emotion
        for key in (f"{name}_forward", f"{name}_backward"):
            same = (after[key][0] == before[key][0]).all(-1).tolist()
            assert same == ([True] * 3 + [False] * 3 if key.endswith("forward") else [False] * 4 + [True] * 2)


def test_lookup_in_the_past_is_safe_from_large_scores():
    nets = BothWays({"text": 4}, SIZES, (True, True), 0.0).double()
    real = torch.ones(1, 40, dtype=torch.bool)
    with torch.no_grad():
        for net in nets.children():
            net.history.weight.copy_(torch.linspace(-900, 900, SIZES.context)[None])
    values = {"text": torch.randn(1, 40, 4, dtype=torch.float64)}
    speaker, shift = torch.zeros(1, 40, dtype=torch.long), torch.rand(1, 40, dtype=torch.float64)
    states = nets(values, speaker, real, (shift, shift))
    context = states.context["text_forward"][0]
    scores = (context @ nets.text_forward.history.weight[0]).expand(40, 40)
    weights = scores.masked_fill(torch.ones(40, 40).triu().bool(), -torch.inf)[1:].softmax(-1)
    torch.testing.assert_close(states.history["text_forward"][0, 1:], weights @ context)
    states.emotion["text_forward"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in nets.parameters())


def test_dropout_of_new_states_is_for_training():
    nets = BothWays(DIMS, SIZES, (True, False), 1.0)
    inputs = dialogues()
    assert not any(item.any() for states in nets.train()(*inputs) for item in states.values())
    assert all(item.any() for states in nets.eval()(*inputs) for item in states.values())


def test_reversal_leaves_padding_in_place():
    real = torch.arange(4) < torch.tensor([4, 2, 1])[:, None]
    assert reversed_places(real).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize("masked", [True, False])
def test_bimodal_attention(masked):
    one, other = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    found = bimodal_attention(one, other, dialogues()[2] if masked else None)
    for row, length in enumerate(LENGTHS):
        seen = length if masked else 6
        for k in range(length):
            for half, (x, y) in enumerate(((one, other), (other, one))):
                weights = torch.stack([x[row, k] @ y[row, j] for j in range(seen)]).softmax(0)
                expected = (weights @ y[row, :seen]) * x[row, k]
                torch.testing.assert_close(found[row, k, 4 * half : 4 * half + 4], expected)


# Losses and text


def test_weighted_mean_is_that_of_the_weighted_units():
    logits, target = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
    real, weight = torch.arange(5) < torch.tensor([[5], [2]]), torch.tensor([1.0, 2.0, 4.0])
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(2, 5)
    expected = nn.functional.cross_entropy(logits[real], target[real], weight=weight)
    torch.testing.assert_close(weighted_mean(losses, weight[target] * real), expected)
    plain = weighted_mean(losses, real.float())
    torch.testing.assert_close(plain, losses[real].mean())
    assert weighted_mean(losses, torch.zeros(2, 5)) == 0
    names = torch.rand(2, 5, 3)
    torch.testing.assert_close(weighted_mean(names, torch.ones(2, 5, 3)), names.mean())


def test_weights_are_one_over_the_share():
    torch.testing.assert_close(inverse_frequencies(torch.tensor([1, 3])), torch.tensor([4.0, 4 / 3]))
    counts = torch.tensor([[1, 3], [0, 4]])
    torch.testing.assert_close(inverse_frequencies(counts), torch.tensor([[4.0, 4 / 3], [0.0, 1.0]]))


class Embedding(nn.Module):
    """Stands for a text encoder; what padding holds would show."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(20, 3)
        self.sizes = []

    def forward(self, tokens):
        self.sizes.append(tuple(tokens.values.shape))
        return PaddedSequence(self.table(tokens.values), tokens.lengths)


def test_an_utterance_s_vector_is_the_mean_of_its_own_tokens(monkeypatch):
    monkeypatch.setattr(utterances, "PIECE", 2)
    encoder, steps = Embedding(), torch.tensor([[2, 5, 1], [3, 0, 0]])
    values = torch.randint(1, 20, (2, 3, 5))
    found = utterance_vectors(encoder, PaddedSequence(values, torch.tensor([3, 1]), steps))
    assert found.values.shape == (2, 3, 3)
    assert (found.values[1, 1:] == 0).all()
    for row, place in ((0, 0), (0, 1), (0, 2), (1, 0)):
        expected = encoder.table(values[row, place, : steps[row, place]]).mean(0)
        torch.testing.assert_close(found.values[row, place], expected)
    assert encoder.sizes == [(2, 5), (2, 3)]
    assert torch.equal(found.mask, torch.tensor([[True, True, True], [True, False, False]]))
