"""CMC: its sizes, how it reads sequences, and its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.cmc import CMC
from mmbench.methods.cmc.network import CMCEncoder, CMCNetwork
from mmbench.nn.steps import Layout
from mmbench.runner.settings import load_suite, shipped_settings
from mmbench.testing.builders import DIMS, doubled, make_spec
from tests.methods.cmc.parts import SMALL, build, count, sample
from tests.methods.forms import assert_forms_agree

COUPLES = {"text_audio": ("text", "audio"), "text_vision": ("text", "vision"), "audio_vision": ("audio", "vision")}


# The network


@pytest.mark.parametrize(
    ("vision", "settings", "expected", "predictors", "transformer"),
    [(47, {}, 225_281, 243, 59_240), (35, {"dim": 50}, 315_801, 303, 92_050)],
)
def test_published_sizes(vision, settings, expected, predictors, transformer):
    network = CMCNetwork({"text": 768, "audio": 74, "vision": vision}, 1, CMC.Config(**settings))
    assert count(network.predictors) == predictors
    assert count(network) - predictors == expected
    assert {count(network.encoders[name].transformer) for name in ("audio", "vision")} == {transformer}
    assert network.encoders["text"].transformer is None


@pytest.mark.parametrize(
    ("modalities", "couples"),
    [
        (MODALITIES, COUPLES),
        (("text", "vision"), {"text_vision": ("text", "vision")}),
        (("audio", "vision"), {"audio_vision": ("audio", "vision")}),
    ],
)
def test_every_couple_of_modalities_has_a_predictor(modalities, couples):
    method = build(modalities=modalities)
    assert method.network.couples == couples
    assert set(method.network.predictors) == set(method.scorer.frozen) == set(couples)


def test_a_vector_is_what_the_convolution_says_of_the_last_real_step():
    encoder = CMCEncoder(3, 0, CMC.Config(**SMALL))
    values, lengths = torch.randn(3, 5, 3), (5, 2, 1)
    found = encoder(PaddedSequence(values, torch.tensor(lengths)))
    before, here, after = encoder.project.weight.unbind(-1)
    for row, length in enumerate(lengths):
        expected = here @ values[row, length - 1]
        if length > 1:
            expected = expected + before @ values[row, length - 2]
        torch.testing.assert_close(found[row], expected)  # nothing comes after the last real step
        assert after.any()


def test_attention_sees_the_whole_sequence_and_nothing_else():
    encoder = CMCEncoder(3, 2, CMC.Config(**SMALL)).eval()
    values, lengths = torch.randn(2, 6, 3), (6, 4)
    found = encoder(PaddedSequence(values, torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        alone = encoder.project(values[row : row + 1, :length].mT).mT
        states = encoder.transformer(alone[0], Layout.of_all(alone))  # without any mask
        torch.testing.assert_close(found[row], states[-1], atol=1e-5, rtol=1e-5)
        for step in range(6):
            moved = values.clone()
            moved[row, step] += 1.0
            changed = not torch.equal(encoder(PaddedSequence(moved, torch.tensor(lengths)))[row], found[row])
            assert changed == (step < length)


@pytest.mark.parametrize("text_layers", [0, 2])
def test_both_forms_give_the_same(text_layers):
    method, batch = build(layers=2, text_layers=text_layers).double().eval(), doubled(sample())
    assert_forms_agree(method.network, lambda: torch.cat([*method(batch).named.values()], -1))


def test_the_prediction_is_linear_in_the_vectors():
    method, batch = build().eval(), sample()
    output = method(batch)
    vectors = torch.cat([output.named[f"h_{name}"] for name in MODALITIES], -1)
    torch.testing.assert_close(output.prediction, vectors @ method.network.head.weight.T + method.network.head.bias)


def test_text_has_a_transformer_where_asked_for():
    plain, more = build(), build(text_layers=2)
    assert count(more.network.encoders["text"].transformer) == 2 * (4 * 72 + 2 * 16 + 8 * 32 + 32 + 32 * 8 + 8) + 16
    assert count(more.network) - count(plain.network) == count(more.network.encoders["text"].transformer)


def test_dropouts_reach_their_places():
    config = CMC.Config(attention_dropout=0.1, relu_dropout=0.2, residual_dropout=0.3, embed_dropout=0.4)
    encoder = CMCNetwork(DIMS, 1, config).encoders["audio"].transformer
    assert encoder.dropout.p == 0.4
    assert {(layer.attention.dropout, layer.network[2].p, layer.dropout.p) for layer in encoder.layers} == {
        (0.1, 0.2, 0.3)
    }


# Settings


def test_the_range_of_the_labels_is_known_or_given():
    assert build().gamma == 6.0
    assert build("multiclass").gamma == 1.0
    assert build(gamma=10.39).gamma == 10.39
    spec = make_spec()
    open_ended = replace(spec, target=replace(spec.target, low=None))
    with pytest.raises(ConfigError, match=r"'gamma' is 0, .* have no ends: give the largest distance"):
        CMC(open_ended, config=CMC.Config(**SMALL))
    assert CMC(open_ended, config=CMC.Config(**SMALL, gamma=4.0)).gamma == 4.0
    for unscored in ({"targets": "constant"}, {"correlation": 0.0}):  # where nothing asks for the range
        CMC(open_ended, config=CMC.Config(**SMALL, **unscored))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="'heads' is 7; it must divide dim, 40"):
        CMC.Config(heads=7)
    with pytest.raises(ConfigError, match=r"'discard' is 1\.0; it must be at most 0\.9"):
        CMC.Config(discard=1.0)
    with pytest.raises(ConfigError, match="'feed_rule' is 'forward'; it must be one of: saturated_forward"):
        CMC.Config(feed_rule="forward")
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("audio",))


def test_shipped_settings_fit_their_data():
    folder = Path(__file__).parents[3] / "benchmarks"
    suite = load_suite(folder / "suites" / "ci.yaml")

    def shipped(dataset, feature_set, name="default"):
        return CMC.Config(**shipped_settings(folder, "cmc", dataset, feature_set, name))

    assert shipped("synthetic", "", suite.name).pretrain_epochs < suite.training.max_epochs
    for dataset, dim, epochs in (("mosi", 40, 5), ("mosei", 50, 2)):
        for feature_set in ("aligned_50_tokens", "unaligned_50_tokens"):
            config = shipped(dataset, feature_set)
            assert (config.dim, config.pretrain_epochs, config.lr, config.predictor_lr) == (dim, epochs, 2e-5, 1e-4)
            assert config.text_layers == 0
    for dataset, feature_set in (("mosi", "bclstm"), ("iemocap", ""), ("ravdess", "logmel-au"), ("synthetic", "")):
        spec = make_spec("multiclass" if dataset in ("iemocap", "ravdess") else "regression")
        CMC(spec, config=shipped(dataset, feature_set))
    assert shipped("mosi", "glove_words").text_layers == 3
    assert shipped("ravdess", "logmel-au").layers == 1
