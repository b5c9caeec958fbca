import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from data_modules.schema import PaddedSequence
from mmbench.nn import recurrent
from mmbench.nn.recurrent import LSTMEncoder, LSTMVector
from mmbench.nn.steps import Layout

SHAPES = [(1, False), (1, True), (2, False), (2, True)]


@pytest.fixture(params=["by steps", "in one group", "in groups", "padded"])
def form(request, monkeypatch):
    """The forms that a CPU chooses from, and the one of other devices."""
    monkeypatch.setattr(recurrent, "_WIDE", 1 if request.param == "by steps" else 1000)
    monkeypatch.setattr(recurrent, "_GROUP_COST", 0 if request.param == "in groups" else float("inf"))
    if request.param == "padded":
        monkeypatch.setattr(Layout.__init__, "__defaults__", (False,))


every_form = pytest.mark.usefixtures("form")


def sequence(lengths=(4, 1, 6), dim=3, steps=6, seed=0):
    values = torch.randn(len(lengths), steps, dim, generator=torch.Generator().manual_seed(seed))
    lengths = torch.tensor(lengths)
    return PaddedSequence(values * (torch.arange(steps) < lengths[:, None])[..., None], lengths)


@every_form
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
def test_each_sample_is_read_as_if_it_were_alone(layers, bidirectional):
    torch.manual_seed(0)
    encoder = LSTMEncoder(3, 5, layers, bidirectional)
    batch = sequence()
    states, final = encoder(batch)
    assert states.values.shape == (3, 6, encoder.dim)
    for row, length in enumerate(batch.lengths.tolist()):
        alone, _ = encoder.rnn(batch.values[row : row + 1, :length])  # no padding, no packing
        torch.testing.assert_close(states.values[row, :length], alone[0])
        assert not states.values[row, length:].any()
        # The top layer's outputs hold its final states: forward at the last step, backward at the first.
        torch.testing.assert_close(final[row, :5], alone[0, -1, :5])
        torch.testing.assert_close(final[row, 5:], alone[0, 0, 5:])


@every_form
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
def test_padding_has_no_say(layers, bidirectional):
    torch.manual_seed(0)
    encoder = LSTMEncoder(3, 5, layers, bidirectional)
    batch = sequence()
    padded = nn.functional.pad(batch.values, (0, 0, 0, 4))
    padded[~PaddedSequence(padded, batch.lengths).mask] = torch.nan
    states, final = encoder(PaddedSequence(padded, batch.lengths))
    expected, expected_final = encoder(batch)
    torch.testing.assert_close(final, expected_final)
    torch.testing.assert_close(states.values[:, :6], expected.values)


@every_form
@pytest.mark.parametrize("layers", [1, 2])
def test_both_ways_are_those_of_packed_sequences(layers):
    torch.manual_seed(0)
    encoder, batch = LSTMEncoder(3, 5, layers, bidirectional=True), sequence()
    packed = pack_padded_sequence(batch.values, batch.lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(encoder.rnn(packed)[0], batch_first=True)
    torch.testing.assert_close(encoder(batch)[0].values, expected)


@every_form
def test_dropout_between_layers_acts_in_training_only():
    torch.manual_seed(0)
    encoder, batch = LSTMEncoder(3, 5, 2, bidirectional=True, dropout=0.9), sequence()
    first, second = encoder(batch)[1], encoder(batch)[1]
    assert not torch.equal(first, second)
    encoder.eval()
    assert torch.equal(encoder(batch)[1], encoder(batch)[1])


@every_form
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
def test_gradients_are_those_of_each_sample_alone(layers, bidirectional):
    torch.manual_seed(0)
    encoder, batch = LSTMEncoder(3, 5, layers, bidirectional).double(), sequence()
    values = batch.values.double().requires_grad_()
    leaves = [values, *encoder.parameters()]
    states, final = encoder(PaddedSequence(values, batch.lengths))
    found = torch.autograd.grad(states.values.square().sum() + final.sum(), leaves)
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = encoder.rnn(values[row : row + 1, :length])[0][0]
        total = total + alone.square().sum() + alone[-1, :5].sum() + alone[0, 5:].sum()
    for ours, theirs in zip(found, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def reads(monkeypatch, dim, lengths, hidden=32):
    """Return the shapes that torch's fused LSTM reads, and how often there is none of it."""
    fused, by_steps, shapes = torch.lstm, recurrent.lstm, []
    monkeypatch.setattr(torch, "lstm", lambda *args: shapes.append(tuple(args[0].shape)) or fused(*args))
    monkeypatch.setattr(recurrent, "lstm", lambda *args: shapes.append("by steps") or by_steps(*args))
    LSTMEncoder(dim, hidden)(sequence(lengths, dim, max(lengths)))
    return shapes


def test_wide_features_are_read_step_by_step_and_others_in_groups_that_are_worth_it(monkeypatch):
    assert reads(monkeypatch, 768, [9, 2, 2]) == ["by steps"]
    # A step is 4 * 32 * (20 + 32) multiplications: 500 steps of padding are 3 million of them, 9 * 450 are 27 million.
    assert reads(monkeypatch, 20, [300, 100, 50]) == [(3, 300, 20)]
    assert reads(monkeypatch, 20, [500, 100, *[50] * 9]) == [(2, 500, 20), (9, 50, 20)]


@pytest.mark.gpu
@pytest.mark.parametrize(("layers", "bidirectional"), SHAPES)
def test_a_gpu_reads_the_same(layers, bidirectional):
    encoder, batch = LSTMEncoder(3, 5, layers, bidirectional), sequence()
    states, final = encoder(batch)
    states_there, final_there = encoder.cuda()(batch.to("cuda"))
    torch.testing.assert_close(states_there.values.cpu(), states.values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(final_there.cpu(), final, atol=1e-5, rtol=1e-4)


@every_form
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_layer_gets_a_gradient_from_the_final_state(bidirectional):
    encoder = LSTMEncoder(3, 5, layers=3, bidirectional=bidirectional)
    encoder(sequence())[1].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


@every_form
def test_a_sample_without_steps_is_one_step_of_zeros():
    torch.manual_seed(0)
    encoder = LSTMEncoder(3, 5)
    batch = PaddedSequence(torch.full((2, 3, 3), 7.0), torch.tensor([0, 3]))
    states, final = encoder(batch)
    torch.testing.assert_close(final[0], encoder.rnn(torch.zeros(1, 1, 3))[0][0, 0])
    assert not states.values[0].any()


@every_form
def test_vector_projects_the_final_state():
    torch.manual_seed(0)
    vector = LSTMVector(3, 5, 4, bidirectional=True)
    batch = sequence()
    expected = vector.encoder(batch)[1] @ vector.linear.weight.T + vector.linear.bias
    torch.testing.assert_close(vector(batch), expected)
    # two directions of 4 gates x 5 units with 3 inputs, 5 recurrences and two biases each, then 10 -> 4
    assert sum(parameter.numel() for parameter in vector.parameters()) == 2 * 20 * (3 + 5 + 2) + 10 * 4 + 4


def test_vector_drops_out_the_final_state():
    vector = LSTMVector(3, 5, 4, layers=2, dropout=1.0)
    torch.testing.assert_close(vector(sequence()), vector.linear.bias.expand(3, 4))


@pytest.mark.parametrize("capability", ["AVX2", torch.backends.cpu.get_cpu_capability()])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_half_precision_is_for_processors_that_have_it_and_others_read_in_single(
    monkeypatch: pytest.MonkeyPatch, capability: str, bidirectional: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    torch.manual_seed(0)
    encoder = LSTMEncoder(4, 6, layers=2, bidirectional=bidirectional)
    sequence = PaddedSequence(torch.randn(3, 5, 4), torch.tensor([5, 2, 4]))
    states, final = encoder(sequence)
    with torch.autocast("cpu", torch.bfloat16):
        half = PaddedSequence(sequence.values.bfloat16(), sequence.lengths)
        found, last = encoder(half)
    rough = capability.startswith("AVX512")
    assert (found.values.dtype == torch.float32) or rough
    for ours, theirs in ((found.values, states.values), (last, final)):
        torch.testing.assert_close(ours.float(), theirs, rtol=0.05, atol=0.02)
    loss = last.float().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
