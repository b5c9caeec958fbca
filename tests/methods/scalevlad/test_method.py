from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES, ModalitySpec, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.scalevlad import ScaleVLAD
from mmbench.methods.scalevlad.network import ScaleVLADFusion, WordEncoder
from mmbench.methods.scalevlad.vlad import SharedVLAD
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import position_vectors
from mmbench.runner.callbacks import EpochSeed
from mmbench.runner.settings import shipped_settings
from mmbench.testing.builders import doubled, make_batch, make_spec, write_toy_store
from tests.methods import training
from tests.methods.parts import builder, count, sampler, terms_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = {"width": 16, "vectors": 4, "scales": (1, 2), "top_layers": 1, "clusters": 4, "memory": 32}
LENGTHS = {"text": [4, 9, 1], "audio": [17, 3, 8], "vision": [2, 13, 6]}

build, batch_of = builder(ScaleVLAD, **SMALL, dropout=0.0), sampler()


# The fusion


def states(width=16):
    torch.manual_seed(1)
    return {
        name: PaddedSequence(torch.randn(3, max(lengths), width, dtype=torch.float64), torch.tensor(lengths))
        for name, lengths in LENGTHS.items()
    }


def fusion(names=MODALITIES, windows=(1, 2, 0), shared=True):
    torch.manual_seed(0)
    return ScaleVLADFusion(names, 16, 4, windows, shared).double()


@pytest.mark.parametrize("shared", [True, False])
def test_padding_changes_nothing(shared):
    module, inputs = fusion(windows=(1, 2, 3, 10, 0), shared=shared), states()
    noisy = {
        name: PaddedSequence(
            torch.where(item.mask[..., None], item.values, 9 * torch.randn_like(item.values)), item.lengths
        )
        for name, item in inputs.items()
    }
    assert torch.equal(module(inputs), module(noisy))
    longer = {name: PaddedSequence(F.pad(item.values, (0, 0, 0, 7)), item.lengths) for name, item in inputs.items()}
    torch.testing.assert_close(module(inputs), module(longer))


def test_shared_vectors_do_not_know_the_modalities():
    module, inputs = fusion(), states()
    torch.testing.assert_close(module(inputs), module(dict(reversed(inputs.items()))))
    swapped = {"text": inputs["audio"], "audio": inputs["text"], "vision": inputs["vision"]}
    torch.testing.assert_close(module(inputs), module(swapped))
    apart = fusion(shared=False)
    assert not torch.allclose(apart(inputs), apart(swapped))


def test_a_single_scale_of_one_modality_is_netvlad():
    module, text = fusion(("text",), windows=(1,)), states()["text"]
    descriptors = module.scales.transforms[0](text.values)
    torch.testing.assert_close(module({"text": text}), module.vlads["all"](descriptors, text.mask)[0])


def test_vectors_of_their_own_are_an_ablation():
    shared, apart = build(), build(shared=False)
    assert isinstance(shared.network.fusion.vlads["all"], SharedVLAD)
    assert set(apart.network.fusion.vlads) == set(MODALITIES)
    assert count(apart) - count(shared) == 2 * (2 * 4 * 16 + 4)
    inputs, module = states(), fusion(shared=False)
    alone = [module.vlads[name](*module.scales(item.values, item.mask))[0] for name, item in inputs.items()]
    torch.testing.assert_close(module(inputs), alone[0] + alone[1] + alone[2])


@pytest.mark.parametrize(
    ("settings", "windows"),
    [
        ({"scales": (), "utterance": True}, (0,)),
        ({"scales": (1,), "utterance": False}, (1,)),
        ({"scales": (1,)}, (1, 0)),
        ({"scales": (1, 2, 3, 10)}, (1, 2, 3, 10, 0)),
    ],
)
def test_scales_are_settings(settings, windows):
    method = build(**settings)
    assert method.network.fusion.scales.windows == windows
    assert count(method.network.fusion.scales) == len(windows) * (16**2 + 3 * 16)
    assert method(batch_of()).prediction.isfinite().all()


def test_the_utterance_scale_alone_does_not_know_the_order_of_states():
    for windows, same in (((0,), True), ((2,), False)):
        module, text = fusion(("text",), windows=windows), states()["text"]
        turned = PaddedSequence(text.values[1:2].flip(1), text.lengths[1:2])  # the second text fills its nine steps
        straight = PaddedSequence(text.values[1:2], text.lengths[1:2])
        assert torch.allclose(module({"text": turned}), module({"text": straight})) is same


def test_default_size_of_the_fusion():
    method = ScaleVLAD(make_spec())
    assert count(method.network.fusion) == 22_472
    assert count(ScaleVLAD(make_spec(), config=ScaleVLAD.Config(width=128)).network.fusion) == 85_896


def test_the_head_reads_normalised_vectors_beside_a_token():
    """By torch's own Transformer, with the token in front."""
    method, batch = build().double().eval(), doubled(batch_of())
    network, gathered = method.network, []
    network.norm.register_forward_hook(lambda _, __, output: gathered.append(output))
    prediction = network(batch.inputs).prediction
    encoded = {name: encoder(batch.inputs[name]) for name, encoder in network.encoders.items()}
    summed = network.fusion(encoded)
    torch.testing.assert_close(gathered[0], network.norm(summed / summed.norm(dim=-1, keepdim=True)))
    torch.testing.assert_close(network.norm(5 * gathered[0]), gathered[0], atol=1e-3, rtol=1e-3)
    tokens = torch.cat([torch.zeros(12, 1, 16), gathered[0]], 1) + network.index
    torch.testing.assert_close(prediction, network.head(network.top(tokens)[:, 0]), atol=1e-9, rtol=1e-9)


def padded_encoding(encoder, sequence):
    """Return the states ``(B, T, width)`` by torch's own Transformer on padded steps."""
    mask, steps = sequence.mask, torch.arange(sequence.values.shape[1])
    hidden = encoder.project(encoder.norm(sequence.values, mask))
    places = position_vectors((steps + 1) * mask, hidden.shape[2], hidden.dtype)
    return encoder.layers(hidden + places, src_key_padding_mask=~mask)


@pytest.mark.parametrize("packed", [True, False])
def test_states_are_those_of_a_transformer_on_padded_steps(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    encoder = build(layers=2).double().eval().network.encoders["audio"]
    sequence = doubled(batch_of()).inputs["audio"]
    found = encoder(sequence)
    assert torch.equal(found.lengths, sequence.lengths)
    assert not found.values[~sequence.mask].any()
    expected = padded_encoding(encoder, sequence)
    torch.testing.assert_close(found.values[sequence.mask], expected[sequence.mask], atol=1e-9, rtol=1e-9)


# Text of tokens


def test_words_are_read_without_the_marks_at_both_ends():
    torch.manual_seed(0)
    encoder = WordEncoder(5, 16)
    values, lengths = torch.randn(2, 6, 5), torch.tensor([6, 4])
    found = encoder(PaddedSequence(values, lengths))
    assert found.lengths.tolist() == [4, 2]
    torch.testing.assert_close(found.values[0, :4], encoder.project(values[0, 1:5]))
    torch.testing.assert_close(found.values[1, :2], encoder.project(values[1, 1:3]))


def test_a_text_without_words_has_no_descriptors(monkeypatch):
    class Embedding(nn.Embedding):
        """Stands for a pretrained encoder of tokens."""

        dim = 5

        def __init__(self, name, frozen=False):
            super().__init__(20, self.dim)

        def forward(self, tokens):
            return PaddedSequence(super().forward(tokens.values) * tokens.mask.unsqueeze(-1), tokens.lengths)

    monkeypatch.setattr("mmbench.methods.base.PretrainedText", Embedding)
    spec = make_spec(modalities=("text",))
    spec = replace(spec, modalities={"text": ModalitySpec("text", 20, 6, "tokens")})
    method = ScaleVLAD(spec, config=ScaleVLAD.Config(text_encoder="some", **SMALL)).train()
    assert isinstance(method.network.encoders["text"], WordEncoder)
    batch = make_batch(make_spec(modalities=("text",)), 3)
    batch.inputs["text"] = PaddedSequence(torch.randint(1, 19, (3, 2)), torch.tensor([2, 2, 1]))
    terms = terms_of(method, batch)
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    assert not method.network.fusion({"text": method.network.encoders["text"](method.features(batch)["text"])}).any()


# Shifted clustering


def test_clustering_begins_with_its_epoch_and_a_memory_half_full():
    early, late = build(clustering_start=0).train(), build().train()
    for method, expected in ((early, [False, False, True]), (late, [False] * 3)):
        found = [bool(terms_of(method, batch_of(8, seed=seed))["clustering"] > 0) for seed in range(3)]
        assert found == expected
        assert len(method.clustering.queue) == 24


def test_evaluation_leaves_the_memory_alone():
    method = build().eval()
    terms_of(method, batch_of())
    assert len(method.clustering.queue) == 0


def started(**settings):
    """Return terms and gradients of a batch with clusters."""
    method = build(clustering_start=0, **settings).train()
    for seed in range(3):
        method.zero_grad()
        terms = terms_of(method, batch_of(16, seed=seed))
        sum(terms.values()).backward()
    return method, terms, {name: p.grad for name, p in method.named_parameters()}


def test_every_parameter_learns():
    _, terms, gradients = started()
    assert terms["clustering"] > 0
    assert all(gradient.any() for gradient in gradients.values())


def test_without_its_weight_there_is_no_clustering_and_the_task_is_as_before():
    (full, terms, gradients), (plain, left, without) = started(), started(clustering=0.0)
    assert set(left) == {"task"}
    assert plain.clustering is None
    assert set(gradients) - set(without) == {name for name in gradients if name.startswith("network.fuse.")}
    plain.load_state_dict({k: v for k, v in full.state_dict().items() if k in plain.state_dict()})
    batch = batch_of(16, seed=2)
    torch.testing.assert_close(terms_of(plain, batch)["task"], terms["task"])
    plain.zero_grad()
    full.zero_grad()
    terms_of(plain, batch)["task"].backward()
    terms_of(full, batch)["task"].backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(full.named_parameters())[name].grad)
    key = "network.fusion.vlads.all.centres"
    assert not torch.allclose(gradients[key], dict(full.named_parameters())[key].grad)


def test_the_weight_scales_the_term():
    assert started(clustering=0.2)[1]["clustering"].item() == pytest.approx(2 * started()[1]["clustering"].item())


@pytest.mark.parametrize(
    ("setting", "value", "attribute"),
    [
        ("temperature", 0.5, "temperature"),
        ("momentum", 0.3, "momentum"),
        ("refresh", 7, "refresh"),
        ("balanced", False, "balanced"),
    ],
)
def test_settings_reach_the_clustering(setting, value, attribute):
    assert getattr(build(**{setting: value}).clustering, attribute) == value
    assert build(clusters=5).clustering.centres.shape == (5, 16)
    assert build(memory=48).clustering.queue.memory.shape == (48, 16)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("scalevlad") / "toy.h5", make_spec(), train=32)


def fit(store, epochs, **arguments):
    method = build(dropout=0.2, refresh=2)
    data = partial(FusionDataModule, store, batch_size=8)
    trainer = training.fit(method, data, epochs, callbacks=[EpochSeed(1)], **arguments)
    return method, trainer


def test_a_killed_run_goes_on_exactly(store, tmp_path):
    """From the second epoch on there are clusters, and the checkpoint is written between memory and clusters."""
    whole, trainer = fit(store, 3)
    assert trainer.callback_metrics["train/clustering"] > 0
    for epochs in (1, 2):
        killed, trainer = fit(store, epochs)
        assert bool(killed.clustering.steps) == bool(trainer.callback_metrics["train/clustering"]) == (epochs == 2)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        resumed, _ = fit(store, 3, ckpt_path=tmp_path / f"{epochs}.ckpt")
        assert int(resumed.clustering.steps) > 6
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, "'heads' is 5; it must divide width, 64"),
        ({"scales": (0, 1)}, "windows of at least 1, each once"),
        ({"scales": (2, 2)}, "windows of at least 1, each once"),
        ({"scales": (), "utterance": False}, "give a scale"),
        ({"memory": 20}, "half of it must hold the 16 clusters"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ScaleVLAD.Config(**settings)


def test_scales_survive_plain_containers():
    config = ScaleVLAD.Config(scales=(1, 4))
    assert ScaleVLAD.Config.parse({"scales": [1, 4]}) == config
    assert ScaleVLAD.Config.parse(config.to_dict()) == config


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "iemocap", "ravdess", "synthetic"])
def test_shipped_settings_are_valid(dataset):
    for suite in ("default", "ci"):
        ScaleVLAD.Config.parse(shipped_settings(BENCHMARKS, "scalevlad", dataset, "bclstm", suite))
