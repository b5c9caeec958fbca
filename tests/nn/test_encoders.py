from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.nn.encoders import AverageDNN, FeatureNorm, SequenceEncoder, Subnetworks


def sequence(lengths: list[int], dim: int = 3, steps: int = 5, seed: int = 0) -> PaddedSequence:
    torch.manual_seed(seed)
    made = PaddedSequence(torch.randn(len(lengths), steps, dim), torch.tensor(lengths))
    made.values *= made.mask.unsqueeze(-1)
    return made


def with_garbage(made: PaddedSequence) -> PaddedSequence:
    return PaddedSequence(torch.where(made.mask.unsqueeze(-1), made.values, 1e3), made.lengths)


def with_padding(made: PaddedSequence, steps: int = 4) -> PaddedSequence:
    return PaddedSequence(nn.functional.pad(made.values, (0, 0, 0, steps)), made.lengths)


def encoder() -> SequenceEncoder:
    torch.manual_seed(1)
    return SequenceEncoder(3, width=8, layers=2, heads=2, dropout=0.1)


def test_feature_norm_is_batch_norm_of_the_real_rows():
    """Output, gradient and running statistics agree with nn.BatchNorm1d fed with nothing but the real rows."""
    ours, theirs = FeatureNorm(3), nn.BatchNorm1d(3)
    for seed in range(3):
        made = with_garbage(sequence([5, 2, 1], seed=seed))
        got, expected = ours(made.values, made.mask)[made.mask], theirs(made.values[made.mask])
        torch.testing.assert_close(got, expected)
    for output in (got, expected):
        output.pow(3).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_variance, theirs.running_var)
    made = sequence([4, 3], seed=7)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(made.values, made.mask)[made.mask], theirs(made.values[made.mask]))


def test_feature_norm_takes_statistics_of_half_precision_in_single_precision():
    values = (torch.randn(4000, 3) + 3).bfloat16()
    got = FeatureNorm(3)(values)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, nn.BatchNorm1d(3)(values.float()))


def test_feature_norm_of_vectors_needs_no_mask():
    values = torch.randn(6, 3)
    torch.testing.assert_close(FeatureNorm(3)(values), nn.BatchNorm1d(3)(values))


def test_feature_norm_leaves_padding_at_zero():
    norm = FeatureNorm(3)
    nn.init.ones_(norm.bias)
    made = with_garbage(sequence([5, 2]))
    assert (norm(made.values, made.mask)[~made.mask] == 0).all()


def test_feature_norm_of_one_row_uses_and_keeps_the_running_statistics():
    norm = FeatureNorm(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_variance.fill_(4.0)
    values = torch.tensor([[3.0, 2.0, -1.0]])
    torch.testing.assert_close(norm(values), torch.tensor([[1.0, 0.0, -2.0]]))
    assert norm.running_mean.tolist() == [1.0, 2.0, 3.0]
    assert norm.running_variance.tolist() == [4.0] * 3


@pytest.mark.parametrize("change", [with_garbage, with_padding])
@pytest.mark.parametrize("train", [False, True])
def test_sequence_encoder_sees_real_steps_only(change, train):
    made = sequence([5, 2, 1])
    model = encoder()
    for part in model.modules():
        if isinstance(part, nn.Dropout | nn.MultiheadAttention):
            part.p = part.dropout = 0.0
    model.train(train)
    torch.testing.assert_close(model(change(made)), model(made), atol=1e-5, rtol=1e-5)


def test_sequence_encoder_knows_the_order_of_steps():
    made, model = sequence([5]), encoder().eval()
    assert (model(PaddedSequence(made.values.flip(1), made.lengths)) - model(made)).abs().max() > 1e-3


def test_sequence_encoder_mixes_steps():
    """The state of one step depends on the others: not a mean of steps that were encoded alone."""
    made, model = sequence([5]), encoder().eval()

    def states(values: Tensor) -> Tensor:
        kept = []
        handle = model.layers.norm.register_forward_hook(lambda *call: kept.append(call[-1]))
        model(PaddedSequence(values, made.lengths))
        handle.remove()
        return kept[0]

    other = made.values.clone()
    other[:, 4] += 1.0
    assert (states(other) - states(made.values))[0].abs().max() > 1e-4


@pytest.mark.parametrize("train", [False, True])
def test_sequence_encoder_of_no_real_step_is_finite(train):
    model = encoder().train(train)
    vector = model(sequence([0, 3]))
    vector.square().sum().backward()
    assert vector[0].abs().sum() == 0
    assert vector.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_average_dnn_sees_the_mean_of_real_steps():
    model = AverageDNN(3, 4, 0.0).eval()
    made = with_garbage(sequence([5, 2]))
    mean = torch.stack([made.values[0].mean(0), made.values[1, :2].mean(0)])[:, None]
    torch.testing.assert_close(model(made), model(PaddedSequence(mean, torch.tensor([1, 1]))))


@pytest.mark.parametrize(("steps", "ordered"), [(5, True), (1, False)])
def test_subnetworks_read_text_sequences_in_order(steps, ordered):
    """Text of several steps goes to an LSTM, which knows order; audio goes to a time average, which does not."""
    torch.manual_seed(0)
    modalities = {name: ModalitySpec(name, 3, steps) for name in ("text", "audio")}
    widths = {"text": 4, "audio": 6, "vision": 2}
    model = Subnetworks(modalities, {"text": 3, "audio": 3}, widths, text_hidden=8, dropout=0.0).eval()
    made = sequence([5, 5])
    turned = PaddedSequence(made.values.flip(1), made.lengths)
    before, after = model({"text": made, "audio": made}), model({"text": turned, "audio": turned})
    assert model.widths == {"text": 4, "audio": 6}
    assert {name: vector.shape[1] for name, vector in before.items()} == model.widths
    torch.testing.assert_close(after["audio"], before["audio"])
    assert ((after["text"] - before["text"]).abs().max() > 1e-4) == ordered
