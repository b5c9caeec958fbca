"""MMMIE: its sizes, its variants, its identity embeddings, and its settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES, DataSpec, ModalitySpec, TargetSpec
from mmbench.methods import ConfigError
from mmbench.methods.mmmie import MMMIE, TokenFusion
from mmbench.testing.builders import padded, rows, with_garbage
from tests.methods.mmmie_parts import SMALL, build, gradients, sample

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
    method, batch = build(), sample()
    assert all(encoder.steps is None for encoder in method.network.encoders.values())
    seen = []
    sequence = build(fusion="sequence")
    for model in (method, sequence):
        model.network.fusion.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        model(batch)
    assert seen == [1 + 3, 1 + 3 + sum(item.values.shape[1] for item in batch.inputs.values())]


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
    steps = {name: (h[name][:, None].repeat(1, 4, 1), torch.ones(3, 4, dtype=torch.bool)) for name in MODALITIES}
    seen = []
    model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(h, steps)
    nn.init.constant_(model.identity, 0.0)
    model(h, steps)
    nn.init.ones_(model.identity[1:2])
    model(h, steps)
    torch.testing.assert_close(
        seen[2] - seen[1],
        torch.cat([torch.zeros(6), torch.ones(5), torch.zeros(5)]).double()[None, :, None].expand(3, -1, 8),
    )


@pytest.mark.parametrize(("identity", "varies"), [("modality", False), ("position", True)])
def test_places_of_steps_matter_where_the_identity_says_them(identity, varies):
    model, h = fusion(fusion="sequence", identity=identity), vectors()
    values = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2)).double()
    mask = torch.ones(3, 4, dtype=torch.bool)
    _, before = model(h, {"audio": (values, mask)})
    _, after = model(h, {"audio": (values.flip(1), mask)})
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
