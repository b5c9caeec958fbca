"""VSD and MV2D: the terms of the loss, what they reach, and what is left without one."""

from itertools import combinations, permutations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from data_modules.schema import MODALITIES, TargetSpec
from mmbench.methods.vsd.labels import CategoricalLabels
from mmbench.nn.branches import Branch
from mmbench.tasks import Task
from mmbench.testing.builders import make_spec
from tests.methods.vsd.parts import ALL, TERMS, build, reached, run, sample, under
from tests.methods.vsd.test_distillation import naive_ranked_list_loss

# The terms


def naive(named, views, batch, direction="teacher_student"):
    """Return the terms for classes by the equations, from torch's distributions."""
    p, q, p_sh, q_sh = (
        {view: Categorical(logits=named[f"{part}_{prefix}{view}"]) for view in views}
        for prefix in ("", "shared_")
        for part in "pq"
    )

    def kl(teacher, student):
        pair = (teacher, student) if direction == "teacher_student" else (student, teacher)
        return kl_divergence(*pair).mean()

    def jsd(first, second):
        middle = Categorical(probs=(first.probs + second.probs) / 2)
        return (kl_divergence(first, middle).mean() + kl_divergence(second, middle).mean()) / 2

    ordered, unordered = list(permutations(views, 2)), list(combinations(views, 2))
    return {
        "heads": sum(-item.log_prob(batch.target).mean() / 2 for item in (*p.values(), *q.values()))
        + sum(-item.log_prob(batch.target).mean() / 4 for item in (*p_sh.values(), *q_sh.values())),
        "vsd": sum(kl(p[view], q[view]) for view in views),
        "vcd": sum(kl(p_sh[j], q_sh[i]) for i, j in ordered) / len(ordered),
        "vml": sum(jsd(q_sh[i], q_sh[j]) for i, j in unordered) / len(unordered),
    }, (len(ordered), len(unordered))


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize(("views", "pairs"), [(MODALITIES, (6, 3)), (("text", "vision"), (2, 1))])
def test_terms_are_those_of_the_equations(views, pairs, direction):
    weights = {"heads_weight": 0.7, "vsd_weight": 0.5, "vcd_weight": 0.4, "vml_weight": 0.2}
    method, batch = build(modalities=views, kl_direction=direction, **weights), sample(modalities=views)
    for head in method.modules():
        if isinstance(head, Branch):  # heads begin so small that all distributions are alike
            torch.nn.init.normal_(head.observation_head[0].weight)
            torch.nn.init.normal_(head.representation_head[-1].weight)
    output, terms = run(method, batch)
    expected, counted = naive(output.named, views, batch, direction)
    assert counted == pairs
    assert set(terms) == {"task", *expected}
    torch.testing.assert_close(terms["task"], Task.of(make_spec("multiclass", views)).loss(output.prediction, batch))
    for name, value in expected.items():
        assert value > 1e-3
        torch.testing.assert_close(terms[name], weights[f"{name}_weight"] * value, rtol=1e-4, atol=1e-6)


def test_without_distillation_it_is_the_baseline_of_many_heads():
    none = {"vsd_weight": 0.0, "vcd_weight": 0.0, "vml_weight": 0.0}
    method, batch = build(**none), sample()
    output, terms = run(method, batch)
    assert set(terms) == {"task", "heads"}
    expected, _ = naive(output.named, MODALITIES, batch)
    baseline = Task.of(method.spec).loss(output.prediction, batch) + expected["heads"]
    torch.testing.assert_close(sum(terms.values()), baseline)
    full, batch = build(), sample()
    torch.testing.assert_close(run(full, batch)[0].prediction, output.prediction)  # the same seed, the same network


@pytest.mark.parametrize("term", [*TERMS, "rank", "cml"])
def test_each_term_is_a_switch_that_moves_nothing_else(term):
    batch = sample()
    _, full = run(build(**ALL), batch)
    _, less = run(build(**ALL | {f"{term}_weight": 0.0}), batch)
    assert set(full) - set(less) == {term}
    for name, value in less.items():
        assert torch.equal(value, full[name]), name
    _, double = run(build(**ALL | {f"{term}_weight": 2.0}), batch)
    torch.testing.assert_close(double[term], 2 * full[term])


def test_terms_reach_what_they_should_and_no_teacher():
    """The heads of observations learn from labels alone; own and shared branches from their own terms."""
    method = build(**ALL)
    for head in method.modules():
        if isinstance(head, Branch):
            torch.nn.init.normal_(head.observation_head[0].weight)
    _, terms = run(method, sample(32))
    own, shared = ("encoders", "branches.text", "branches.audio", "branches.vision"), ("adapters", "shared_encoder")
    shared = (*shared, "branches.shared")
    for term, inside, outside in (("vsd", own, shared), ("vcd", shared, own), ("vml", shared, own)):
        names = reached(method, terms[term])
        assert not under(names, *outside, "fusion")
        for prefix in inside:
            assert under(names, prefix), (term, prefix)
        assert not [name for name in names if "observation_head" in name], term
        assert [name for name in names if "bottleneck" in name]
        assert [name for name in names if "representation_head" in name]
    assert len([name for name in reached(method, terms["heads"]) if "observation_head.0.weight" in name]) == 4
    assert not [name for name in reached(method, terms["rank"]) if "_head" in name]
    assert not under(reached(method, terms["cml"]), *shared, "fusion")


def test_cross_distillation_detaches_its_teachers():
    """With one student only its own view's encoder and the shared weights learn, never the teacher's adapter."""
    method = build(vcd_pairs="text_teacher", vcd_weight=1.0)
    for branch in method.network.branches.values():
        torch.nn.init.normal_(branch.observation_head[0].weight)
    _, terms = run(method, sample(32))
    names = reached(method, terms["vcd"])
    assert under(names, "adapters.audio")
    assert under(names, "adapters.vision")
    assert not under(names, "adapters.text")


def test_temperature_is_of_the_self_distillation_alone():
    batch, settings = sample(), {"vcd_weight": 1.0, "vsd_weight": 1.0}
    cold, warm = (build(**settings, temperature=value) for value in (1.0, 2.0))
    for method in (cold, warm):
        torch.manual_seed(1)
        for branch in method.network.branches.values():
            torch.nn.init.normal_(branch.observation_head[0].weight)
    (_, first), (_, second) = run(cold, batch), run(warm, batch)
    assert not torch.allclose(first["vsd"], second["vsd"])
    assert torch.equal(first["vcd"], second["vcd"])


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_ranked_list_loss_takes_a_view_for_a_modality(kind):
    method, batch = build(kind, rank_weight=1.0), sample(6, kind)
    output, terms = run(method, batch)
    group = batch.target.tolist() if kind == "multiclass" else [int(value > 0) for value in batch.target]
    expected = 0.0
    for weight, prefix in ((0.5 * 3, ""), (0.25 * 3, "shared_")):
        for part in "vz":
            rows = torch.cat([output.named[f"{part}_{prefix}{view}"] for view in MODALITIES]).detach().double()
            modality = torch.tensor([view for view in range(3) for _ in range(6)])
            groups = torch.tensor(group * 3)
            expected += weight * naive_ranked_list_loss(rows, groups, modality, (2.2, 2.0), (0.9, 1.0))
    assert terms["rank"].item() == pytest.approx(expected, rel=1e-4)


def test_label_smoothing_is_for_the_heads_alone():
    batch = sample()
    (_, hard), (_, soft) = (run(build(label_smoothing=value), batch) for value in (0.0, 0.5))
    differ = {name for name in hard if not torch.allclose(hard[name], soft[name], rtol=1e-7, atol=0)}
    assert differ == {"heads"}


def test_a_real_label_may_be_gaussian():
    method, batch = build("regression", dist="gaussian", vsd_weight=1.0), sample(kind="regression")
    output, terms = run(method, batch)
    named = output.named
    assert named["p_text"].shape == (12, 1)
    expected = sum(((named[f"p_{view}"] - named[f"q_{view}"]) ** 2).mean() / 2 for view in MODALITIES)
    torch.testing.assert_close(terms["vsd"], expected)
    heads = sum(
        weight * ((named[f"{part}_{prefix}{view}"][:, 0] - batch.target) ** 2).mean() / 2
        for weight, prefix in ((0.5, ""), (0.25, "shared_"))
        for view in MODALITIES
        for part in "pq"
    )
    torch.testing.assert_close(terms["heads"], heads)


@pytest.mark.parametrize("released", [False, True])
def test_a_bottleneck_can_say_what_its_view_says(released):
    """Self-distillation alone, from a fixed teacher; the released formula has its least value elsewhere."""
    torch.manual_seed(0)
    labels = CategoricalLabels(TargetSpec("multiclass", tuple("abcd")))
    branch, vector, teacher = Branch(16, (16, 8), 8, 4, dropout=0.0), torch.randn(24, 16), 3 * torch.randn(24, 4)
    optimizer = torch.optim.Adam([item for item in branch.parameters() if item.requires_grad], lr=1e-2)
    for _ in range(300):
        loss = labels.divergence(teacher, branch(vector).q, "released" if released else "teacher_student")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reached_value = labels.divergence(teacher, branch(vector).q).item()
    assert (reached_value < 1e-2) is not released
    assert (reached_value > 0.1) is released
