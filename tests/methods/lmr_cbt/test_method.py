"""LMR-CBT: its sizes, its settings, where dropouts act, and what is refused."""

from pathlib import Path

import pytest
import torch

from mmbench.methods import ConfigError
from mmbench.methods.lmr_cbt import LMRCBT
from mmbench.methods.lmr_cbt.network import LMRCBTNetwork
from mmbench.nn.steps import Layout
from mmbench.runner.plan import shipped_settings
from tests.methods.lmr_cbt.parts import DIMS, NO_DROPOUT, data_spec, random_inputs, tiny
from tests.methods.parts import count

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


# Sizes


@pytest.mark.parametrize(
    ("dims", "outputs", "layers", "official"),
    [
        ((300, 74, 35), 1, 5, 406_523),
        ((300, 74, 35), 1, 4, 347_363),
        ((300, 5, 20), 1, 5, 396_443),
        ((300, 5, 20), 1, 4, 337_283),
        ((300, 74, 35), 8, 5, 407_370),
        ((300, 74, 35), 8, 4, 348_210),
    ],
)
def test_published_parameter_counts_less_two_unused_scorers(dims, outputs, layers, official):
    """The official blocks own a linear layer 40 -> 1 each, which nothing reads."""
    network = LMRCBTNetwork(dict(zip(DIMS, dims, strict=True)), outputs, LMRCBT.Config(layers=layers))
    assert count(network) == official - 2 * 41


def test_published_parts():
    network = LMRCBTNetwork({"text": 300, "audio": 74, "vision": 35}, 1, LMRCBT.Config(layers=5))
    assert count(network.local["text"].lstm) == 61_440
    assert {count(part.norm) for part in network.local.values()} == {80}
    assert [count(network.local[name].convolution) for name in ("audio", "vision")] == [8_880, 4_200]
    assert {count(encoder) for encoder in network.encoders.values()} == {98_680}
    assert {count(block) for block in network.blocks.values()} == {3_281 - 41}
    assert [count(network.head[place]) for place in (0, 3, 4)] == [14_520, 14_520, 121]
    assert LMRCBT.Config().layers == 4


def shipped(dataset, feature_set="", suite="default"):
    return LMRCBT.Config.parse(shipped_settings(BENCHMARKS, "lmr_cbt", dataset, feature_set, suite))


def test_shipped_settings_are_the_official_ones():
    """The defaults of the official command line; five layers there, the depth of its runs on CMU-MOSEI."""
    official = {
        "batch_size": 16,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "plateau_patience": 20,
        "plateau_factor": 0.1,
        "dim": 40,
        "heads": 8,
        "embed_dropout": 0.3,
        "lstm_dropout": 0.5,
        "attention_dropout": 0.1,
        "relu_dropout": 0.1,
        "residual_dropout": 0.2,
        "output_dropout": 0.1,
        "causal_mask": True,
    }
    parts = {"cross_modal": True, "residual": True, "softmax": "channel"}
    fixed = {"padding": "masked", "legacy_batch_lstm": False}
    for dataset, layers in (("mosei", 5), ("mosi", 4), ("iemocap", 4)):
        expected = official | parts | fixed | {"layers": layers, "main": "", "first": ""}
        assert {name: getattr(shipped(dataset), name) for name in expected} == expected
    LMRCBT(data_spec(), config=shipped("synthetic", suite="ci"))
    LMRCBT(data_spec(("audio", "vision"), (None, 174, 1)), config=shipped("ravdess", "logmel-au"))


def test_published_results_are_those_of_the_logs():
    """The epoch of the lowest validation loss, in full: epoch 54 of the aligned run, epoch 71 of the unaligned one."""
    names = ("mae", "corr", "acc7", "acc5", "acc2_non0", "f1_non0")
    aligned = (0.6294464, 0.6478610, 0.4811544, 0.4960155, 0.7953039, 0.7880030)
    unaligned = (0.6126208, 0.6680423, 0.4919511, 0.5028976, 0.7947166, 0.7845890)
    logs = {"mosei/glove_aligned_50/standard": aligned, "mosei/glove_unaligned_50/standard": unaligned}
    found = {(result.track, result.metric): result.value for result in LMRCBT.card.published}
    expected = {(track, name): value for track, log in logs.items() for name, value in zip(names, log, strict=True)}
    assert found == pytest.approx(expected, abs=5.01e-4)


def test_every_dropout_reaches_its_place():
    network = tiny(
        embed_dropout=0.11,
        lstm_dropout=0.12,
        attention_dropout=0.13,
        relu_dropout=0.14,
        residual_dropout=0.15,
        output_dropout=0.16,
    )
    text = network.local["text"]
    assert (text.dropout.p, text.lstm.rnn.dropout, network.head[2].p) == (0.11, 0.12, 0.16)
    for encoder in network.encoders.values():
        assert encoder.dropout.p == 0.11
        assert {(x.attention.dropout, x.network[2].p, x.dropout.p) for x in encoder.layers} == {(0.13, 0.14, 0.15)}


def test_raw_features_drop_in_text_only(monkeypatch):
    network, seen, convolve = tiny(**NO_DROPOUT | {"embed_dropout": 0.5}).train(), {}, Layout.convolve
    network.local["text"].lstm.register_forward_pre_hook(lambda _, args: seen.__setitem__("text", args[0].values))
    names = {network.local[name].convolution: name for name in ("audio", "vision")}

    def watched(layout, rows, convolution, *places):
        seen[names[convolution]] = layout.padded(rows)
        return convolve(layout, rows, convolution, *places)

    monkeypatch.setattr(Layout, "convolve", watched)
    inputs = random_inputs()
    network(inputs)
    assert torch.equal(seen["audio"], inputs["audio"].values)
    assert torch.equal(seen["vision"], inputs["vision"].values)
    kept = seen["text"] != 0
    assert 0.3 < kept[inputs["text"].mask].double().mean() < 0.7
    torch.testing.assert_close(seen["text"][kept], 2 * inputs["text"].values[kept])


# What is refused


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="'heads' is 7; it must divide dim, 40"):
        LMRCBT.Config(heads=7)
    with pytest.raises(ConfigError, match="'dim' is 15; it must be even"):
        LMRCBT.Config(dim=15, heads=5)
    with pytest.raises(ConfigError, match=r"'legacy_batch_lstm' mixes the samples.*set padding to left"):
        LMRCBT.Config(legacy_batch_lstm=True)
    with pytest.raises(ConfigError, match="'softmax'"):
        LMRCBT.Config(softmax="rows")
    with pytest.raises(ConfigError, match=r"'lstm_dropout'.*at most 1"):
        LMRCBT.Config(lstm_dropout=1.5)
    spec = data_spec(("audio", "vision"))
    for name in ("main", "first"):
        with pytest.raises(ConfigError, match=f"'{name}' is 'text'; made_up/random/standard has audio, vision"):
            LMRCBT(spec, config=LMRCBT.Config(**{name: "text"}))
    with pytest.raises(ConfigError, match="'legacy_batch_lstm' is about text"):
        LMRCBT(spec, config=LMRCBT.Config(padding="left", legacy_batch_lstm=True))
    with pytest.raises(ConfigError, match="'first' is 'vision', the one that is entered"):
        LMRCBT(spec, config=LMRCBT.Config(first="vision"))
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        LMRCBT(spec.select(("audio",)))
