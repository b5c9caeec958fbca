"""EffMulti: sizes, the two levels, frozen text, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.config import ConfigError
from mmbench.methods.effmulti import EffMulti
from mmbench.methods.effmulti.network import EffMultiNetwork, KindGate, ModalityAttention
from mmbench.nn.three_view import ModalityVector
from mmbench.testing.builders import DIMS, make_spec
from tests.methods.effmulti.parts import ORDERS, SMALL, build, normal, sample
from tests.methods.parts import count

# Sizes


def test_sizes_at_the_default_settings():
    network = EffMultiNetwork(make_spec().modalities, DIMS, 1, EffMulti.Config())
    assert count(network.views.full) == 49_280
    assert count(network.views.shared) == 16_512
    assert count(network.views.specific) == 49_536
    assert count(network.fusion.attention) == 8_256 + 64
    assert count(network.fusion.gate) == 1_155
    assert count(network.fusion.norm) == 256
    assert count(network.head) == 8_256 + 65
    assert count(network) - count(network.vectors) == 133_380 < 1_850_244 / 10  # InterMulti's count


@pytest.mark.parametrize(("text_reader", "gru"), [("mean", False), ("gru", True)])
def test_the_reader_of_text_is_a_setting(text_reader, gru):
    parts = build(text_reader=text_reader).network.vectors.parts
    assert {m: part.gru is not None for m, part in parts.items()} == {"text": gru, "audio": True, "vision": True}


def test_dropout_is_inside_the_head():
    rates = {n: p.p for n, p in build(dropout=0.4).network.named_modules() if isinstance(p, nn.Dropout) and p.p}
    assert rates == {"head.2": 0.4}


def test_cost_grows_with_length_and_not_with_its_square():
    """Of each real step: a linear layer, and three gates that look at its result and at the state.

    The counter does not see what two of the gates add up in place of the state.
    """
    dim, hidden = 5, 4

    def multiply_adds(steps):
        part = ModalityVector(dim, 8, "gru", hidden).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(PaddedSequence(torch.randn(2, steps, dim), torch.tensor([steps, 1])))
        return counter.get_total_flops() // 2

    after = 2 * hidden * 8
    each = dim * hidden + (3 + 1) * hidden * hidden
    assert [multiply_adds(steps) - after for steps in (10, 20)] == [(10 + 1) * each, (20 + 1) * each]


def test_views_are_as_light_as_they_get():
    views = build().network.views
    assert [type(part) for part in views.full] == [nn.Linear, nn.GELU]
    for part in (views.shared, *views.specific.values()):
        assert [type(layer) for layer in part] == [nn.Linear, nn.ReLU]


# The two levels


def test_attention_is_its_equation():
    torch.manual_seed(0)
    level, x = ModalityAttention(8, 6), torch.randn(4, 3, 8)
    inner, query = level.score[0], level.score[2]
    score = torch.tanh(x @ inner.weight.T + inner.bias) @ query.weight[0]
    torch.testing.assert_close(level(x), score.exp() / score.exp().sum(1, keepdim=True))
    assert query.bias is None


def test_attention_moves_with_the_modalities():
    level, x = ModalityAttention(8, 6), torch.randn(4, 3, 8)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(level(x[:, order]), level(x)[:, order])
    fused = [(level(vectors)[..., None] * vectors).sum(1) for vectors in (x, x[:, order])]
    torch.testing.assert_close(*fused)


def test_the_gate_sees_all_kinds():
    torch.manual_seed(0)
    level, x = KindGate(3, 8), torch.randn(4, 3, 8)
    score = torch.cat([x[:, 0], x[:, 1], x[:, 2]], 1) @ level.linear.weight.T + level.linear.bias
    torch.testing.assert_close(level(x), score.exp() / score.exp().sum(1, keepdim=True))


@pytest.mark.parametrize("fusion", ORDERS)
def test_weights_are_probabilities(fusion):
    named = build(fusion=fusion)(sample()).named
    for name in ("modality_weights", "kind_weights"):
        assert (named[name] > 0).all()
        total = named[name].sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))
    assert named["modality_weights"].shape == (12, 3)
    assert named["modality_weights"].std(0).min() > 0
    assert named["kind_weights"].shape == ((12, 3) if fusion == "modality_first" else (12, 3, 3))


@pytest.mark.parametrize("fusion", ORDERS)
def test_a_query_and_a_gate_of_zero_weigh_alike(fusion):
    method = build(fusion=fusion)
    nn.init.zeros_(method.network.fusion.attention.score[2].weight)
    nn.init.zeros_(method.network.fusion.gate.linear.weight)
    nn.init.zeros_(method.network.fusion.gate.linear.bias)
    named = method(sample()).named
    for name in ("modality_weights", "kind_weights"):
        torch.testing.assert_close(named[name], torch.full_like(named[name], 1 / 3))


def test_modalities_first_is_its_equation():
    named = build()(sample()).named
    own = sum(named["modality_weights"][:, [i]] * named[f"specific_{m}"] for i, m in enumerate(MODALITIES))
    kinds = named["full"], named["common"], own
    fused = sum(named["kind_weights"][:, [i]] * kind for i, kind in enumerate(kinds))
    torch.testing.assert_close(named["z"], normal(fused + named["full"]))


def test_semantics_first_is_its_equation():
    method, batch = build(fusion="semantic_first"), sample()
    named = method(batch).named
    parts = method.network.views.parts_of_full(method.network.vectors(batch.inputs))
    fused = named["full"]
    for i, m in enumerate(MODALITIES):
        kinds = parts[m], named[f"shared_{m}"], named[f"specific_{m}"]
        mixed = sum(named["kind_weights"][:, i, [k]] * kind for k, kind in enumerate(kinds))
        fused = fused + named["modality_weights"][:, [i]] * mixed
    torch.testing.assert_close(named["z"], normal(fused))


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_gate_that_takes_one_kind_gives_that_kind(kind):
    method = build()
    nn.init.zeros_(method.network.fusion.gate.linear.weight)
    with torch.no_grad():
        method.network.fusion.gate.linear.bias.copy_(200.0 * nn.functional.one_hot(torch.tensor(kind), 3))
    named = method(sample()).named
    own = sum(named["modality_weights"][:, [i]] * named[f"specific_{m}"] for i, m in enumerate(MODALITIES))
    taken = [named["full"], named["common"], own][kind]
    torch.testing.assert_close(named["z"], normal(taken + named["full"]))


def test_prediction_is_the_head_of_the_fused_representation():
    method = build(kind="multiclass").eval()
    output = method(sample())
    assert torch.equal(output.prediction, method.network.head(output.named["z"]))
    assert output.prediction.shape == (12, 3)


# Frozen text


def test_the_text_encoder_is_frozen_unless_it_has_a_rate(tmp_path):
    transformers = pytest.importorskip("transformers")
    tiny = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    transformers.BertModel(tiny).save_pretrained(tmp_path)
    modalities = {"text": ModalitySpec("text", 40, 6, "tokens"), "audio": ModalitySpec("audio", 5, 4)}
    spec = DataSpec("toy", "tokens", "standard", modalities, TargetSpec("regression", ("sentiment",), -3.0, 3.0))
    tokens = PaddedSequence(torch.randint(1, 40, (3, 6)), torch.tensor([6, 3, 1]))
    audio = PaddedSequence(torch.randn(3, 4, 5), torch.tensor([4, 4, 2]))
    batch = Batch({"text": tokens, "audio": audio}, torch.zeros(3), torch.arange(3))

    trained = {}
    for rate in (0.0, 2e-5):
        method = EffMulti(spec, config=EffMulti.Config.parse({**SMALL, "text_encoder": str(tmp_path), "text_lr": rate}))
        method.objective(method(batch), batch)["task"].backward()
        reached = [name for name, p in method.text_encoder.named_parameters() if p.grad is not None]
        assert bool(reached) is bool(rate)
        trained[rate] = sum(p.numel() for group in method.parameter_groups()["main"] for p in group["params"])
    encoder = {name: p.numel() for name, p in method.text_encoder.named_parameters() if p.requires_grad}
    assert trained[2e-5] - trained[0.0] == sum(encoder.values()) > 0
    assert EffMulti.Config().text_lr == 0


# What is refused


def test_no_view_at_all_is_refused():
    with pytest.raises(ConfigError, match="'full', 'shared' and 'specific' are all off; leave one on"):
        build(full=False, shared=False, specific=False)


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(("text",))
