"""vCLUB against its definition, and the running standardisation against numpy."""

import math

import numpy as np
import pytest
import torch

from mmbench.methods.mmmie.club import RunningStandard, club
from mmbench.nn.mutual_information import GaussianConditional, gaussian_log_likelihood


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_club_is_its_definition_over_all_pairs():
    h, mean, logvar = draw(3, 6, 4)
    normal = torch.distributions.Normal(mean[:, None], (logvar / 2).exp()[:, None])
    log_q = normal.log_prob(h[None]).sum(-1)  # (x, h)
    torch.testing.assert_close(club(h, mean, logvar), log_q.diagonal().mean() - log_q.mean())


def test_club_is_zero_where_the_moments_say_nothing_or_there_is_one_row():
    h, mean, logvar = draw(3, 6, 4)
    same = mean[:1].expand(6, -1), logvar[:1].expand(6, -1)
    assert club(h, *same).item() == pytest.approx(0.0, abs=1e-12)
    assert club(h[:1], mean[:1], logvar[:1]).item() == pytest.approx(0.0, abs=1e-12)


def test_club_of_half_precision_is_computed_in_single():
    h, mean, logvar = draw(3, 64, 4).bfloat16()
    h, mean = h + 20, mean + 20  # far from zero, where the means of half precision are coarse
    found = club(h, mean, logvar)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), club(h.double(), mean.double(), logvar.double()), atol=1e-3, rtol=1e-3)


def test_a_perfect_mean_of_unit_variance_has_no_misfit_left():
    h = draw(6, 4)
    assert gaussian_log_likelihood(h, h, torch.zeros_like(h), include_logvar=True) == 0
    torch.testing.assert_close(club(h, h, torch.zeros_like(h)), h.var(0, correction=0).sum())


def fitted(x, h):
    torch.manual_seed(0)
    q = GaussianConditional(x.shape[1], h.shape[1]).double()
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-2)
    for _ in range(200):
        mean, logvar = q(x)
        loss = -gaussian_log_likelihood(h, mean, logvar.tanh(), include_logvar=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return q


def test_club_after_fitting_tells_dependence_from_independence():
    x, noise, other = draw(512, 2), draw(512, 2, seed=1), draw(512, 2, seed=2)
    fresh_x, fresh_noise, fresh_other = draw(512, 2, seed=3), draw(512, 2, seed=4), draw(512, 2, seed=5)
    found = {}
    for name, h, fresh_h in (
        ("dependent", x + 0.3 * noise, fresh_x + 0.3 * fresh_noise),
        ("independent", other, fresh_other),
    ):
        mean, logvar = fitted(x, h)(fresh_x)
        found[name] = club(fresh_h, mean, logvar.tanh()).item()
        found[f"{name}, shuffled"] = club(fresh_h.roll(1, 0), mean, logvar.tanh()).item()
    assert found["dependent"] > 1
    assert found["dependent"] > found["dependent, shuffled"] + 1
    assert abs(found["independent"]) < 0.1


@pytest.mark.parametrize("sizes", [(20,), (8, 8, 4), (1, 19)])
def test_running_moments_are_those_of_all_rows(sizes):
    rows = (draw(20, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([5.0, -3.0, 0.0])).double()
    standard = RunningStandard(3).double()
    for part in rows.split(list(sizes)):
        standard.update(part)
    np.testing.assert_allclose(standard.mean.numpy(), rows.numpy().mean(0), rtol=1e-6)
    np.testing.assert_allclose(standard.variance.numpy(), rows.numpy().var(0), rtol=1e-6)
    assert standard.count == 20
    found = standard(rows)
    torch.testing.assert_close(found.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.std(0, correction=0)[:2], torch.ones(2).double(), atol=1e-4, rtol=0)


def test_standardisation_of_a_first_single_row_is_finite_and_no_parameter():
    standard = RunningStandard(3)
    standard.update(torch.full((1, 3), 7.0))
    assert not standard(torch.full((1, 3), 7.0)).any()
    assert not list(standard.parameters())
    assert set(standard.state_dict()) == {"count", "mean", "variance"}
    assert math.isfinite(standard(torch.zeros(1, 3)).abs().max())
