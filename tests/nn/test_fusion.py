from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from mmbench.nn.fusion import LowRankFusion, outer_product, post_fusion


@pytest.mark.parametrize("widths", [(2,), (3, 2), (2, 4, 3)])
def test_outer_product_has_every_product_of_entries(widths):
    """The definition, entry by entry: one factor from each vector with a 1 appended, the last varying fastest."""
    torch.manual_seed(0)
    vectors = [torch.randn(5, width) for width in widths]
    fused = outer_product(vectors)
    for row in range(5):
        extended = [[*vector[row].tolist(), 1.0] for vector in vectors]
        expected = [torch.tensor(factors).prod() for factors in itertools.product(*extended)]
        torch.testing.assert_close(fused[row], torch.stack(expected))


def test_outer_product_keeps_single_modalities_and_a_constant():
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0]])
    assert sorted(outer_product([a, b])[0].tolist()) == [1.0, 2.0, 3.0, 5.0, 10.0, 15.0]


def test_the_gradient_of_an_outer_product_is_that_of_differences():
    torch.manual_seed(0)
    vectors = [torch.randn(2, width, dtype=torch.float64, requires_grad=True) for width in (2, 3, 2)]
    assert torch.autograd.gradcheck(lambda *given: outer_product(given), vectors)


@pytest.mark.parametrize("widths", [{"text": 3, "audio": 2, "vision": 4}, {"text": 3, "vision": 2}])
def test_low_rank_fusion_is_the_product_with_its_full_weight_tensor(widths):
    """Multiplying the factors out to one weight tensor over the outer product gives the same, for any rank."""
    torch.manual_seed(0)
    fusion = LowRankFusion(widths, outputs=2, rank=3).double()
    nn.init.normal_(fusion.bias)
    vectors = {name: torch.randn(4, width, dtype=torch.float64) for name, width in widths.items()}
    letters = "abc"[: len(widths)]
    full = torch.einsum(
        "r," + ",".join(f"r{letter}o" for letter in letters) + f"->{letters}o",
        fusion.weights[0],
        *(fusion.factors[name] for name in widths),
    )
    expected = outer_product(list(vectors.values())) @ full.flatten(0, -2) + fusion.bias
    torch.testing.assert_close(fusion(vectors), expected)


def test_low_rank_fusion_trains_factors_weights_and_bias():
    fusion = LowRankFusion({"text": 3, "audio": 2}, outputs=2, rank=3)
    fusion({"text": torch.randn(4, 3), "audio": torch.randn(4, 2)}).square().sum().backward()
    assert {name: tuple(p.shape) for name, p in fusion.named_parameters()} == {
        "factors.text": (3, 4, 2),
        "factors.audio": (3, 3, 2),
        "weights": (1, 3),
        "bias": (2,),
    }
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.parameters())


def test_factors_start_as_xavier_matrices():
    """Xavier normal has variance 2 / (fan in + fan out) per rank."""
    torch.manual_seed(0)
    factor = LowRankFusion({"text": 199, "audio": 9}, outputs=50, rank=8).factors["text"]
    assert factor.std().item() == pytest.approx((2 / (200 + 50)) ** 0.5, rel=0.02)


def test_post_fusion_has_two_hidden_layers():
    layers = post_fusion(7, 5, 2, 0.1)
    assert [(part.in_features, part.out_features) for part in layers if isinstance(part, nn.Linear)] == [
        (7, 5),
        (5, 5),
        (5, 2),
    ]
