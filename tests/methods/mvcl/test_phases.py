"""MVCL: what its phases train, at which rates, and what they leave alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.mvcl import MVCL
from mmbench.testing.builders import DIMS, make_spec, write_toy_store
from tests.golden.cases import snapshot
from tests.methods.mvcl.parts import PARTS, PHASES, SMALL, STILL, build, gradients, sample
from tests.methods.training import assert_resumes, fit


def test_phases_follow_each_other_and_the_head_comes_last():
    phases = build(unimodal_epochs=2, cross_epochs=3, fused_epochs=4).phases
    assert [(phase.name, phase.optimizer, phase.start, phase.stop) for phase in phases] == [
        ("unimodal", "unimodal", 0, 2),
        ("cross", "cross", 2, 5),
        ("fused", "fused", 5, 9),
        ("task", "main", 9, None),
    ]
    assert [phase.name for phase in build(mode="joint").phases] == ["joint"]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("earlier_rate", [1.0, 0.0])
def test_a_phase_reaches_its_own_parts(phase, earlier_rate):
    method, name = build(earlier_rate=earlier_rate).train(), phase
    terms, reached = gradients(method, sample(24, phase=phase))
    assert list(terms) == [name]
    own = {
        "unimodal": ("network.encoders.", "network.unimodal."),
        "cross": PARTS["interaction"],
        "fused": PARTS["fusion"],
        "task": PARTS["head"],
    }[name]
    earlier = {"cross": ("network.encoders.",), "fused": ("network.interaction.",)}.get(name, ())
    prefixes = own + (earlier if earlier_rate else ())
    expected = {key for key, _ in method.named_parameters() if key.startswith(prefixes)}
    if name == "cross":
        expected = {key for key in expected if ".vector." not in key}
    assert set(reached) == expected


def test_a_phase_steps_its_own_parts_and_the_one_before_at_a_rate_of_its_own():
    method = build(lr=0.1, lr_contrast=1e-2, lr_audio=2e-2, lr_vision=3e-2, earlier_rate=0.5)
    names = {id(parameter): name for name, parameter in method.named_parameters()}

    def rates(optimizer):
        groups = method.parameter_groups()[optimizer]
        return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}

    everything = set(names.values())
    trained = {"unimodal": ["encoders"], "cross": ["encoders", "interaction"], "fused": ["interaction", "fusion"]}
    for optimizer, parts in {**trained, "main": ["head"]}.items():
        prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
        assert set(rates(optimizer)) == {name for name in everything if name.startswith(prefixes)}
    lstm = "network.encoders.{}.lstm.rnn.weight_ih_l0"
    assert rates("unimodal")[lstm.format("audio")] == (2e-2, 0.01)
    assert rates("unimodal")[lstm.format("vision")] == (3e-2, 0.01)
    assert rates("unimodal")["network.unimodal.audio.1.weight"] == (1e-2, 0.01)
    assert rates("cross")[lstm.format("audio")] == (1e-2, 0.01)
    assert rates("cross")["network.interaction.tokens.vision.weight"] == (3e-2, 0.01)
    assert rates("cross")["network.interaction.tokens.text.weight"] == (1e-2, 0.01)
    assert rates("fused")["network.interaction.tokens.text.weight"] == (5e-3, 0.01)
    assert rates("fused")["network.fusion.post.1.weight"] == (1e-2, 0.01)
    assert set(rates("main").values()) == {(0.1, 0.01)}
    frozen = build(earlier_rate=0.0)
    names = {id(parameter): name for name, parameter in frozen.named_parameters()}
    cross = {names[id(p)] for group in frozen.parameter_groups()["cross"] for p in group["params"]}
    assert cross == {name for name in everything if name.startswith(PARTS["interaction"])}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two training batches of 12 samples."""
    path = write_toy_store(tmp_path_factory.mktemp("mvcl") / "toy.h5", make_spec(), train=24)

    return partial(FusionDataModule, path, batch_size=12)


class Observed(MVCL):
    """MVCL that notes parameters, terms and modes of every step."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        lengths = {"unimodal_epochs": 1, "cross_epochs": 1, "fused_epochs": 1}
        super().__init__(make_spec(), config=MVCL.Config(**SMALL | lengths | settings))
        self.steps = []

    def objective(self, output, batch):
        terms = super().objective(output, batch)
        if self.training:
            parts = {part: {module.training for module in modules.modules() if module is not modules}
                     for part, modules in self.network.parts().items()}  # fmt: skip
            self.steps.append((list(terms), snapshot(self), parts))
        return terms


@pytest.fixture(scope="module")
def observed(data):
    method = Observed()
    fit(method, data, epochs=5)
    return method


def test_training_takes_one_term_after_the_other(observed):
    names = [terms for terms, _, _ in observed.steps]
    assert names == 2 * [["unimodal"]] + 2 * [["cross"]] + 2 * [["fused"]] + 4 * [["task"]]


def test_every_phase_changes_its_parts_and_nothing_else(observed):
    states = [parameters for _, parameters, _ in observed.steps[::2]] + [snapshot(observed)]
    trained = (["encoders"], ["encoders", "interaction"], ["interaction", "fusion"], ["head"], ["head"])
    for epoch, parts in enumerate(trained):
        changed = {name for name, value in states[epoch].items() if not torch.equal(value, states[epoch + 1][name])}
        prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
        allowed = {name for name in states[0] if name.startswith(prefixes)}
        # No term after the first reaches the unimodal vectors, and only the second compares views.
        beyond = {1: (".unimodal.", ".vector."), 2: (".view_projectors.",)}.get(epoch, ())
        allowed = {name for name in allowed if not any(word in name for word in beyond)}
        assert changed <= allowed
        assert {name for name in allowed if name.endswith("weight") and "norm" not in name} <= changed


def test_frozen_parts_have_no_dropout(observed):
    trained = (["encoders"], ["encoders", "interaction"], ["interaction", "fusion"], ["head"], ["head"])
    for (_, _, parts), learning in zip(observed.steps[::2], trained, strict=True):
        assert {part for part, modes in parts.items() if modes == {True}} == set(learning)
        assert {part for part, modes in parts.items() if modes == {False}} == set(parts) - set(learning)


@pytest.mark.parametrize("name", ["unimodal", "cross", "fused"])
@pytest.mark.parametrize("switch", ["epochs", "weight"])
def test_a_phase_left_out(name, switch):
    method = Observed(**{f"{name}_{switch}": 0})
    assert [phase.name for phase in method.phases] == [item for item in PHASES if item != name]
    assert method.first_epoch == 2
    assert set(method.parameter_groups()) == {"unimodal", "cross", "fused", "main"} - {name}
    own = {"unimodal": ".unimodal.", "cross": ".view_projectors.", "fused": ".fused_projector."}[name]
    assert not any(own in key for key, _ in method.named_parameters())


def test_training_without_a_phase_goes_from_the_one_before_to_the_one_after(data):
    method = Observed(cross_epochs=0)
    fit(method, data, epochs=3)
    assert [terms for terms, _, _ in method.steps] == 2 * [["unimodal"]] + 2 * [["fused"]] + 2 * [["task"]]


def test_gradients_are_added_up_over_batches(data):
    method = Observed(accumulate=2, **STILL)
    assert method.accumulate == 2
    fit(method, data, epochs=4)
    for first, second in zip(method.steps[::2], method.steps[1::2], strict=True):
        assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, tmp_path):
    assert_resumes(lambda: Observed(**STILL), data, 5, tmp_path)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_every_phase(data):
    method = Observed(**STILL)
    before = snapshot(method)
    fit(method, data, epochs=4, devices=2, strategy="ddp_fork_find_unused_parameters_true")
    assert {name for name, value in before.items() if torch.equal(value, method.get_parameter(name))} <= {
        name for name in before if name.endswith("bias") or "norm" in name
    }


def test_too_few_epochs_are_refused(data):
    with pytest.raises(ConfigError, match="prepares for 3 epochs"):
        fit(Observed(), data, epochs=3)


class Shift(torch.nn.Module):
    """A text encoder with one trainable vector, added to every state."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(DIMS["text"]))

    def forward(self, text):
        self.learns = torch.is_grad_enabled()
        return PaddedSequence(text.values + self.shift, text.lengths)


@pytest.mark.parametrize("phase", PHASES)
def test_a_text_encoder_is_a_part_of_the_encoders(phase):
    method = build(earlier_rate=0.1).train()
    method.text_encoder = Shift()
    _, reached = gradients(method, sample(24, phase=phase))
    assert ("text_encoder.shift" in reached) is method.text_encoder.learns is (phase in ("unimodal", "cross"))
    groups = method.parameter_groups()
    holding = {name: [group for group in items if any(p is method.text_encoder.shift for p in group["params"])]
               for name, items in groups.items()}  # fmt: skip
    assert {name for name, items in holding.items() if items} == {"unimodal", "cross"}
    assert holding["unimodal"][0]["lr"] == 5e-5
    assert holding["cross"][0]["lr"] == pytest.approx(5e-6)


def test_predictions_can_be_differentiated_outside_of_training():
    method, batch = build().eval(), sample()
    batch.inputs["audio"].values.requires_grad_()
    method(batch).prediction.sum().backward()
    assert batch.inputs["audio"].values.grad.any()
