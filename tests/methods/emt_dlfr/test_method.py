from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn

from data_modules.batches.corruption import Corruption
from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.emt_dlfr import EMTDLFR
from mmbench.methods.emt_dlfr.network import EMTNetwork
from mmbench.runner.callbacks import EpochSeed
from mmbench.runner.cost import parameters
from mmbench.runner.settings import shipped_settings
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods import training
from tests.methods.parts import builder, count, sampler, spec_of, terms_of

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SMALL = {"dim": 8, "layers": 2, "heads": 2, "head": 12, "bottleneck_context": 6, "bottleneck_text": 3}
STILL = {"attention_dropout": 0.0, "network_dropout": 0.0, "head_dropout": 0.0}
TERMS = {
    "task",
    "complete",
    *(f"attraction_{name}" for name in ("context", *MODALITIES)),
    *(f"restoration_{name}" for name in MODALITIES),
}
SIMS = {
    "hidden_audio": 16,
    "hidden_vision": 32,
    "dim": 32,
    "layers": 4,
}

build = builder(EMTDLFR, **SMALL, **STILL)
clean, damaged = sampler(), sampler(corrupted=True)


def gradients(method, terms):
    method.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad for name, p in method.named_parameters()}


# Sizes


@cache
def official(dataset):
    return EMTDLFR.Config.parse(
        SIMS if dataset == "sims" else shipped_settings(BENCHMARKS, "emt_dlfr", dataset, "", "")
    )


@pytest.mark.parametrize(
    ("dataset", "audio", "vision", "inference", "everything"),
    [
        ("mosi", 5, 20, 985_906, 2_322_779),
        ("mosei", 74, 35, 767_874, 2_115_583),
        ("sims", 33, 709, 453_730, 1_525_592),
    ],
)
def test_published_sizes(dataset, audio, vision, inference, everything):
    config = replace(official(dataset), text_states="bert")
    dims = {"text": 768, "audio": audio, "vision": vision}
    assert count(EMTNetwork(dims, 1, config, states=True)) == inference
    spec = spec_of(dims, 50)
    assert count(EMTDLFR(spec, config=config)) == everything
    plain = replace(config, attraction=0.0, restoration=0.0)
    assert count(EMTDLFR(spec, config=plain)) == inference


def test_shipped_settings_are_the_official_ones():
    keys = ("batch_size", "accumulate", "text_lr", "lr_audio", "lr_vision", "lr", "dim", "layers", "heads", "head")
    assert [getattr(official("mosi"), key) for key in keys] == [32, 4, 5e-5, 1e-3, 1e-4, 1e-3, 128, 3, 4, 256]
    assert [getattr(official("mosei"), key) for key in keys] == [16, 4, 2e-5, 1e-4, 1e-4, 1e-4, 128, 2, 4, 128]
    keys = ("weight_decay_text", "weight_decay_audio", "weight_decay_vision", "weight_decay")
    assert [getattr(official("mosi"), key) for key in keys] == [1e-3, 1e-2, 1e-3, 1e-3]
    assert [getattr(official("mosei"), key) for key in keys] == [1e-3] * 4
    keys = ("attention_dropout", "network_dropout", "embedding_dropout", "head_dropout", "gradient_clip")
    assert [getattr(official("mosi"), key) for key in keys] == [0.3, 0.1, 0.0, 0.3, 0.0]
    assert [getattr(official("mosei"), key) for key in keys] == [0.0] * 5


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "ravdess", "synthetic"])
@pytest.mark.parametrize("suite", ["default", "ci"])
def test_shipped_settings_are_valid(dataset, suite):
    EMTDLFR.Config.parse(shipped_settings(BENCHMARKS, "emt_dlfr", dataset, "bclstm", suite))


# Data with and without an intact view


def test_damaged_data_have_every_term_in_training_and_the_task_alone_in_evaluation():
    method, batch = build(), damaged()
    assert set(terms_of(method.train(), batch)) == TERMS
    assert set(terms_of(method.eval(), batch)) == {"task"}


def test_clean_data_have_the_task_alone():
    method, batch = build().train(), clean()
    terms = terms_of(method, batch)
    assert set(terms) == {"task"}
    torch.testing.assert_close(terms["task"], method.task.loss(method(batch).prediction, batch))
    found = gradients(method, terms)
    heads = {name for name in found if name.startswith(("attractions", "restorers"))}
    assert heads
    assert {name for name, gradient in found.items() if gradient is None} == heads


def test_clean_data_may_be_seen_twice():
    method, batch = build(restore_clean=True).train(), clean()
    terms = terms_of(method, batch)
    assert set(terms) == TERMS
    assert all(terms[f"restoration_{name}"] == 0 for name in MODALITIES)  # nothing is missing
    torch.testing.assert_close(terms["complete"], terms["task"])  # without dropout the views are one
    assert set(terms_of(method.eval(), batch)) == {"task"}


def test_views_of_clean_data_differ_by_dropout():
    terms = terms_of(build(restore_clean=True, head_dropout=0.5).train(), clean())
    assert terms["complete"] != terms["task"]


def test_equal_views_and_perfect_predictors_give_minus_four():
    method = build(restore_clean=True).train()
    for simsiam in method.attractions.values():
        simsiam.predictor = nn.Identity()
    terms = terms_of(method, clean())
    attraction = sum(term for name, term in terms.items() if name.startswith("attraction"))
    assert attraction.item() == pytest.approx(-4, abs=1e-5)


def test_the_prediction_is_of_the_damaged_view():
    method, batch = build().train(), damaged()
    prediction = method(batch).prediction
    assert torch.equal(prediction, method(replace(batch, complete=None, kept=None)).prediction)
    intact = method(replace(batch, inputs=batch.complete)).prediction
    assert not torch.allclose(prediction, intact)
    torch.testing.assert_close(terms_of(method, batch)["complete"], method.task.loss(intact, batch))


def test_attraction_is_that_of_the_views():
    method, batch = build().train(), damaged()
    terms = terms_of(method, batch)
    intact, seen = (method.network(view).h for view in (batch.complete, batch.inputs))
    for name, simsiam in method.attractions.items():
        torch.testing.assert_close(terms[f"attraction_{name}"], simsiam(intact[name], seen[name]))


@pytest.mark.parametrize("kind", ["regression", "multiclass", "multilabel", "binary"])
def test_a_damaged_batch_of_one_trains(kind):
    method = build(kind).train()
    terms = terms_of(method, damaged(1, kind))
    assert all(term.isfinite() for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients(method, terms).values())


def test_two_modalities_have_a_context_of_two():
    method = build(modalities=("audio", "vision")).train()
    terms = terms_of(method, damaged(modalities=("audio", "vision")))
    assert set(terms) == {name for name in TERMS if not name.endswith("_text")}
    assert method.attractions["context"].projector[0].in_features == 2 * 8


# Ablations


@pytest.fixture(scope="module")
def full():
    method = build().train()
    terms = terms_of(method, damaged())
    return method, terms, gradients(method, terms)


def ablated(full, **settings):
    """Return a method with other settings and the same weights, its terms and gradients."""
    method = build(**settings).train()
    method.load_state_dict({k: v for k, v in full[0].state_dict().items() if k in method.state_dict()})
    terms = terms_of(method, damaged())
    return method, terms, gradients(method, terms)


def test_every_parameter_learns(full):
    useless = {"attractions", "score.2.bias"}  # biases before a normalisation or a softmax
    for name, gradient in full[2].items():
        assert gradient.any() or any(part in name for part in useless), name


def test_without_attraction_the_intact_view_teaches_restoration_alone(full):
    method, terms, found = ablated(full, attraction=0.0)
    assert set(terms) == {name for name in TERMS if name == "task" or name.startswith("restoration")}
    assert not method.attractions
    for name, term in terms.items():
        torch.testing.assert_close(term, full[1][name])
    key = "network.readers.audio.lstm.rnn.weight_ih_l0"
    assert not torch.allclose(found[key], full[2][key])
    torch.testing.assert_close(found["restorers.audio.weight"], full[2]["restorers.audio.weight"])


def test_without_restoration_nothing_is_restored(full):
    method, terms, found = ablated(full, restoration=0.0)
    assert set(terms) == {name for name in TERMS if not name.startswith("restoration")}
    assert not method.restorers
    for name, term in terms.items():
        torch.testing.assert_close(term, full[1][name])
    key = "attractions.context.predictor.3.weight"
    torch.testing.assert_close(found[key], full[2][key])
    assert not any(name.startswith("steps") for name in method(damaged()).named)


def test_without_both_the_intact_view_is_not_looked_at(full):
    method, terms, _ = ablated(full, attraction=0.0, restoration=0.0)
    assert set(terms) == {"task"}
    unseen = {name: PaddedSequence(item.values * torch.nan, item.lengths) for name, item in damaged().complete.items()}
    assert torch.equal(terms_of(method, replace(damaged(), complete=unseen))["task"], terms["task"])


def test_weights_scale_their_terms(full):
    _, terms, _ = ablated(full, attraction=0.5, restoration=0.25)
    for name, term in terms.items():
        scale = 1.0 if name == "task" else 0.25 if name.startswith("restoration") else 0.5
        torch.testing.assert_close(term, scale * full[1][name])


@pytest.mark.parametrize(
    ("settings", "units"),
    [
        ({}, 1),
        ({"share_directions": False}, 2),
        ({"share_modalities": False}, 3),
        ({"share_layers": False}, 2),
        ({"share_directions": False, "share_modalities": False, "share_layers": False}, 12),
    ],
)
def test_sharing_is_a_setting_and_every_unit_learns(settings, units):
    method = build(**settings).train()
    assert len(method.network.fusion.units) == units
    found = gradients(method, terms_of(method, damaged()))
    assert all(gradient.any() for name, gradient in found.items() if ".units." in name)


# Training


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("emt_dlfr") / "toy.h5", make_spec(), train=32)


def fit(store, rate, epochs, method=None, **arguments):
    method = method or build(**SMALL, head_dropout=0.2)
    data = partial(FusionDataModule, store, batch_size=8, corruption=Corruption(steps=rate))
    trainer = training.fit(method, data, epochs, callbacks=[EpochSeed(1)], **arguments)
    return method, trainer


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_every_missing_rate_trains(store, rate):
    _, trainer = fit(store, rate, 1)
    logged = {name.removeprefix("train/") for name in trainer.callback_metrics if name.startswith("train/")}
    assert logged == ({*TERMS, "loss"} if rate else {"task", "loss"})
    assert all(value.isfinite() for value in trainer.callback_metrics.values() if value.numel())
    if rate == 1.0:
        trainer.datamodule.setup("validate")
        batch = next(iter(trainer.datamodule.val_dataloader()))
        assert not any(item.values.any() for item in batch.inputs.values())
        assert all(item.values.any() for item in batch.complete.values())


UNSHARED = {"share_layers": False, "share_directions": False}


@pytest.mark.parametrize("settings", [{}, UNSHARED, {"restoration": 0.0, **UNSHARED}, {"restore_clean": True}])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_what_learns_has_a_gradient_in_every_step(store, rate, settings):
    """DDP waits for the gradient of every parameter that learns."""
    method, steps = build(**settings), []
    method.on_before_optimizer_step = lambda optimizer: steps.append(
        {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    )
    fit(store, rate, 1, method)
    learning = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert steps == [learning] * 4
    taught = {name for name in learning if name.startswith("attractions")}
    assert bool(taught) == (rate > 0 or "restore_clean" in settings)


def test_heads_of_the_training_learn_where_there_is_damage(store):
    method, _ = fit(store, 0.0, 1)
    assert parameters(method) == count(method.network)
    fit(store, 0.5, 1, method)
    assert parameters(method) == count(method)


def test_a_resumed_run_ends_like_an_uninterrupted_one(store, tmp_path):
    whole, _ = fit(store, 0.5, 2)
    fit(store, 0.5, 1)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(store, 0.5, 2, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (3, 2), (9, 1)])
def test_gradients_add_up_before_a_step(store, accumulate, steps):
    method = build(accumulate=accumulate)
    taken = []
    method.on_before_optimizer_step = lambda optimizer: taken.append(1)
    fit(store, 0.0, 1, method)
    assert len(taken) == steps


# Settings


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"'heads' is 5; it must divide dim, 64"):
        EMTDLFR.Config(heads=5)
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("audio",))


def test_published_numbers_are_fractions():
    values = {(result.track, result.metric): result.value for result in EMTDLFR.card.published}
    assert len(values) == 8
    assert values["mosi/unaligned_50_tokens/standard", "mae"] == 0.705
    assert values["mosi/unaligned_50_tokens/standard", "acc2_non0"] == 0.85
