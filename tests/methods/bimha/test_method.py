"""BIMHA: its sizes, its settings, where dropouts act, and what is refused."""

from pathlib import Path

import pytest
import torch

from data_modules.schema import ModalitySpec
from mmbench.methods import ConfigError
from mmbench.methods.bimha import BIMHA
from mmbench.methods.bimha.network import BIMHANetwork, PairAttention, PairFusion
from mmbench.runner.plan import shipped_settings
from mmbench.testing.builders import make_spec
from tests.methods.bimha.parts import PAIRS, build, count, normalised

# Sizes


def test_parameters_of_the_fusion():
    """3 pairs of (33 * 33 + 1) * 64, attention of 4 * (64 + 1) * 64, norm, pair vectors, head 288 -> 64 -> 1."""
    modalities = {name: ModalitySpec(name, 20, 9) for name in ("text", "audio", "vision")}
    network = BIMHANetwork(modalities, dict.fromkeys(modalities, 20), 1, BIMHA.Config())
    assert {count(token) for token in network.tokens.values()} == {1089 * 64 + 64}
    assert (count(network.layers), network.embedding.numel()) == (16_640 + 128, 192)
    assert count(network.head) == 18_496 + 65
    assert count(network) - count(network.subnetworks) == 244_801
    assert count(network.subnetworks.parts["text"]) == 4 * 64 * (20 + 64 + 2) + 64 * 32 + 32


def test_every_size_reaches_its_place():
    network = build(heads=2, text_hidden=5, head_width=7, layers=2).network
    assert {layer.attention.heads for layer in network.layers} == {2}
    assert network.subnetworks.parts["text"].encoder.rnn.hidden_size == 5
    assert [network.head[place].out_features for place in (1, 3)] == [7, 1]


def test_shipped_settings_are_those_of_the_design():
    """Rank 4, and the dropouts of encoders, pairs and head; a larger set has less of them and a lower rate."""
    keys = ("batch_size", "lr", "weight_decay", "gradient_clip", "text_lr", "rank", "heads", "layers")
    dropouts = ("encoder_dropout", "pair_dropout", "head_dropout")
    design = {
        "mosi": ([32, 1e-3, 1e-4, 1.0, 5e-5, 4, 4, 1], [0.3, 0.2, 0.3]),
        "mosei": ([128, 5e-4, 1e-4, 1.0, 5e-5, 4, 4, 1], [0.2, 0.1, 0.2]),
    }
    folder = Path(__file__).parents[3] / "benchmarks"
    for dataset, (values, probabilities) in design.items():
        config = BIMHA.Config.parse(shipped_settings(folder, "bimha", dataset, "", "default"))
        assert [getattr(config, key) for key in keys] == values
        assert [getattr(config, key) for key in dropouts] == probabilities
        assert (config.pair_op, config.queries, config.keep_unimodal) == ("outer", "pairs", True)
    BIMHA(make_spec(), config=BIMHA.Config.parse(shipped_settings(folder, "bimha", "synthetic", "", "ci")))


def test_every_dropout_reaches_its_place():
    network = build(encoder_dropout=0.11, pair_dropout=0.12, head_dropout=0.13).network
    parts = network.subnetworks.parts
    assert [parts["text"].dropout.p, parts["audio"].layers[0].p, parts["vision"].layers[0].p] == [0.11] * 3
    assert {token.dropout.p for token in network.tokens.values()} == {0.12}
    assert {layer.dropout.p for layer in network.layers} == {0.12}
    assert network.head[0].p == 0.13


def test_dropout_acts_on_tokens_and_on_what_attention_adds():
    """With a probability of one nothing is left of either in training, and all of it in evaluation."""
    token = PairFusion(("text", "audio"), 3, 5, "outer", 2, 1.0).double()
    module = PairAttention(8, 4, 1.0, True, True).double()
    vectors, tokens = {name: torch.randn(2, 3).double() for name in ("text", "audio")}, torch.randn(2, 3, 8).double()
    assert not token(vectors).any()
    torch.testing.assert_close(module(tokens, tokens)[0], normalised(tokens))
    assert token.eval()(vectors).any()
    assert (module.eval()(tokens, tokens)[0] - normalised(tokens)).abs().max() > 1e-3


# What is refused


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="'heads' is 5; it must divide pair_width, 64"):
        BIMHA.Config(heads=5)
    with pytest.raises(ConfigError, match=r"'pair_op'.*one of: outer, lowrank, hadamard, concat"):
        BIMHA.Config(pair_op="sum")
    with pytest.raises(ConfigError, match=r"'queries'.*one of: pairs, unimodal"):
        BIMHA.Config(queries="text")
    with pytest.raises(ConfigError, match=r"'head_dropout'.*at most 1"):
        BIMHA.Config(head_dropout=2.0)
    off = {f"pair_{name}": False for name in PAIRS}
    with pytest.raises(ConfigError, match=r"no pair is left on toy/random/standard.*turn on one of: pair_text_audio, "):
        BIMHA(make_spec(), config=BIMHA.Config(**off))
    spec = make_spec(modalities=("audio", "vision"))
    with pytest.raises(ConfigError, match=r"'pair_audio_vision' is off and no pair is left.*turn on.*audio_vision"):
        BIMHA(spec, config=BIMHA.Config(pair_audio_vision=False))
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        BIMHA(make_spec(modalities=("text",)))
