import pytest
import torch
from torch import nn

from mmbench.nn.branches import Branch, GRUMean, bottleneck
from mmbench.nn.norms import BatchNorm
from mmbench.nn.steps import Layout
from tests.methods.parts import count


def draw(random, *shape):
    return torch.randn(*shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    ("dim", "hidden", "out", "normed", "expected"),
    [
        (2048, (1000, 500), 512, False, 2_809_012),  # official code of VSD
        (61, (48,), 32, True, 4_704),  # official point-cloud code of MV2D
        (128, (128, 64), 64, False, 29_312),
    ],
)
def test_published_sizes_of_bottlenecks(dim, hidden, out, normed, expected):
    assert count(bottleneck(dim, hidden, out, normed)) == expected


@pytest.mark.parametrize(
    ("dim", "z_dim", "logits", "form", "observation", "representation"),
    [
        (2048, 512, 395, "reid", 809_355, 233_355),
        (61, 32, 17, "points", 61 * 17 + 17, 561),
        (128, 64, 7, "reid", 128 * 7 + 7, 2_375),
    ],
)
def test_published_sizes_of_heads(dim, z_dim, logits, form, observation, representation):
    branch = Branch(dim, (8, 8), z_dim, logits, form=form)
    assert count(branch.observation_head) == observation
    assert count(branch.representation_head) == representation


def test_weights_are_drawn_as_in_the_official_code():
    torch.manual_seed(0)
    branch = Branch(400, (300, 200), 512, 100)
    first, norm, _, second = branch.bottleneck[:4]
    for linear in (first, second):
        assert linear.weight.std().item() == pytest.approx((2 / linear.out_features) ** 0.5, rel=0.02)
        assert not linear.bias.any()
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)
    for linear in (branch.observation_head[0], branch.representation_head[0], branch.representation_head[-1]):
        assert linear.weight.std().item() == pytest.approx(1e-3, rel=0.02)
        assert not linear.bias.any()


def test_the_norm_of_an_observation_has_no_shift_to_learn(random):
    branch = Branch(6, (5, 4), 3, 2, dropout=0.0).double()
    reading = branch(draw(random, 10, 6))
    torch.testing.assert_close(reading.v.mean(0), torch.zeros(6, dtype=torch.float64))
    sum(item.sum() for item in reading).backward()
    assert branch.neck.bias.grad is None
    assert not branch.neck.bias.any()
    assert all(item.grad is not None for item in branch.parameters() if item.requires_grad)


def test_a_branch_of_the_point_cloud_code_has_the_vector_as_observation_and_normal_representations(random):
    vector = draw(random, 20, 6)
    branch = Branch(6, (5, 4), 3, 2, form="points").double()
    nn.init.ones_(branch.bottleneck[-1].weight)
    reading = branch(vector)
    assert reading.v is vector
    torch.testing.assert_close(reading.z.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(reading.z.var(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=1e-2, atol=0)
    torch.testing.assert_close(reading.q, branch.representation_head[0](reading.z))


def test_only_the_head_of_the_representation_drops_out(random):
    vector = draw(random, 20, 6).float()
    branch = Branch(6, (5, 4), 4, 2, dropout=0.5)
    first, second = branch(vector), branch(vector)
    for part in "vpz":
        assert torch.equal(getattr(first, part), getattr(second, part))
    assert not torch.equal(first.q, second.q)


def test_a_single_row_is_normalised_by_running_statistics(random):
    ours, theirs = BatchNorm(4).double(), nn.BatchNorm1d(4).double()
    rows = draw(random, 6, 4)
    torch.testing.assert_close(ours(rows), theirs(rows))
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours(rows[:1]), theirs.eval()(rows[:1]))
    assert torch.equal(ours.running_mean, before)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(4)(rows[:1].float())


@pytest.mark.parametrize("packed", [True, False])
def test_gru_mean_is_a_bidirectional_gru_on_each_sample_alone(random, packed):
    lengths = torch.tensor([5, 3, 1])
    values = draw(random, 3, 5, 4)
    ours, theirs = GRUMean(4).double(), nn.GRU(4, 2, batch_first=True, bidirectional=True).double()
    weights = dict(ours.forwards.named_parameters())
    weights |= {f"{name}_reverse": item for name, item in ours.backwards.named_parameters()}
    theirs.load_state_dict(weights)
    expected = [theirs(values[row : row + 1, :length])[0].mean(1) for row, length in enumerate(lengths)]
    layout = Layout(lengths, 5, values.device, packed)
    torch.testing.assert_close(ours(layout.rows(values), layout), torch.cat(expected))


@pytest.mark.parametrize("packed", [True, False])
def test_gru_mean_of_nothing_is_zero(random, packed):
    values = draw(random, 2, 3, 4)
    layout = Layout(torch.tensor([3, 0]), 3, values.device, packed)
    vector = GRUMean(4).double()(layout.rows(values), layout)
    assert vector[0].any()
    assert not vector[1].any()
