"""MIB: its published sizes, its fusions, its encoders, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import mmbench.methods.base
from data_modules.schema import MODALITIES, ModalitySpec, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.mib import MIB
from mmbench.methods.mib.network import MIBNetwork
from mmbench.testing.builders import DIMS, doubled, make_spec, padded, rows, with_garbage
from tests.golden.cases import Case
from tests.methods.forms import assert_forms_agree, watch_steps
from tests.methods.mib.parts import SMALL, build, losses, sample
from tests.methods.parts import count

FUSIONS = ("concat", "addition", "multiplication", "tensor", "low_rank", "graph", "poe")


def lively(method):
    """Return the method in evaluation mode with large weights, so that what enters a prediction shows in it."""
    for parameter in method.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5)
    return method.eval()


# Sizes


def published_count(vision=47, **settings):
    dims = {"text": 768, "audio": 74, "vision": vision}
    network = MIBNetwork(dims, 1, MIB.Config(hidden=1024, **settings), frozenset({"text"}))
    return count(network)


@pytest.mark.parametrize(
    ("variant", "count"), [("none", 109_216_699), ("e", 109_371_423), ("l", 109_681_024), ("c", 109_835_748)]
)
def test_published_sizes(variant, count):
    """The numbers of the paper, which count BERT without its pooler."""
    bert = 108_891_648
    assert published_count(variant=variant) == count - bert
    assert count - bert == {"none": 325_051, "e": 479_775, "l": 789_376, "c": 944_100}[variant]


def test_sizes_of_the_official_files_less_what_they_do_not_use():
    stored = Case.load("mib").info["parameter_count_at_published_sizes_without_text_encoder"]
    variants = {"early": "e", "late": "l", "complete": "c"}
    for key, counts in stored.items():
        variant, fusion, vision = key.split(", ")
        settings = {"variant": variants[variant], "fusion": fusion.split(" ")[0]}
        assert published_count(int(vision.split(" ")[1]), **settings) == counts["used"], key


def test_bottlenecks_and_their_decoders_are_all_that_the_complete_variant_adds():
    assert published_count(variant="c") - published_count(variant="none") == 4 * 154_724 + 3 * 51 == 619_049


def test_linear_layers_start_like_those_of_bert():
    network = MIBNetwork(DIMS, 1, MIB.Config())
    linear = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("packed")
    }
    assert len(linear) == 3 * 3 * 3 + 4 * 3 + 1 + 4  # Transformers, bottlenecks, fusion, decoders
    for name, module in linear.items():
        assert not module.bias.any(), name
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.5), name
    packed = network.encoders["audio"].transformer.layers[0].attention.packed.weight
    assert packed.abs().max().item() == pytest.approx((6 / (50 + 150)) ** 0.5, rel=0.01)


# Fusions


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", [MODALITIES, ("audio", "vision"), ("text", "audio")])
def test_every_fusion_trains_on_two_and_three_modalities(fusion, modalities):
    for variant in ("e", "l", "c") if fusion != "poe" else ("l",):
        method = build(modalities=modalities, fusion=fusion, variant=variant, dim=5).train()
        _, gradients = losses(method, sample(16, modalities=modalities))
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
        assert any(gradients[f"network.encoders.{name}.convolution.weight"].any() for name in modalities)


@pytest.mark.parametrize("fusion", sorted(set(FUSIONS) - {"graph"}))
def test_every_fusion_but_the_graph_takes_one_modality(fusion):
    batch = sample(modalities=("audio",))
    assert build(modalities=("audio",), fusion=fusion, variant="l")(batch).prediction.shape == (6, 1)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_company_does_not_matter_to_any_fusion(fusion):
    method, batch = lively(build(fusion=fusion, variant="l")).double(), doubled(sample())
    whole = method(batch).prediction
    assert whole.std() > 0.01
    alone = torch.cat([method(rows(batch, torch.tensor([row]))).prediction for row in range(6)])
    torch.testing.assert_close(alone, whole)
    torch.testing.assert_close(method(with_garbage(padded(batch, 2))).prediction, whole)


def test_product_of_experts_is_the_papers():
    method, batch = build(variant="l", fusion="poe").eval(), sample()
    named = method(batch).named
    mean, spread = ([named[f"{part}_{name}"] for name in MODALITIES] for part in ("mean", "std"))
    total = 1 + sum(1 / s for s in spread)
    torch.testing.assert_close(named["fused"], sum(m / s for m, s in zip(mean, spread, strict=True)) / total)
    drawn = build(variant="l", fusion="poe")
    drawn.load_state_dict(method.state_dict())
    torch.manual_seed(3)
    torch.stack([torch.randn(6, SMALL["dim"]) for _ in MODALITIES])  # the draws of the modalities come first
    noise = torch.randn(6, SMALL["dim"])
    torch.manual_seed(3)
    torch.testing.assert_close(drawn(batch).named["fused"], named["fused"] + noise / total)


def test_tensor_fusion_drops_out_its_product():
    network = build(fusion="tensor", tensor_dropout=1.0).network.train()
    vectors = {name: torch.randn(4, SMALL["dim"]) for name in MODALITIES}
    fused = network.fusion(vectors)
    assert torch.equal(fused, fused[:1].expand(4, -1))  # nothing came through
    assert not torch.equal(network.fusion.eval()(vectors)[0], network.fusion(vectors)[1])


# Encoders


def test_legacy_padding_reads_the_last_step_of_the_longest_sample_there_may_be():
    method, default = lively(build(legacy_padding=True)).double(), build().double()
    batch = doubled(sample())
    default.load_state_dict(method.state_dict())
    whole = method(batch).prediction
    short = replace(
        batch,
        inputs={
            m: PaddedSequence(s.values[1:, : int(s.lengths[1:].max())], s.lengths[1:]) for m, s in batch.inputs.items()
        },
        target=batch.target[1:],
    )
    torch.testing.assert_close(method(short).prediction, whole[1:])  # padded to the length that the data state
    assert not torch.allclose(method(padded(batch, 2)).prediction, whole)
    assert not torch.allclose(default.eval()(batch).prediction, whole)


def test_the_vector_is_the_last_real_step():
    encoder, seen = build(layers=2).double().network.encoders["audio"].eval(), []
    watch_steps(encoder.transformer, seen.append)
    audio = doubled(sample()).inputs["audio"]
    vectors, (states,) = encoder(audio), seen
    expected = torch.stack([row[length - 1] for row, length in zip(states, audio.lengths, strict=True)])
    torch.testing.assert_close(vectors, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["e", "c"])
def test_both_forms_give_the_same(variant):
    method, batch = build(variant=variant, layers=2).double().eval(), doubled(sample())
    assert_forms_agree(method, lambda: method(batch).prediction)


@pytest.mark.parametrize("choice", [True, False])
def test_text_features_pass_a_transformer_unless_told_not_to(choice):
    encoders = build(text_transformer=choice).network.encoders
    assert (encoders["text"].transformer is not None) is choice
    assert encoders["audio"].transformer is not None


class States(nn.Module):
    """A text encoder that looks tokens up."""

    dim = 7

    def __init__(self, name, frozen):
        super().__init__()
        self.table = nn.Embedding(20, 7)
        self.table.requires_grad_(not frozen)

    def forward(self, tokens):
        return PaddedSequence(self.table(tokens.values) * tokens.mask[..., None], tokens.lengths)


@pytest.mark.parametrize("text_lr", [1e-5, 0.0])
def test_the_convolution_on_an_encoders_states_learns_with_it(monkeypatch, text_lr):
    monkeypatch.setattr(mmbench.methods.base, "PretrainedText", States)
    spec = make_spec()
    spec = replace(spec, modalities={**spec.modalities, "text": ModalitySpec("text", 20, 6, "tokens")})
    method = MIB(spec, config=MIB.Config(**SMALL, text_encoder="states", text_lr=text_lr))
    assert method.network.encoders["text"].transformer is None
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = method.parameter_groups()["main"]
    slow = {names[id(p)] for group in groups if "lr" in group for p in group["params"]}
    everything = [names[id(p)] for group in groups for p in group["params"]]
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert len(everything) == len(set(everything))
    assert set(everything) == trained
    expected = {"text_encoder.table.weight", "network.encoders.text.convolution.weight"}
    assert slow == (expected if text_lr else set())
    assert {group["lr"] for group in groups if "lr" in group} == ({text_lr} if text_lr else set())


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 7}, "'heads' is 7; it must divide dim, 10"),
        ({"fusion": "poe"}, "'fusion' is 'poe'.*set variant to 'l'"),
        ({"variant": "f"}, "'variant'.*must be one of: e, l, c, none"),
        ({"attention_dropout": 1.5}, "'attention_dropout'.*must be at most 1"),
        ({"modalities": ("audio",), "fusion": "graph"}, "'fusion' is 'graph'.*has one"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_published_numbers():
    values = {(result.track, result.metric): result.value for result in MIB.card.published}
    assert len(values) == len(MIB.card.published) == 2 * 5 + 8
    # On MAG's pickles, which have all 74 and 47 or 35 features of audio and vision, and with the words as tokens.
    assert values["mosi/glove_words/standard+tokens", "acc7"] == 0.482
    assert values["mosei/glove_words/standard+tokens", "mae_non0"] == 0.584
    assert values["iemocap/glove_aligned_20/standard", "f1_weighted/neutral"] == 0.721
