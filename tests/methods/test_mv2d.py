import math
from dataclasses import replace
from functools import partial
from itertools import permutations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError
from mmbench.methods.mv2d import MV2D
from mmbench.methods.vsd.network import BranchesOutput
from mmbench.tasks import Task
from mmbench.testing.builders import DIMS, make_batch, make_spec, write_toy_store
from tests.methods.outputs import from_names
from tests.methods.training import assert_resumes, fit, more_padding

QUIET = {"head_dropout": 0.0, "fusion_dropout": 0.0, "ramp_epochs": 0}
TERMS = ("heads", "suff", "cons", "agree")


def build(kind="multiclass", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return MV2D(make_spec(kind, modalities), config=MV2D.Config(**QUIET | settings))


def sample(size=12, kind="multiclass", modalities=MODALITIES, seed=0):
    return make_batch(make_spec(kind, modalities), size, seed)


def run(method, batch):
    """Return output and terms of a training step."""
    output = method.train()(batch)
    return output, method.objective(output, batch)


def logits(views=MODALITIES, size=9, seed=0):
    """Return random logits of three classes as an output of a network."""
    random = torch.Generator().manual_seed(seed)
    named = {f"{part}_{view}": torch.randn(size, 3, generator=random) for part in "pq" for view in views}
    return from_names(BranchesOutput, torch.zeros(size, 3), named), replace(sample(size), target=torch.arange(size) % 3)


def with_large_heads(method):
    """Return the method with heads whose distributions differ; they begin near zero."""
    for branch in method.network.branches.values():
        torch.nn.init.normal_(branch.observation_head[0].weight)
        torch.nn.init.normal_(branch.representation_head[-1].weight)
    return method


# The network


@pytest.mark.parametrize(
    ("form", "branch"),
    [
        ("reid", 2 * 128 + 29_312 + 2_375 + 128 * 7 + 7),
        ("points", 128 * 128 + 128 + 2 * 128 + 128 * 64 + 64 + 2 * 64 + 64 * 7 + 7 + 128 * 7 + 7),
    ],
)
def test_size(form, branch):
    recurrent = 2 * (3 * 64 * (128 + 64) + 2 * 3 * 64)
    linear = sum(128 * (dim + 1) for dim in DIMS.values())
    expected = linear + 3 * (recurrent + branch) + 192 * 128 + 128 + 128 + 1
    assert sum(item.numel() for item in build("regression", branch=form).parameters()) == expected


def test_branches_of_both_codes_learn():
    for form in ("reid", "points"):
        method = build(branch=form)
        _, terms = run(method, sample(32))
        sum(terms.values()).backward()
        assert all(item.grad is not None for item in method.parameters() if item.requires_grad)


# Subsets and their weights


@pytest.mark.parametrize(
    ("views", "settings", "expected"),
    [
        (MODALITIES, {}, [(("audio",), 1 / 4), (("vision",), 1 / 4), (("audio", "vision"), 1 / 2)]),
        (MODALITIES, {"subset_power": 0.0}, [(("audio",), 1 / 3), (("vision",), 1 / 3), (("audio", "vision"), 1 / 3)]),
        (MODALITIES, {"subset_power": 2.0}, [(("audio",), 1 / 6), (("vision",), 1 / 6), (("audio", "vision"), 4 / 6)]),
        (MODALITIES, {"subset_weights": "full"}, [(("audio", "vision"), 1.0)]),
        (MODALITIES, {"max_subset": 1}, [(("audio",), 1 / 2), (("vision",), 1 / 2)]),
        (MODALITIES, {"max_subset": 5}, [(("audio",), 1 / 4), (("vision",), 1 / 4), (("audio", "vision"), 1 / 2)]),
        (("text", "vision"), {}, [(("vision",), 1.0)]),
    ],
)
def test_weights_grow_with_the_size_of_a_subset(views, settings, expected):
    method = build(modalities=views, **settings)
    output, batch = logits(views)
    weights = method.weights(method.teachers({view: output.named[f"p_{view}"] for view in views}), batch.target)
    assert method.subsets["text"] == tuple(subset for subset, _ in expected)
    assert weights["text"].tolist() == pytest.approx([weight for _, weight in expected])
    for view in views:
        assert weights[view].sum().item() == pytest.approx(1)
        assert all(view not in subset for subset in method.subsets[view])


def test_weights_by_size_are_on_the_device_before_the_first_step():
    """Made anew in each step, they would wait for the device once per view; a checkpoint need not hold them."""
    method = build()
    assert all(item is method.shares for item in method.weights({}, torch.zeros(0)).values())
    assert "shares" in dict(method.named_buffers())
    assert "shares" not in method.state_dict()


def test_all_subsets_of_the_others_teach():
    assert sum(len(subsets) for subsets in build().subsets.values()) == 3 * (2**2 - 1)


def test_confidence_weighs_subsets_by_their_likelihood():
    method = build(subset_weights="confidence")
    output, batch = logits()
    p = {view: output.named[f"p_{view}"].requires_grad_() for view in MODALITIES}
    weights = method.weights(method.teachers(p), batch.target)
    assert not any(item.requires_grad for item in weights.values())
    for view, subsets in method.subsets.items():
        scores = []
        for subset in subsets:
            product = torch.stack([p[name].softmax(-1) for name in subset]).prod(0) ** (1 / len(subset))
            likelihood = (product / product.sum(-1, keepdim=True)).gather(1, batch.target[:, None])
            scores.append(likelihood.log().mean().exp())
        torch.testing.assert_close(weights[view], torch.stack(scores) / sum(scores))


# The terms


def naive(named, views, batch, power=1.0):
    """Return the terms for classes by the equations, from torch's distributions."""
    p, q = ({view: Categorical(logits=named[f"{part}_{view}"]) for view in views} for part in "pq")
    cons = 0.0
    for student in views:
        others = [view for view in views if view != student]
        subsets = [[view for bit, view in enumerate(others) if mask >> bit & 1] for mask in range(1, 2 ** len(others))]
        total = sum(len(subset) ** power for subset in subsets)
        for subset in subsets:
            teacher = Categorical(torch.stack([p[view].probs for view in subset]).prod(0) ** (1 / len(subset)))
            cons += len(subset) ** power / total * kl_divergence(teacher, q[student]).mean()
    mixture = Categorical(torch.stack([item.probs for item in q.values()]).mean(0))
    return {
        "heads": sum(-item.log_prob(batch.target).mean() for item in (*p.values(), *q.values())) / 2,
        "suff": sum(kl_divergence(p[view], q[view]).mean() for view in views) / len(views),
        "cons": cons / len(views),
        "agree": mixture.entropy().mean() - sum(item.entropy().mean() for item in q.values()) / len(views),
    }


@pytest.mark.parametrize("views", [MODALITIES, ("text", "vision")])
def test_terms_are_those_of_the_equations(views):
    weights = {"heads_weight": 0.7, "suff_weight": 0.5, "cons_weight": 0.4, "agree_weight": 0.2}
    method, batch = with_large_heads(build(modalities=views, **weights)), sample(modalities=views)
    output, terms = run(method, batch)
    expected = naive(output.named, views, batch)
    assert set(terms) == {"task", *expected}
    torch.testing.assert_close(terms["task"], Task.of(method.spec).loss(output.prediction, batch))
    for name, value in expected.items():
        assert value > 1e-3
        torch.testing.assert_close(terms[name], weights[f"{name}_weight"] * value, rtol=1e-4, atol=1e-6)


def test_two_views_teach_each_other():
    """Then consistency is the cross-distillation and agreement the Jensen-Shannon divergence of the predecessor."""
    views = ("text", "vision")
    output, batch = logits(views)
    terms = build(modalities=views, cons_weight=2.0, agree_weight=1.0).objective(output, batch)
    p, q = ({view: Categorical(logits=output.named[f"{part}_{view}"]) for view in views} for part in "pq")
    both = kl_divergence(p["vision"], q["text"]).mean() + kl_divergence(p["text"], q["vision"]).mean()
    torch.testing.assert_close(terms["cons"], both)
    middle = Categorical((q["text"].probs + q["vision"].probs) / 2)
    torch.testing.assert_close(terms["agree"], sum(kl_divergence(item, middle).mean() for item in q.values()) / 2)


def test_agreement_is_between_zero_and_the_logarithm_of_the_views():
    method = build(agree_weight=1.0)
    output, batch = logits()
    same = replace(output, q=dict.fromkeys(MODALITIES, output.q["text"]))
    assert method.objective(same, batch)["agree"].item() == pytest.approx(0, abs=1e-6)
    certain = {view: 1e3 * torch.eye(3)[number].expand(9, -1) for number, view in enumerate(MODALITIES)}
    value = method.objective(replace(output, q=certain), batch)["agree"].item()
    assert value == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("order", list(permutations(MODALITIES)))
def test_the_order_of_views_does_not_matter(order):
    first, batch = with_large_heads(build()), sample()
    second = build(modalities=order)
    state = first.state_dict()
    blocks = dict(zip(MODALITIES, state["network.fusion.0.weight"].split(64, 1), strict=True))
    second.load_state_dict(state | {"network.fusion.0.weight": torch.cat([blocks[name] for name in order], 1)})
    (_, expected), (_, terms) = run(first, batch), run(second, batch)
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


def test_without_distillation_it_is_the_baseline_of_many_heads():
    method, batch = build(suff_weight=0.0, cons_weight=0.0, agree_weight=0.0), sample()
    output, terms = run(method, batch)
    assert set(terms) == {"task", "heads"}
    baseline = Task.of(method.spec).loss(output.prediction, batch) + naive(output.named, MODALITIES, batch)["heads"]
    torch.testing.assert_close(sum(terms.values()), baseline)
    torch.testing.assert_close(run(build(), batch)[0].prediction, output.prediction)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_a_switch_that_moves_nothing_else(term):
    batch = sample()
    _, full = run(build(), batch)
    _, less = run(build(**{f"{term}_weight": 0.0}), batch)
    assert set(full) - set(less) == {term}
    for name, value in less.items():
        assert torch.equal(value, full[name]), name


@pytest.mark.parametrize("weights", ["size", "full", "confidence"])
def test_teachers_learn_nothing_and_observations_through_representations(weights):
    method = with_large_heads(build(subset_weights=weights))
    output, terms = run(method, sample(32))
    vectors = [output.named[f"{part}_{view}"] for part in "pvz" for view in MODALITIES]
    for name in ("suff", "cons"):
        gradients = torch.autograd.grad(terms[name], vectors, retain_graph=True, allow_unused=True)
        assert gradients[:3] == (None, None, None)  # the logits of the observations
        assert all(gradient is not None and gradient.any() for gradient in gradients[3:])
    (terms["suff"] + terms["cons"]).backward()
    for branch in method.network.branches.values():
        assert branch.observation_head[0].weight.grad is None
        assert branch.bottleneck[0].weight.grad.any()
    # All of the gradient into an observation is what its representation passes on.
    output, terms = run(method, sample(32))
    v, z = output.named["v_text"], output.named["z_text"]
    into_z = torch.autograd.grad(terms["cons"], z, retain_graph=True)[0]
    through = torch.autograd.grad(z, v, into_z, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(terms["cons"], v)[0], through)


def test_divergences_have_a_direction():
    output, batch = logits()
    back = build(kl_direction="student_teacher", suff_weight=1.0).objective(output, batch)
    p, q = ({view: Categorical(logits=output.named[f"{part}_{view}"]) for view in MODALITIES} for part in "pq")
    torch.testing.assert_close(back["suff"], sum(kl_divergence(q[view], p[view]).mean() for view in p) / 3)
    assert not torch.allclose(back["suff"], build(suff_weight=1.0).objective(output, batch)["suff"])


def test_a_real_label_may_be_gaussian():
    method, batch = build("regression", dist="gaussian", cons_weight=1.0), sample(kind="regression")
    output, terms = run(method, batch)
    p, q = ({view: output.named[f"{part}_{view}"] for view in MODALITIES} for part in "pq")
    expected = 0.0
    for view in MODALITIES:
        first, second = (p[name] for name in MODALITIES if name != view)
        for weight, mean in ((0.25, first), (0.25, second), (0.5, (first + second) / 2)):
            expected += weight * ((mean - q[view]) ** 2).mean() / 2 / 3
    torch.testing.assert_close(terms["cons"], expected)


def test_padding_does_not_change_the_terms():
    method, batch = with_large_heads(build()), sample()
    padded = more_padding(batch.inputs, 5, 100.0)
    (_, expected), (_, terms) = run(method, batch), run(method, replace(batch, inputs=padded))
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


# The first epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = write_toy_store(tmp_path_factory.mktemp("mv2d") / "toy.h5", make_spec("multiclass"), train=24)

    return partial(FusionDataModule, path, batch_size=12)


class Observed(MV2D):
    """MV2D that notes, by epoch, which terms there are and by how much the agreement is weighted."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        super().__init__(make_spec("multiclass"), config=MV2D.Config(**QUIET | settings))
        self.seen = {}

    def objective(self, output, batch):
        terms = super().objective(output, batch)
        if self.training:
            q = [output.named[f"q_{view}"] for view in MODALITIES]
            weight = (terms["agree"] / self.labels.jensen_shannon(q)).item() if "agree" in terms else 0.0
            self.seen.setdefault(self.current_epoch, []).append((set(terms), weight))
        return terms


@pytest.mark.parametrize(("ramp", "expected"), [(3, [0, 0.1, 0.2, 0.3, 0.3]), (0, [0.3]), (1, [0, 0.3])])
def test_distillation_grows_over_the_first_epochs(data, ramp, expected):
    method = Observed(ramp_epochs=ramp)
    fit(method, data, len(expected))
    for epoch, weight in enumerate(expected):
        for terms, seen in method.seen[epoch]:
            assert seen == pytest.approx(weight, abs=1e-4)
            assert terms == {"task", *(TERMS if weight else TERMS[:1])}


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, tmp_path):
    assert_resumes(lambda: Observed(ramp_epochs=3), data, 3, tmp_path)


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"subset_weights": "full", "max_subset": 1},
            "'max_subset' is 1, and subset_weights 'full' needs subsets of 2",
        ),
        ({"dist": "gaussian"}, "'dist' is 'gaussian', and the target is multiclass"),
        ({"width": 7}, "MV2D: setting 'width' is 7; it must be even"),
        ({"subset_weights": "luck"}, "'subset_weights'.*must be one of"),
        (
            {"subset_weights": "full", "subset_power": 2.0},
            "'subset_power' has no effect unless subset_weights is",
        ),
        ({"subset_weights": "confidence", "subset_power": 0.0}, "'subset_power' has no effect"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))
