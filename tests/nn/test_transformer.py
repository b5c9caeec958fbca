"""The transformer blocks: against PyTorch's own attention, written-out formulas and MulT's mask."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmbench.nn.steps import Layout
from mmbench.nn.transformer import (
    Attention,
    CrossmodalEncoder,
    ResidualHead,
    TransformerEncoder,
    position_vectors,
)


def filled(module, scale=0.5):
    """Give every parameter random values, biases and norms included, and double precision."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, std=scale)
    return module.eval()


def layout_of(lengths, packed=None, device="cpu"):
    return Layout(torch.tensor(lengths), max(lengths), torch.device(device), packed)


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
@pytest.mark.parametrize("packed", [True, False])
def test_attention_equals_torch_multihead_attention(dim, heads, packed):
    torch.manual_seed(0)
    ours, theirs = filled(Attention(dim, heads)), nn.MultiheadAttention(dim, heads, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.packed.weight)
        theirs.in_proj_bias.copy_(ours.packed.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    query = torch.randn(3, 4, dim, dtype=torch.float64)
    keys, values = torch.randn(2, 3, 6, dim, dtype=torch.float64)
    lengths = [6, 2, 4]
    padding = torch.arange(6) >= torch.tensor(lengths)[:, None]
    expected = theirs(query, keys, values, key_padding_mask=padding, need_weights=False)[0]
    queries, read = layout_of([4, 4, 4], packed), layout_of(lengths, packed)
    found = ours(queries.rows(query), read.rows(keys), read.rows(values), queries.reads(read))
    torch.testing.assert_close(queries.padded(found), expected, rtol=1e-10, atol=1e-12)
    # Self-attention takes another path through the packed projection.
    future, rows = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1), queries.rows(query)
    expected = theirs(query, query, query, attn_mask=future, need_weights=False)[0]
    found = ours(rows, rows, rows, queries.reads(causal=True))
    torch.testing.assert_close(queries.padded(found), expected, rtol=1e-10, atol=1e-12)


def test_attention_drops_weights_in_training_only():
    torch.manual_seed(0)
    attention, plan = filled(Attention(8, 2, dropout=0.5)), layout_of([5, 3]).reads()
    x = torch.randn(8, 8, dtype=torch.float64)
    assert torch.equal(attention(x, x, x, plan), attention(x, x, x, plan))
    attention.train()
    assert not torch.equal(attention(x, x, x, plan), attention(x, x, x, plan))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_attention_without_dropout_runs_on_the_fused_kernel(packed, causal):
    attention, layout = Attention(30, 5).eval(), layout_of([9, 4], packed)
    x = torch.randn(len(layout.sample), 30)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # raises when this kernel cannot be used
        attention(x, x, x, layout.reads(causal=causal))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_runs_on_the_fused_cuda_kernel(dtype):
    # The head width of 6 is none that the kernel takes: it is padded. Dropout and bias must not fall back either.
    attention = Attention(30, 5, dropout=0.1).to("cuda", dtype).train()
    layout, other = layout_of([9, 4], device="cuda"), layout_of([7, 9], device="cuda")
    x = torch.randn(18, 30, device="cuda", dtype=dtype, requires_grad=True)
    for plan in (layout.reads(), layout.reads(causal=True), layout.reads(other, causal=True)):
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
            attention(x, x, x, plan).sum().backward()
    assert x.grad.isfinite().all()


def test_attention_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match="4 attention heads do not divide a width of 30"):
        Attention(30, 4)


def test_self_encoder_hides_the_future():
    torch.manual_seed(0)
    encoder, layout = filled(TransformerEncoder(12, 3, 3)), layout_of([7, 7])
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:] *= -2.0

    def encoded(values, causal):
        return layout.padded(encoder(layout.rows(values), layout, causal=causal))

    before, after = encoded(x, causal=True), encoded(changed, causal=True)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(before[:, 4:], after[:, 4:])
    assert not torch.allclose(encoded(x, causal=False)[:, :4], encoded(changed, causal=False)[:, :4])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_last_step_alone_is_that_of_all_steps(causal, layers):
    torch.manual_seed(0)
    encoder, layout = filled(TransformerEncoder(12, 3, layers)), layout_of([7, 2, 0, 4])
    x = torch.randn(14, 12, dtype=torch.float64)
    every, last = (encoder(x, layout, causal=causal, last=alone) for alone in (False, True))
    torch.testing.assert_close(last, layout.last(every), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoder", [TransformerEncoder(12, 3, 1), CrossmodalEncoder(12, 3, 1)])
def test_positions_are_those_of_the_layout_unless_given(encoder):
    encoder, layout = filled(encoder), layout_of([3, 2])
    x = torch.randn(5, 12, dtype=torch.float64)
    others = (x, layout) if isinstance(encoder, CrossmodalEncoder) else ()
    counted = torch.tensor([1, 2, 3, 1, 2])
    given = [encoder(x, layout, *others, **positions(encoder, places)) for places in (counted, counted.clamp(max=1))]
    assert torch.equal(encoder(x, layout, *others), given[0])
    assert not torch.allclose(*given)


def positions(encoder, places):
    names = ("target_positions", "source_positions") if isinstance(encoder, CrossmodalEncoder) else ("positions",)
    return dict.fromkeys(names, places)


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_crossmodal_encoder_keeps_the_length_of_its_target(steps):
    encoder, target, source = CrossmodalEncoder(12, 3, 2).eval(), layout_of([4, 3]), layout_of([steps, 2])
    output = encoder(torch.randn(7, 12), target, torch.randn(len(source.sample), 12), source)
    assert output.shape == (7, 12)


def test_every_layer_reads_the_low_level_source_and_keys_drop_apart_from_values():
    torch.manual_seed(0)
    encoder, target, layout = CrossmodalEncoder(12, 3, 3, embedding_dropout=0.5), layout_of([4, 2]), layout_of([5, 3])
    seen = []
    for layer in encoder.layers:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[2:]))
    source = torch.randn(8, 12)
    encoder(torch.randn(6, 12), target, source, layout)
    keys, values = seen[0]
    assert all(torch.equal(k, keys) and torch.equal(v, values) for k, v in seen)
    assert not torch.equal(keys, values)
    embedded = math.sqrt(12) * source + position_vectors(torch.tensor([[1, 2, 3, 4, 5, 1, 2, 3]]), 12)[0]
    torch.testing.assert_close(keys[keys != 0], 2 * embedded[keys != 0])
    seen.clear()
    encoder.eval()(torch.randn(6, 12), target, source, layout)
    assert torch.equal(*seen[0])
    torch.testing.assert_close(seen[0][0], embedded)


@pytest.mark.parametrize("packed", [True, False])
def test_a_sample_without_source_stays_finite(packed):
    torch.manual_seed(0)
    encoder, target, source = CrossmodalEncoder(12, 3, 2), layout_of([4, 4], packed), layout_of([5, 0], packed)
    rows = source.rows(torch.randn(2, 5, 12))
    output = encoder(torch.randn(8, 12), target, rows, source, causal=True)
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
