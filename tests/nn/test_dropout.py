"""The dropout of the project: how often, how much, with which gradient, and what it leaves alone."""

import math
from itertools import combinations

import pytest
import torch
from torch import nn

from mmbench.nn.dropout import CHUNK, Dropout, dropout

MANY = 2**20
# The probabilities of 16 bits, by hand: the nearest multiple of 2 ** -16, never 0 or 1.
SHARES = {
    1e-9: 1,
    1e-5: 1,
    3e-5: 2,
    0.1: 6554,
    0.25: 16384,
    0.5: 32768,
    0.7: 45875,
    0.9: 58982,
    0.999: 65470,
    1 - 1e-9: 65535,
}


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
    """Let tensors of any size be dropped from by our own means."""
    monkeypatch.setattr("mmbench.nn.dropout.FEW", 0)


def seeded(x, p, seed=0):
    torch.manual_seed(seed)
    return dropout(x, p)


def assert_share(zeros, share):
    """Check that a share of elements was drawn with a probability: five standard errors."""
    error = math.sqrt(share * (1 - share) / zeros.numel())
    assert abs(zeros.double().mean().item() - share) < 5 * error


@pytest.mark.parametrize(("p", "of_65536"), SHARES.items())
def test_elements_are_dropped_with_their_probability(p, of_65536):
    assert_share(seeded(torch.ones(2 * MANY), p) == 0, of_65536 / 65536)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_the_mean_stays(p):
    kept = seeded(torch.ones(MANY, dtype=torch.float64), p)
    error = math.sqrt(p / (1 - p) / kept.numel())
    assert abs(kept.mean().item() - 1) < 5 * error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [1e-5, 0.1, 0.5, 0.999])
def test_what_is_kept_is_divided_by_the_probability_that_it_has(dtype, p):
    x = torch.randn(MANY).to(dtype)
    before = x.clone()
    y = seeded(x, p)
    kept = y != 0
    assert y.dtype == dtype
    assert torch.equal(x, before)
    assert torch.equal(y[kept], (x * (1 / (1 - SHARES[p] / 65536)))[kept])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_of_one_random_number_are_independent(p):
    """Four neighbours share 64 bits; none may be rarer than the others or go with another one."""
    zeros = (seeded(torch.ones(4 * MANY), p) == 0).view(-1, 4)
    share = SHARES[p] / 65536
    for lane in range(4):
        assert_share(zeros[:, lane], share)
    for one, other in combinations(range(4), 2):
        assert_share(zeros[:, one] & zeros[:, other], share**2)
    # All sixteen patterns: their chi-square has 15 degrees of freedom, so a mean of 15 and a variance of 30.
    pattern = (zeros * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16).double()
    expected = torch.tensor(
        [share ** number.bit_count() * (1 - share) ** (4 - number.bit_count()) for number in range(16)]
    )
    chi_square = ((pattern - expected * len(zeros)) ** 2 / (expected * len(zeros))).sum().item()
    assert chi_square < 15 + 5 * math.sqrt(30)
    # Nor do the next four know of these.
    assert_share(zeros[:-1] & zeros[1:], share**2)


def test_the_seed_decides_the_mask():
    x = torch.ones(1000)
    assert torch.equal(seeded(x, 0.5), seeded(x, 0.5))
    assert not torch.equal(seeded(x, 0.5), seeded(x, 0.5, seed=1))
    assert not torch.equal(dropout(x, 0.5), dropout(x, 0.5))


def test_the_gradient_has_the_mask_of_the_value():
    x = torch.randn(1001, dtype=torch.float64, requires_grad=True)
    y, weights = seeded(x, 0.3), torch.randn(1001, dtype=torch.float64)
    (y * weights).sum().backward()
    scale = 1 / (1 - 19661 / 65536)
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, scale * weights))


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_gradients_and_their_gradients_are_those_of_the_function(p):
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: seeded(x, p), x)
    assert torch.autograd.gradgradcheck(lambda x: seeded(x, p), x)


def test_one_byte_per_element_is_remembered():
    remembered = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: remembered.append(saved) or saved, lambda saved: saved):
        dropout(torch.ones(100, 7, requires_grad=True), 0.5)
    assert [(saved.shape, saved.element_size()) for saved in remembered] == [((100, 7), 1)]


def test_nothing_is_dropped_without_need():
    x = torch.randn(5)
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.5, training=False) is x
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_all_is_dropped_with_probability_one():
    x = torch.randn(5, requires_grad=True)
    y = dropout(x, 1.0)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (5,), (7, 3), (2, 3, 5), ()])
def test_sizes_need_not_be_multiples_of_four(shape):
    torch.manual_seed(0)
    drawn = torch.stack([dropout(torch.ones(shape), 0.5) for _ in range(1000)])
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    for element in drawn.view(1000, -1).unbind(1):
        assert_share(element == 0, 0.5)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_nothing_may_be_given(shape):
    x = torch.ones(shape, requires_grad=True)
    y = dropout(x, 0.5)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape


@pytest.mark.parametrize(
    "view", [lambda x: x.mT, lambda x: x[::2], lambda x: x[:, :1].expand(-1, 9), lambda x: x[None, 3:, 1:]]
)
def test_memory_need_not_be_contiguous(view):
    x = view(torch.randn(8, 6))
    assert not x.is_contiguous()
    assert torch.equal(seeded(x, 0.5), seeded(x.contiguous(), 0.5))


def test_the_module_is_the_function_with_its_own_probability():
    module, x = Dropout(0.5), torch.randn(100)
    for p in (0.5, 0.1):
        module.p = p
        torch.manual_seed(0)
        assert torch.equal(module(x), seeded(x, p))
    assert isinstance(module, nn.Dropout)  # what looks for dropouts in a model finds it
    with pytest.raises(ValueError, match="between 0 and 1"):
        Dropout(1.5)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_other_devices_and_small_tensors_use_the_dropout_of_torch(monkeypatch, device):
    asked = []
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p: asked.append(p) or x)
    monkeypatch.setattr("mmbench.nn.dropout.FEW", 5 if device == "cpu" else 0)
    x = torch.ones(4, device=device)
    assert dropout(x, 0.5) is x
    assert asked == [0.5]
    if device == "cpu":
        assert dropout(torch.ones(5), 0.5).count_nonzero() in range(6)
        assert asked == [0.5]


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK + 1, 3 * CHUNK + 77])
def test_parts_draw_what_one_would(size, monkeypatch):
    parts = seeded(torch.ones(size), 0.3)
    monkeypatch.setattr("mmbench.nn.dropout.CHUNK", 2**30)
    assert torch.equal(parts, seeded(torch.ones(size), 0.3))


def test_what_is_not_contiguous_goes_by_parts_too():
    x = torch.randn(600, 500).T.requires_grad_()
    kept = seeded(torch.ones(500, 600), 0.25)
    found = seeded(x, 0.25)
    torch.testing.assert_close(found, x * kept)
    weights = torch.randn(600, 500).T
    (gradient,) = torch.autograd.grad(found, x, weights)
    torch.testing.assert_close(gradient, weights * kept)
