import pytest
import torch
from torch import nn

from mmbench.methods.emt_dlfr.simsiam import SimSiam, attraction
from mmbench.nn.norms import BatchNorm
from tests.methods.parts import count


@pytest.fixture
def views():
    torch.manual_seed(0)
    return torch.randn(2, 6, 5, dtype=torch.float64).requires_grad_()


def test_attraction_is_minus_the_mean_cosine(views):
    x, y = views.detach()
    expected = -sum(float(x[i] @ y[i] / (x[i].norm() * y[i].norm())) for i in range(6)) / 6
    assert attraction(x, y).item() == pytest.approx(expected)
    assert attraction(x, 3 * x).item() == pytest.approx(-1)


def test_no_gradient_reaches_the_target(views):
    x, y = views
    (gradient,) = torch.autograd.grad(attraction(x, y), views)
    assert gradient[0].any()
    assert not gradient[1].any()


def test_the_loss_is_symmetric_and_each_view_is_a_fixed_target_of_the_other(views):
    model = SimSiam(5, 3).double().eval()
    loss = model(*views)
    assert model(*views.flip(0)).item() == pytest.approx(loss.item())
    z = model.projector(views.flatten(0, 1)).view_as(views)
    q = model.predictor(z.flatten(0, 1)).view_as(views)
    cosine = torch.cosine_similarity(q, z.flip(0).detach(), dim=-1)
    expected = -cosine.mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, views)[0] for value in (loss, expected)))


def test_a_perfect_prediction_costs_minus_one(views):
    model = SimSiam(5, 3).double()
    model.predictor = nn.Identity()
    assert model(views[0], views[0]).item() == pytest.approx(-1)


def test_parameters_are_those_of_two_linear_networks():
    assert count(SimSiam(16, 8).projector) == 16 * 16 + 16
    assert count(SimSiam(16, 8).predictor) == 16 * 8 + 2 * 8 + 8 * 16 + 16


def test_rows_are_normalised_as_torch_does_but_a_single_one_by_running_statistics(views):
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm1d(5).double()
    for module in (ours, theirs):
        module.train()(views[0])
    torch.testing.assert_close(ours(views[1]), theirs(views[1]))
    before = ours.running_mean.clone()
    alone = ours(views[0, :1])
    torch.testing.assert_close(alone, theirs.eval()(views[0, :1]))
    assert torch.equal(ours.running_mean, before)
