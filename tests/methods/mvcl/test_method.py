"""MVCL: its sizes, its views, what it makes of padding, and its settings."""

from __future__ import annotations

import pytest
import torch

from data_modules.schema import MODALITIES
from mmbench.methods import ConfigError
from mmbench.methods.mvcl import MVCL
from mmbench.methods.mvcl.network import MVCLNetwork
from mmbench.nn.contrastive import pair_contrastive
from mmbench.nn.steps import Layout
from mmbench.testing.builders import doubled, make_spec, padded, rows, with_garbage
from tests.methods.mvcl.parts import STILL, build, gradients, parameters, sample

# The network


def test_published_sizes():
    """At the rebuild's widths for CMU-MOSI, d = 32, from the sizes of the layers."""
    network = MVCLNetwork({"text": 768, "audio": 5, "vision": 20}, 1, MVCL.Config(), text_ends=True)

    def projector(width):
        return 2 * width * width + width

    audio = 4 * 32 * (5 + 32 + 2)
    vision = 4 * 64 * (20 + 64 + 2)
    unimodal = (768 * 64 + 64 + projector(64)) + (16 * 16 + 16 + projector(16)) + (32 * 32 + 32 + projector(32))
    vectors = (32 * 16 + 16) + (64 * 32 + 32)
    tokens = 32 * (768 + 32 + 64) + 3 * 32
    layer = 12 * 192 * 192 + (4 + 5 + 4) * 192
    fusion = 2 * layer + 2 * 192 + (192 * 32 + 32 + 64) + 2 * (32 * 32 + 32)
    head = 32 * 128 + 128 + 128 + 1
    interaction = network.interaction
    transformers = [part.encoder for group in (interaction.mergers, interaction.readers) for part in group.values()]
    assert [parameters(item) for item in transformers] == 12 * [25_472]
    assert sum(parameters(item) for item in transformers) == 305_664
    blocks = 6 * 25_472 + 6 * 26_528
    projectors = 7 * projector(32)
    assert parameters(network) == audio + vision + vectors + unimodal + tokens + blocks + fusion + projectors + head


def test_every_modality_has_two_views_through_transformers_of_their_own():
    method = build().eval()
    views = method.network.interaction.views
    assert list(views.values()) == [
        ("text", "audio", "vision"),
        ("text", "vision", "audio"),
        ("audio", "text", "vision"),
        ("audio", "vision", "text"),
        ("vision", "text", "audio"),
        ("vision", "audio", "text"),
    ]
    named = method(sample()).named
    vectors = [named[f"view_{view}"] for view in views]
    assert all(vector.shape == (12, 8) for vector in vectors)
    for i, one in enumerate(vectors):
        assert all((one - other).abs().max() > 1e-3 for other in vectors[:i])
    readers = [set(map(id, reader.parameters())) for reader in method.network.interaction.readers.values()]
    assert not readers[0] & readers[1]


def test_a_view_merges_the_other_two_and_lets_its_modality_read_them():
    method, calls = build().eval(), {}
    interaction = method.network.interaction
    for group in (interaction.mergers, interaction.readers):
        for name, reader in group.items():
            reader.register_forward_hook(lambda _, args, out, name=name: calls.__setitem__(name, (args, out)))
    method(sample())
    for view, (query, first, second) in interaction.views.items():
        (asked, read), _ = calls[view]
        (inner, outer), merged = calls[f"{first}_{second}"]
        assert read is merged
        for name, steps in ((query, asked), (first, inner), (second, outer)):
            assert torch.equal(steps.layout.lengths, sample().inputs[name].lengths)


@pytest.mark.parametrize("modalities", [MODALITIES, ("audio", "vision")])
def test_what_is_compared_has_unit_length(modalities):
    method = build(modalities=modalities)
    named = method(sample(modalities=modalities)).named
    compared = {name: vector for name, vector in named.items() if name.startswith("projected_")}
    assert len(compared) == len(modalities) + len(method.network.interaction.views) + 1
    for vector in compared.values():
        torch.testing.assert_close(vector.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize(
    ("modalities", "shared", "pairs"),
    [
        (
            MODALITIES,
            "first",
            {
                ("text_audio_vision", "text_vision_audio"),
                ("audio_text_vision", "audio_vision_text"),
                ("vision_text_audio", "vision_audio_text"),
            },
        ),
        (
            MODALITIES,
            "last",
            {
                ("text_audio_vision", "audio_text_vision"),
                ("text_vision_audio", "vision_text_audio"),
                ("audio_vision_text", "vision_audio_text"),
            },
        ),
        (("audio", "vision"), "first", {("audio_vision", "vision_audio")}),
        (("text", "audio"), "last", {("text_audio", "audio_text")}),
    ],
)
def test_pairs_of_views(modalities, shared, pairs):
    method = build(modalities=modalities, pairs=shared)
    assert set(method.pairs()) == pairs
    batch = sample(modalities=modalities, phase="cross")
    output = method.eval()(batch)
    named = output.named
    expected = sum(pair_contrastive(named[f"projected_{one}"], named[f"projected_{two}"], 0.05) for one, two in pairs)
    torch.testing.assert_close(method.objective(output, batch), {"cross": expected})


@pytest.mark.parametrize("settings", [{"encoder": "transformer"}, {"text_ends": True}])
def test_variants_ignore_padding_and_company(settings):
    method, batch = build(**settings).eval(), sample(6)
    with torch.no_grad():
        prediction = method(batch).prediction
        torch.testing.assert_close(method(with_garbage(padded(batch, 4))).prediction, prediction, atol=1e-5, rtol=1e-5)
        for row in range(6):
            alone = method(rows(batch, torch.tensor([row]))).prediction
            torch.testing.assert_close(alone, prediction[[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
def test_without_masks_padding_is_read(encoder):
    for legacy in (False, True):
        method, batch = build(encoder=encoder, legacy_no_mask=legacy).eval(), sample()
        difference = (method(padded(batch, 4)).prediction - method(batch).prediction).abs().max()
        assert bool(difference > 1e-4) is legacy


@pytest.mark.parametrize(
    "settings",
    [{}, {"encoder": "transformer"}, {"text_ends": True}, {"encoder": "transformer", "legacy_no_mask": True}],
)
def test_steps_alone_give_what_padded_steps_give(monkeypatch, settings):
    method, batch = build(mode="joint", **STILL, **settings).double(), doubled(sample())
    batch.inputs["audio"].lengths[3] = 0
    found = []
    for packed in (True, False):
        monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
        found.append(gradients(method, batch))
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


# Settings


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"'heads' is 4; it must divide dim, 30"):
        MVCL.Config(dim=30)


@pytest.mark.parametrize("switch", ["epochs", "weight"])
def test_a_head_on_an_untrained_network_is_refused(switch):
    nothing = {f"{name}_{switch}": 0 for name in ("unimodal", "cross", "fused")}
    with pytest.raises(ConfigError, match=r"'mode' is 'staged' and every contrast is left out.*set mode to 'joint'"):
        MVCL.Config(**nothing)
    MVCL.Config(**nothing, mode="joint")
    MVCL.Config(**nothing | {f"cross_{switch}": 1})


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))


def test_defaults_are_those_of_the_rebuild_for_mosi():
    c = MVCL.Config()
    assert (c.batch_size, c.heads, c.unimodal_layers, c.layers, c.text_lr) == (32, 4, 4, 2, 5e-5)
    assert (c.lr, c.lr_audio, c.lr_vision) == (1e-3, 1e-3, 1e-4)
    assert (c.weight_decay, c.weight_decay_encoders, c.weight_decay_text) == (0.01, 0.01, 1e-3)
    assert (c.hidden_audio, c.hidden_vision, c.out_audio, c.out_vision) == (32, 64, 16, 32)
    assert (c.post_fusion, c.post_text, c.post_audio, c.post_vision) == (128, 64, 16, 32)
    assert (c.attention_dropout, c.attention_dropout_audio, c.attention_dropout_vision) == (0.3, 0.2, 0.0)
    assert (c.embed_dropout, c.attention_dropout_fusion) == (0.2, 0.2)
    assert (c.dropout_fusion, c.dropout_text, c.dropout_audio, c.dropout_vision) == (0.1, 0.0, 0.1, 0.1)
    assert (c.supervised_temperature, c.pair_temperature, c.kernel_audio, c.kernel_vision) == (0.07, 0.05, 5, 5)


def test_the_phases_have_settings_of_their_own_that_leave_most_of_forty_epochs_to_the_head():
    c = MVCL.Config()
    assert (c.mode, c.lr_contrast, c.earlier_rate) == ("staged", 1e-3, 1.0)
    assert [(phase.start, phase.stop) for phase in MVCL(make_spec()).phases] == [
        (0, 5),
        (5, 10),
        (10, 15),
        (15, None),
    ]
