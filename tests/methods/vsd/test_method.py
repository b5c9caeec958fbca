from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from data_modules.schema import MODALITIES, PaddedSequence, TargetSpec
from mmbench.methods.config import ConfigError
from mmbench.methods.mv2d import MV2D
from mmbench.methods.vsd import VSD
from mmbench.methods.vsd.labels import CategoricalLabels
from mmbench.methods.vsd.network import VSDOutput
from mmbench.nn import branches
from mmbench.nn.branches import Branch
from mmbench.runner.settings import shipped_settings
from mmbench.tasks import Task
from mmbench.testing.builders import DIMS, changed, make_batch, make_spec
from tests.methods.forms import assert_forms_agree
from tests.methods.outputs import from_names
from tests.methods.vsd.test_distillation import naive_ranked_list_loss

QUIET = {"head_dropout": 0.0, "fusion_dropout": 0.0}
TERMS = ("heads", "vsd", "vcd", "vml")
ALL = {f"{term}_weight": 1.0 for term in (*TERMS, "rank", "cml")}

NARROW = {"width": 10, "bottleneck_1": 12, "bottleneck_2": 6, "z_dim": 4, "fusion_dim": 5, "bins": 3}


def build(kind="multiclass", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return VSD(make_spec(kind, modalities), config=VSD.Config(**QUIET | settings))


def sample(size=12, kind="multiclass", modalities=MODALITIES, seed=0):
    return make_batch(make_spec(kind, modalities), size, seed)


def run(method, batch):
    """Return output and terms of a training step."""
    output = method.train()(batch)
    return output, method.objective(output, batch)


def reached(method, *terms):
    """Return the parameters with a gradient of any size from the sum of terms."""
    method.zero_grad()
    torch.stack(terms).sum().backward(retain_graph=True)
    # Biases before a norm have gradients of rounding errors.
    return {name for name, item in method.named_parameters() if item.grad is not None and item.grad.abs().max() > 1e-12}


def under(names, *prefixes):
    return {name for name in names if name.startswith(tuple(f"network.{prefix}" for prefix in prefixes))}


# The network


@pytest.mark.parametrize(
    ("width", "first", "second", "z", "hidden", "bins", "settings"),
    [(128, 128, 64, 64, 128, 7, {}), (10, 12, 6, 4, 5, 3, NARROW)],
)
def test_size(width, first, second, z, hidden, bins, settings):
    unit = width // 2
    recurrent = 2 * (3 * unit * (width + unit) + 2 * 3 * unit)
    bottleneck = width * first + 3 * first + first * second + 3 * second + second * z + z
    half = z // 2
    branch = 2 * width + (width * bins + bins) + bottleneck + (z * half + 3 * half + half * bins + bins)
    fusion = 6 * z * hidden + hidden + hidden + 1
    linear = sum(2 * width * (dim + 1) for dim in DIMS.values())
    expected = linear + 4 * (recurrent + branch) + fusion
    assert sum(item.numel() for item in build("regression", **settings).parameters()) == expected


def test_fusion_drops_out():
    batch = sample()
    for rate, varies in ((0.0, False), (0.5, True)):
        method = build(fusion_dropout=rate).train()
        assert torch.equal(method(batch).prediction, method(batch).prediction) is not varies


@pytest.mark.parametrize(("kind", "width"), [("regression", 7), ("multiclass", 3), ("multilabel", 6), ("binary", 4)])
def test_heads_speak_of_classes_bins_or_two_answers_per_name(kind, width):
    named = build(kind)(sample(kind=kind)).named
    assert {key for key in named if key[0] in "pq"} == {
        f"{part}_{prefix}{view}" for part in "pq" for prefix in ("", "shared_") for view in MODALITIES
    }
    assert {named[key].shape for key in named if key[0] in "pq"} == {(12, width)}
    assert named["v_text"].shape == named["v_shared_text"].shape == (12, 128)
    assert named["z_text"].shape == named["z_shared_text"].shape == (12, 64)


def test_all_views_share_the_shared_branch():
    method, batch = build().eval(), sample()
    before = method(batch).named
    with torch.no_grad():
        method.network.branches["shared"].neck.weight.mul_(2)
        method.network.shared_encoder.forwards.bias_ih_l0.add_(1)
    after = method(batch).named
    for view in MODALITIES:
        assert not torch.allclose(before[f"v_shared_{view}"], after[f"v_shared_{view}"])
        for part in "vpzq":
            assert torch.equal(before[f"{part}_{view}"], after[f"{part}_{view}"])


def test_the_shared_branch_sees_one_view_at_a_time():
    named = build().train()(sample()).named
    for view in MODALITIES:
        torch.testing.assert_close(named[f"v_shared_{view}"].mean(0), torch.zeros(128), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("fuse_on", "uses_z"), [("z", True), ("v", False)])
def test_fusion_reads_representations_or_observations(fuse_on, uses_z):
    method = build(fuse_on=fuse_on)
    _, terms = run(method, sample())
    names = reached(method, terms["task"])
    assert bool(under(names, "branches.text.bottleneck")) is uses_z
    assert bool(under(names, "branches.shared.bottleneck")) is uses_z
    assert under(names, "branches.text.neck")


@pytest.mark.parametrize("cls", [VSD, MV2D])
@pytest.mark.parametrize("first", [False, True])
def test_both_forms_of_a_batch_agree(cls, first):
    """Where the views take their steps together in the encoder that they share, and where each has its own turn."""
    torch.manual_seed(0)
    method = cls(make_spec("multiclass"), config=cls.Config(text_first=first, **QUIET, **NARROW)).double().train()
    inputs = {name: PaddedSequence(item.values.double(), item.lengths) for name, item in sample().inputs.items()}
    inputs["audio"].lengths[2] = 0
    assert_forms_agree(method.network, lambda: torch.cat(list(method.network(inputs).named.values()), 1))


def test_views_take_their_steps_together_in_the_encoder_that_they_share(monkeypatch):
    read, rows = branches.gru, []
    monkeypatch.setattr(branches, "gru", lambda *args, **more: rows.append(len(args[1])) or read(*args, **more))
    batch = sample()
    build()(batch)
    steps = [int(item.lengths.sum()) for item in batch.inputs.values()]
    assert rows == [count for count in (*steps, sum(steps)) for _ in ("forwards", "backwards")]


def test_text_may_be_its_first_state_alone():
    batch = sample()
    values = batch.inputs["text"].values.clone()
    values[:, 1:] = 0.0
    other = changed(batch, "text", values)
    for first in (True, False):
        method = build(text_first=first).eval()
        assert torch.equal(method(batch).prediction, method(other).prediction) is first
    assert build(text_first=True).network.encoders["text"].reader is None


@pytest.mark.parametrize("cls", [VSD, MV2D])
def test_shipped_settings_read_the_first_state_of_bert(cls):
    """A subset of modalities without text gets them too."""

    def shipped(dataset, feature_set):
        folder = Path(__file__).parents[3] / "benchmarks"
        return cls.Config(**shipped_settings(folder, cls.__name__.lower(), dataset, feature_set, "default"))

    for dataset in ("mosi", "mosei"):
        for alignment in ("aligned", "unaligned"):
            assert shipped(dataset, f"{alignment}_50_tokens").text_first
            assert not shipped(dataset, f"{alignment}_50").text_first
    cls(make_spec(modalities=("audio", "vision")), config=shipped("mosi", "aligned_50_tokens"))


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


# Padding, precision, settings


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_terms_keep_their_precision_under_autocast(kind):
    """What the network says may be coarse, what is made of it is not."""
    method, batch = build(kind, **ALL).train(), sample(kind=kind)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch)
        terms = method.objective(output, batch)
    assert output.named["q_text"].dtype == torch.bfloat16
    same = {name: value.float() for name, value in output.named.items()}
    expected = method.objective(from_names(VSDOutput, output.prediction.float(), same), batch)
    for name in terms.keys() - {"task"}:
        assert terms[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-5, atol=1e-6)


def test_gradients_are_not_clipped_as_in_the_official_code():
    assert VSD.Config().gradient_clip == 0


def test_padding_does_not_change_the_terms():
    method, batch = build(**ALL), sample()
    padded = {}
    for name, item in batch.inputs.items():
        values = torch.nn.functional.pad(item.values, (0, 0, 0, 5))
        values[~PaddedSequence(values, item.lengths).mask] = 100.0
        padded[name] = PaddedSequence(values, item.lengths)
    (_, expected), (_, terms) = run(method, batch), run(method, replace(batch, inputs=padded))
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 33}, "'width' is 33; it must be even"),
        (
            {"legacy_kl": True, "kl_direction": "student_teacher"},
            "'kl_direction' has no effect unless legacy_kl is",
        ),
        ({"dist": "gaussian", "legacy_kl": True}, "'legacy_kl' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "label_smoothing": 0.1}, "'label_smoothing' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "kl_direction": "student_teacher"}, "'kl_direction' has no effect unless dist is 'bins'"),
        ({"dist": "gaussian", "bins": 5}, "'bins' has no effect unless dist is 'bins'"),
        ({"kl_direction": "both"}, "'kl_direction'.*must be one of"),
        ({"head_dropout": 1.5}, "'head_dropout'.*must be at most 1"),
    ],
)
def test_settings_that_cannot_be_had_together_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VSD.Config(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vcd_pairs": "text_teacher"}, "'vcd_pairs' is 'text_teacher', and .* has no text"),
        ({"dist": "gaussian"}, "'dist' is 'gaussian', and the target is multiclass"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(modalities=("audio", "vision"), **settings)


def test_bins_need_a_scale():
    spec = replace(make_spec(), target=TargetSpec("regression", ("arousal",)))
    with pytest.raises(ConfigError, match="'bins', and the target has no ends"):
        VSD(spec)
    assert VSD(spec, config=VSD.Config(dist="gaussian")).labels.width == 1


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))
