"""The transformer blocks: against PyTorch's own attention, written-out formulas and MulT's mask."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmbench.nn.transformer import (
    Attention,
    CrossmodalEncoder,
    ResidualHead,
    TransformerEncoder,
    attention_bias,
    position_vectors,
)


def filled(module, scale=0.5):
    """Give every parameter random values, biases and norms included, and double precision."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=scale)
    return module.eval()


def counted(batch, steps):
    return torch.arange(1, steps + 1).expand(batch, steps)


@pytest.mark.parametrize("dim", [30, 7, 2])
def test_position_vectors_follow_the_formula(dim):
    got = position_vectors(torch.tensor([[0, 1, 2, 5, 5]]), dim, torch.float64)[0]
    half = dim // 2
    for row, position in zip(got, (0, 1, 2, 5, 5), strict=True):
        for j in range(half):
            angle = position * 10000 ** (-j / max(half - 1, 1))
            expected = (math.sin(angle), math.cos(angle)) if position else (0.0, 0.0)
            assert (row[j].item(), row[half + j].item()) == pytest.approx(expected, abs=1e-12)
        if dim % 2:
            assert row[-1] == 0.0


@pytest.mark.parametrize(("dim", "heads"), [(30, 5), (16, 2), (6, 6)])
def test_attention_equals_torch_multihead_attention(dim, heads):
    torch.manual_seed(0)
    ours, theirs = filled(Attention(dim, heads)), nn.MultiheadAttention(dim, heads, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.packed.weight)
        theirs.in_proj_bias.copy_(ours.packed.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    query = torch.randn(3, 4, dim, dtype=torch.float64)
    keys, values = torch.randn(2, 3, 6, dim, dtype=torch.float64)
    lengths = torch.tensor([6, 2, 4])
    bias = attention_bias(torch.tensor([4, 4, 4]), lengths, 4, 6, causal=False)
    padding = torch.arange(6) >= lengths[:, None]
    expected = theirs(query, keys, values, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(ours(query, keys, values, bias), expected, rtol=1e-10, atol=1e-12)
    # Self-attention takes another path through the packed projection.
    future = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    expected = theirs(query, query, query, attn_mask=future, need_weights=False)[0]
    torch.testing.assert_close(ours(query, query, query, causal=True), expected, rtol=1e-10, atol=1e-12)


def test_attention_drops_weights_in_training_only():
    torch.manual_seed(0)
    attention = filled(Attention(8, 2, dropout=0.5))
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert torch.equal(attention(x, x, x), attention(x, x, x))
    attention.train()
    assert not torch.equal(attention(x, x, x), attention(x, x, x))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_runs_on_the_fused_kernel(causal):
    attention = Attention(30, 5).eval()
    x = torch.randn(2, 9, 30)
    lengths = torch.tensor([9, 4])
    bias = None if causal else attention_bias(lengths, lengths, 9, 9, causal=True)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # raises when this kernel cannot be used
        attention(x, x, x, bias, causal)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_runs_on_the_fused_cuda_kernel(dtype):
    # The head width of 6 is none that the kernel takes: it is padded. Dropout and bias must not fall back either.
    attention = Attention(30, 5, dropout=0.1).to("cuda", dtype).train()
    x = torch.randn(2, 9, 30, device="cuda", dtype=dtype, requires_grad=True)
    lengths = torch.tensor([9, 4], device="cuda")
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        attention(x, x, x, attention_bias(lengths, lengths, 9, 9, causal=True)).sum().backward()
    assert x.grad.isfinite().all()


def test_attention_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="4 attention heads do not divide a width of 30"):
        Attention(30, 4)


def visible(queries, keys, causal=True):
    return attention_bias(torch.tensor([queries]), torch.tensor([keys]), queries, keys, causal)[0, 0] == 0


def test_future_mask_has_the_published_shape():
    assert visible(50, 500)[0].sum() == 451
    assert visible(500, 50).all()
    assert torch.equal(visible(6, 6), torch.ones(6, 6, dtype=torch.bool).tril())
    assert visible(6, 9, causal=False).all()


def test_attention_bias_goes_by_the_lengths_of_each_sample():
    got = attention_bias(torch.tensor([2, 5, 3]), torch.tensor([4, 3, 0]), 5, 6, causal=True)[:, 0] == 0
    for sample, (queries, keys) in enumerate([(2, 4), (5, 3), (3, 0)]):
        for i in range(5):
            expected = [j == 0 or (j < keys and j <= i + abs(keys - queries)) for j in range(6)]
            assert got[sample, i].tolist() == expected


def test_self_encoder_hides_the_future():
    torch.manual_seed(0)
    encoder = filled(TransformerEncoder(12, 3, 3))
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:] *= -2.0
    before, after = encoder(x, counted(2, 7), causal=True), encoder(changed, counted(2, 7), causal=True)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    assert not torch.allclose(encoder(x, counted(2, 7))[:, :4], encoder(changed, counted(2, 7))[:, :4])


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_crossmodal_encoder_keeps_the_length_of_its_target(steps):
    encoder = CrossmodalEncoder(12, 3, 2).eval()
    output = encoder(torch.randn(2, 4, 12), counted(2, 4), torch.randn(2, steps, 12), counted(2, steps))
    assert output.shape == (2, 4, 12)


def test_every_layer_reads_the_low_level_source_and_keys_drop_apart_from_values():
    torch.manual_seed(0)
    encoder = CrossmodalEncoder(12, 3, 3, embedding_dropout=0.5)
    seen = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append((args[1], args[2])))
    source = torch.randn(2, 5, 12)
    encoder(torch.randn(2, 4, 12), counted(2, 4), source, counted(2, 5))
    keys, values = seen[0]
    assert all(torch.equal(k, keys) and torch.equal(v, values) for k, v in seen)
    assert not torch.equal(keys, values)
    embedded = math.sqrt(12) * source + position_vectors(counted(2, 5), 12)
    torch.testing.assert_close(keys[keys != 0], 2 * embedded[keys != 0])
    seen.clear()
    encoder.eval()(torch.randn(2, 4, 12), counted(2, 4), source, counted(2, 5))
    assert torch.equal(seen[0][0], seen[0][1])
    torch.testing.assert_close(seen[0][0], embedded)


def test_a_sample_without_source_stays_finite():
    torch.manual_seed(0)
    encoder = CrossmodalEncoder(12, 3, 2)
    target, source = torch.randn(2, 4, 12), torch.zeros(2, 5, 12)
    source[0] = torch.randn(5, 12)
    bias = attention_bias(torch.tensor([4, 4]), torch.tensor([5, 0]), 4, 5, causal=True)
    positions = counted(2, 5) * torch.tensor([[1], [0]])
    output = encoder(target, counted(2, 4), source, positions, bias)
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_residual_head_without_network_is_its_output_layer():
    head = ResidualHead(6, 2)
    x = torch.randn(4, 6)
    assert not torch.allclose(head(x), head.out(x))
    for parameter in head.network.parameters():
        nn.init.zeros_(parameter)
    torch.testing.assert_close(head(x), head.out(x))
