"""MMMIE: its sizes, its variants, its identity embeddings, and its settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods import ConfigError
from mmbench.methods.mmmie import MMMIE
from mmbench.methods.mmmie.network import TokenFusion
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import position_vectors
from mmbench.testing.builders import padded, rows, with_garbage
from tests.methods.forms import assert_forms_agree
from tests.methods.mmmie.parts import SMALL, build, gradients, sample

# The network


def test_sizes():
    """Those of the reconstruction at MOSI's widths: encoders, projections, Gaussians, tokens, transformer, head."""
    modalities = {name: ModalitySpec(name, dim, 50) for name, dim in {"text": 768, "audio": 74, "vision": 47}.items()}
    spec = DataSpec("made_up", "random", "standard", modalities, TargetSpec("regression", ("sentiment",), -3.0, 3.0))
    method = MMMIE(spec)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in method.network.named_children()}
    assert count["encoders"] == 98_432 + 36_224 + 29_312 == 163_968
    assert count["projections"] == 3 * 24_768 == 74_304
    fusion = method.network.fusion
    layers = sum(parameter.numel() for parameter in fusion.layers.parameters())
    head = sum(parameter.numel() for parameter in fusion.head.parameters())
    assert (layers, head, fusion.token.numel(), fusion.identity.numel()) == (396_544, 16_641, 128, 3 * 128)
    assert count["fusion"] == layers + head + 128 + 3 * 128 + 2 * 128  # and the closing norm
    gaussians = [sum(p.numel() for p in part.parameters()) for part in method.estimators.values()]
    assert gaussians == [229_888, 52_224, 45_312]
    assert sum(gaussians) == 327_424
    # Without the two role vectors of the reconstruction, with a closing norm of as many.
    main = sum(p.numel() for group in method.parameter_groups()["main"] for p in group["params"])
    assert main == 652_225 - 2 * 128 + 2 * 128
    assert sum(parameter.numel() for parameter in method.parameters()) == 979_649


VARIANTS = [{"fusion": "sequence"}, {"fusion": "sequence", "identity": "position"}, {"identity": "none"}]


@pytest.mark.parametrize("settings", VARIANTS)
def test_variants_ignore_padding_and_company(settings):
    method, batch = build(**settings).eval(), sample(6)
    with torch.no_grad():
        prediction = method(batch).prediction
        torch.testing.assert_close(method(with_garbage(padded(batch, 4))).prediction, prediction, atol=1e-5, rtol=1e-5)
        for row in range(6):
            alone = method(rows(batch, torch.tensor([row]))).prediction
            torch.testing.assert_close(alone, prediction[[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS)
def test_every_parameter_of_a_variant_learns(settings):
    method = build(**settings).train()
    _, reached = gradients(method, sample())
    assert set(reached) == {name for name, _ in method.named_parameters() if not name.startswith("estimators.")}
    assert all(gradient.any() for name, gradient in reached.items() if ".attention.packed.bias" not in name)


def test_steps_enter_the_fusion_only_as_a_sequence():
    method, batch = build(layers=2), sample()
    assert all(encoder.steps is None for encoder in method.network.encoders.values())
    seen = []
    sequence = build(fusion="sequence", layers=2)
    for model in (method, sequence):
        model.network.fusion.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[1].queries.lengths))
        model(batch)
    assert seen[0].tolist() == [1 + 3] * 16
    assert torch.equal(seen[1], 1 + 3 + sum(item.lengths for item in batch.inputs.values()))


def some_without_audio(size):
    """Return a batch in double precision whose first sample has no step of audio; its vector is there all the same."""
    batch = sample(size)
    for name, item in batch.inputs.items():
        lengths = item.lengths * (torch.arange(size) > 0) if name == "audio" else item.lengths
        values = item.values.double()
        batch.inputs[name] = PaddedSequence(values * PaddedSequence(values, lengths).mask[..., None], lengths)
    return batch


@pytest.mark.parametrize("settings", [{}, *VARIANTS[:2]], ids=str)
def test_the_fusion_reads_the_token_of_what_the_layers_make_of_all_tokens(settings):
    """Beside torch's layers over padded tokens with a mask, all queries of all layers computed."""
    model, inputs = build(layers=2, **settings).double().train().network.fusion, some_without_audio(5).inputs
    random = torch.Generator().manual_seed(3)
    h, steps, tokens, real = vectors(5), {}, [model.token.expand(5, 1, -1)], [torch.ones(5, 1, dtype=torch.bool)]
    for number, (name, item) in enumerate(inputs.items()):
        values = torch.randn(5, item.values.shape[1], 8, generator=random).double()
        layout = Layout.of(PaddedSequence(values, item.lengths))
        if model.positions:
            table = position_vectors(torch.arange(values.shape[1] + 1), 8, torch.float64)
        own, mask = [h[name][:, None]], [real[0]]
        if settings:
            steps[name] = layout.rows(values), layout
            own.append(values + table[1:] if model.positions else values)
            mask.append(item.mask)
        tokens.append(torch.cat(own, 1) + model.identity[number])
        real.append(torch.cat(mask, 1))
    x, hidden = torch.cat(tokens, 1), ~torch.cat(real, 1)
    for layer in model.layers:
        read = layer.attention_norm(x)
        attention = layer.attention
        read = nn.functional.multi_head_attention_forward(
            *[read.transpose(0, 1)] * 3,
            *(8, 2, attention.packed.weight, attention.packed.bias, None, None, False, 0.0),
            *(attention.out.weight, attention.out.bias),
            key_padding_mask=hidden,
            need_weights=False,
        )[0].transpose(0, 1)
        x = x + read
        x = x + layer.network(layer.network_norm(x))
    torch.testing.assert_close(model(h, steps)[1], model.norm(x[:, 0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, *VARIANTS], ids=str)
def test_real_steps_alone_give_the_numbers_of_all_steps(settings):
    method, batch = build(layers=2, **settings).double().train(), some_without_audio(6)
    assert_forms_agree(method, lambda: method(batch).prediction)


# The identity embedding


def fusion(**settings):
    torch.manual_seed(0)
    return TokenFusion(list(MODALITIES), 2, MMMIE.Config(**SMALL | settings)).double()


def vectors(size=3):
    random = torch.Generator().manual_seed(1)
    return {name: torch.randn(size, 8, generator=random).double() for name in MODALITIES}


def test_the_fusion_knows_which_modality_a_vector_is():
    h = vectors()
    exchanged = {"text": h["audio"], "audio": h["text"], "vision": h["vision"]}
    model = fusion()
    nn.init.normal_(model.identity)
    assert (model(h, {})[1] - model(exchanged, {})[1]).abs().max() > 1e-3
    nn.init.zeros_(model.identity)
    torch.testing.assert_close(model(h, {}), model(exchanged, {}))


def test_without_identity_the_order_of_tokens_says_nothing():
    model, h = fusion(identity="none"), vectors()
    assert model.identity is None
    exchanged = {"text": h["vision"], "audio": h["text"], "vision": h["audio"]}
    torch.testing.assert_close(model(h, {}), model(exchanged, {}))


def test_an_identity_belongs_to_the_vector_and_to_every_step():
    model, h = fusion(fusion="sequence"), vectors()
    layout, seen = Layout(torch.tensor([4, 4, 4]), 4, model.token.device), []
    steps = {name: (layout.rows(h[name][:, None].repeat(1, 4, 1)), layout) for name in MODALITIES}
    model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[2].detach()))
    model(h, steps)
    nn.init.constant_(model.identity, 0.0)
    model(h, steps)
    nn.init.ones_(model.identity[1:2])
    model(h, steps)
    torch.testing.assert_close(
        seen[2] - seen[1],
        torch.cat([torch.zeros(6), torch.ones(5), torch.zeros(5)]).double().repeat(3)[:, None].expand(-1, 8),
    )


@pytest.mark.parametrize(("identity", "varies"), [("modality", False), ("position", True)])
def test_places_of_steps_matter_where_the_identity_says_them(identity, varies):
    model, h = fusion(fusion="sequence", identity=identity), vectors()
    values = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2)).double()
    layout = Layout.of_all(values)
    _, before = model(h, {"audio": (layout.rows(values), layout)})
    _, after = model(h, {"audio": (layout.rows(values.flip(1)), layout)})
    assert bool((before - after).abs().max() > 1e-6) is varies


# Settings


def test_settings_that_cannot_work():
    with pytest.raises(ConfigError, match=r"'heads' is 3; it must divide dim, 128"):
        MMMIE.Config(heads=3)
    with pytest.raises(ConfigError, match=r"'identity' is 'position'.*set fusion to 'sequence'"):
        MMMIE.Config(identity="position")
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("vision",))


def test_nothing_is_published():
    assert not MMMIE.card.published
    assert MMMIE.card.fidelity == "abstract"
    assert MMMIE.card.code is None
