"""LMR-CBT's cross-modal blocks beside their formula, and their order."""

import pytest
import torch

from mmbench.methods.lmr_cbt.network import CBBlock
from mmbench.nn.steps import Layout
from tests.methods.lmr_cbt.parts import random_inputs, tiny, watch


def blended(block, states, lengths, vector, packed=True):
    """Return what a block makes of padded sequences, padded."""
    layout = Layout(torch.tensor(lengths), states.shape[1], states.device, packed)
    return layout.padded(block(layout.rows(states), layout, vector))


def test_block_is_its_formula():
    block, states, vector = CBBlock(3).double(), torch.randn(2, 4, 3).double(), torch.randn(2, 3).double()
    fused = blended(block, states, [4, 4], vector)
    for row in range(2):
        for step in range(4):
            joint = block.step.weight @ states[row, step] + block.step.bias + block.vector.weight @ vector[row]
            raised = joint.tanh().exp()
            torch.testing.assert_close(fused[row, step], raised / raised.sum())
    assert (fused > 0).all()
    torch.testing.assert_close(fused.sum(-1), torch.ones(2, 4).double())


def test_block_treats_every_step_alike():
    block, order = CBBlock(6).double(), torch.tensor([3, 0, 4, 1, 2])
    states, vector, lengths = torch.randn(2, 5, 6).double(), torch.randn(2, 6).double(), [5, 5]
    fused = blended(block, states, lengths, vector)
    torch.testing.assert_close(blended(block, states[:, order], lengths, vector), fused[:, order])


@pytest.mark.parametrize("packed", [True, False])
def test_softmax_over_time_runs_over_real_steps(packed):
    block = CBBlock(3, over_time=True).double()
    states, vector = torch.randn(3, 4, 3).double().requires_grad_(), torch.randn(3, 3).double()
    fused = blended(block, states, [4, 2, 0], vector, packed)
    for row, length in enumerate((4, 2)):
        joint = torch.stack([block.step(states[row, step]) + block.vector(vector[row]) for step in range(length)])
        torch.testing.assert_close(fused[row, :length], joint.tanh().softmax(0), rtol=1e-12, atol=0)
        assert not fused[row, length:].any()
    assert not fused[2].any()
    fused.square().sum().backward()
    assert states.grad.isfinite().all()


def test_blocks_of_zeros_add_an_equal_share_to_every_channel():
    network = tiny()
    for block in network.blocks.values():
        for parameter in block.parameters():
            torch.nn.init.zeros_(parameter)
    local, read, _ = watch(network)
    network(random_inputs())
    torch.testing.assert_close(read["text"], local["text"].rows + 1 / 16)


def test_blocks_take_vision_then_audio():
    """X_f = block_a(block_v(X, F_v), F_a) + X, with F the last real step of the encoders."""
    network, inputs = tiny(), random_inputs()
    local, read, made = watch(network)
    states = network(inputs)[1]
    text, f_audio, f_vision = local["text"], states[:, 16:32], states[:, 32:]
    z1 = network.blocks["vision"](*text, f_vision)
    z2 = network.blocks["audio"](z1, text.layout, f_audio)
    torch.testing.assert_close(made["audio"], z2)
    torch.testing.assert_close(read["text"], z2 + text.rows)
