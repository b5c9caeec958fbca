"""MMMIE: the two steps of every batch, and what the Gaussians are fitted to."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import PaddedSequence
from mmbench.methods.mmmie import MMMIE
from mmbench.testing.builders import make_spec, write_toy_store
from tests.golden.cases import snapshot
from tests.methods.mmmie.parts import SMALL, build, gradients, sample
from tests.methods.training import assert_resumes, fit


def test_each_step_reaches_its_own_parameters():
    method = build().train()
    names = {name for name, _ in method.named_parameters()}
    estimators = {name for name in names if name.startswith("estimators.")}
    terms, reached = gradients(method, sample(phase="estimate"))
    assert list(terms) == ["estimate"]
    assert set(reached) == estimators
    terms, reached = gradients(method, sample(phase="main"))
    assert list(terms) == ["task", "nce", "club"]
    assert set(reached) == names - estimators


def test_optimisers_hold_what_their_steps_reach():
    method = build(lr_estimator=5e-3)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = method.parameter_groups()
    held = {key: {names[id(p)] for group in items for p in group["params"]} for key, items in groups.items()}
    assert held["estimator"] == {name for name in names.values() if name.startswith("estimators.")}
    assert held["main"] == set(names.values()) - held["estimator"]
    assert groups["estimator"][0]["lr"] == 5e-3
    assert [(phase.optimizer, phase.same_batch) for phase in method.phases] == [("estimator", False), ("main", True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three training batches of 8 samples."""
    path = write_toy_store(tmp_path_factory.mktemp("mmmie") / "toy.h5", make_spec(), train=24)

    return partial(FusionDataModule, path, batch_size=8)


class Observed(MMMIE):
    """MMMIE that notes the phase, the rows, the terms and the parameters of every step."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        super().__init__(make_spec(), config=MMMIE.Config(**SMALL | settings))
        self.steps = []

    def objective(self, output, batch):
        terms = super().objective(output, batch)
        if self.training:
            self.steps.append(
                (batch.phase, batch.index.tolist(), terms, snapshot(self), self.standards["text"].count.item())
            )
        return terms


def test_every_batch_fits_the_estimators_and_then_the_rest(data):
    method = Observed(warmup=0)
    fit(method, data, epochs=2)
    assert [phase for phase, *_ in method.steps] == 6 * ["estimate", "main"]
    states = [parameters for *_, parameters, _ in method.steps] + [snapshot(method)]
    for number, (phase, index, *_) in enumerate(method.steps):
        assert index == method.steps[number - number % 2][1]  # one batch, two steps
        for name, value in states[number].items():
            changed = not torch.equal(value, states[number + 1][name])
            assert (
                changed is ((phase == "estimate") == name.startswith("estimators.")) or ".attention.packed" in name
            ), name
    assert [count for *_, count in method.steps[:6:2]] == [8, 16, 24]  # every row counts once per epoch
    assert method.steps[-1][-1] == 48


def test_the_weight_of_the_minimisation_grows(data):
    method = Observed(warmup=2)
    weights = []
    method.on_train_epoch_end = lambda: weights.append(method.club_weight)
    fit(method, data, epochs=4)
    assert weights == pytest.approx([0.0, 0.005, 0.01, 0.01])
    assert all(term["club"] == 0 for phase, _, term, *_ in method.steps[:6] if phase == "main")
    assert build(warmup=0).club_weight == 0.01


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, tmp_path):
    assert_resumes(Observed, data, 3, tmp_path)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_take_both_steps(data):
    method = Observed(warmup=0)
    before = snapshot(method)
    fit(method, data, devices=2, strategy="ddp_fork_find_unused_parameters_true")
    unchanged = {name for name, value in before.items() if torch.equal(value, method.get_parameter(name))}
    assert all(".attention.packed.bias" in name for name in unchanged)


def test_inputs_are_standardised_by_what_training_has_seen():
    method, batch = build().train(), sample(phase="estimate")
    method(batch)
    means = torch.stack(
        [item.values[row, : item.lengths[row]].mean(0) for item in [batch.inputs["audio"]] for row in range(16)]
    )
    standard = method.standards["audio"]
    torch.testing.assert_close(standard.mean, means.mean(0))
    torch.testing.assert_close(standard.variance, means.var(0, correction=0))
    method(replace(batch, phase="main"))
    method.eval()(batch)
    assert standard.count == 16  # neither the main step nor evaluation adds rows


def test_estimators_are_fitted_by_the_likelihood_of_vectors_given_standardised_inputs():
    method, batch = build().train(), sample(phase="estimate")
    output, expected = method(batch), 0.0
    for name, item in batch.inputs.items():
        x = torch.stack([item.values[row, : item.lengths[row]].mean(0) for row in range(16)])
        x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
        q = method.estimators[name]
        normal = torch.distributions.Normal(q.mean(x), (q.logvar(x).tanh() / 2).exp())
        expected -= normal.log_prob(output.named[f"h_{name}"]).sum(-1).mean() + 8 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(method.objective(output, batch)["estimate"], expected)


class Tokens(nn.Module):
    """A text encoder of two tables: word embeddings, and states that differ from them."""

    def __init__(self, words, width, dim):
        super().__init__()
        self.model = nn.Module()
        self.model.table = nn.Embedding(words, width)
        self.model.get_input_embeddings = lambda: self.model.table
        self.states = nn.Embedding(words, dim)

    def forward(self, text):
        return PaddedSequence(self.states(text.values), text.lengths)


def test_the_input_of_token_text_is_the_mean_of_its_word_embeddings():
    method = build(modalities=("text", "audio"))
    batch = sample(4, modalities=("text", "audio"))
    method.text_encoder = Tokens(11, 5, 7)
    ids = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))
    batch.inputs["text"] = PaddedSequence(ids, torch.tensor([6, 3, 1, 4]))
    found = method.summaries(batch)["text"]
    expected = [method.text_encoder.model.table(ids[row, :length]).mean(0) for row, length in enumerate([6, 3, 1, 4])]
    torch.testing.assert_close(found, torch.stack(expected))
    assert not found.requires_grad
