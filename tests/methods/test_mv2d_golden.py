"""MV2D against numbers of the official code; see ``tests/golden/mv2d/README.md``.

View 1 of the cases (i) is our ``audio``, view 2 (v) our ``vision``. The cases begin at the vectors of the views, where
``MV2DNetwork.read`` begins. What ``case_logits`` has beyond MV2D's own terms belongs to the copy of VSD in the official
code and is compared in ``test_vsd_golden.py``.
"""

import pytest
import torch

from data_modules.schema import TargetSpec
from mmbench.methods.mv2d import MV2D
from mmbench.methods.vsd.labels import CategoricalLabels
from mmbench.methods.vsd.network import BranchesOutput
from mmbench.nn.branches import Branch
from tests.golden.cases import Case, fill, gradient_norms, renamed
from tests.methods.outputs import from_names
from tests.methods.vsd.test_golden import (
    NAMES,
    PARTS,
    check_gradients,
    close,
    golden_batch,
    spec_of,
    table_of,
    tolerance,
)

VIEWS = ("audio", "vision")
POINT_NAMES = renamed(
    (r"^classifier_vox\.", "observation_head."),
    (r"^vib_vox\.bottleneck\.model\.", "bottleneck."),
    (r"^vib_vox\.classifier\.", "representation_head.0."),
)
PLAIN = {"suff_weight": 1.0, "cons_weight": 1.0, "agree_weight": 1.0, "ramp_epochs": 0}
STUDENT, LEGACY = PLAIN | {"kl_direction": "student_teacher"}, PLAIN | {"legacy_kl": True}
# Term, settings, the official name of what the term must be
NETWORK_TERMS = [
    ("heads", PLAIN, "heads"),
    ("suff", PLAIN, "suff"),
    ("cons", PLAIN, "cons"),
    ("agree", PLAIN, "agree"),
    ("suff", STUDENT, "suff_student_teacher"),
    ("cons", STUDENT, "cons_student_teacher"),
    ("suff", LEGACY, "suff_legacy"),
    ("cons", LEGACY, "cons_legacy"),
]
VIEW_TERMS = [
    ("suff", PLAIN, "suff"),
    ("cons", PLAIN, "cons"),
    ("cons", PLAIN | {"subset_power": 0.0}, "cons_a0"),
    ("cons", PLAIN | {"subset_weights": "full"}, "cons_only_full"),
    ("agree", PLAIN, "agree"),
]


def terms_of(method, output, case):
    """Return the terms of the loss without the task's, which no case has."""
    labels = case["inputs.labels"] if "inputs.labels" in case else torch.zeros(len(output.prediction)).long()
    terms = method.objective(output, golden_batch(labels, tuple(method.subsets)))
    del terms["task"]
    return terms


# The point-cloud code


@pytest.fixture(scope="module")
def points():
    return Case.load("mv2d", "case")


def point_branch(case):
    config = case.info["config"]
    branch = Branch(config["d"], (config["hidden"], 1), config["z"], config["C"], form="points").double()
    fill(branch, table_of(case), POINT_NAMES)
    return branch


def point_terms(case, branch):
    """Return the terms of the official criterion and its inputs; all points pass the norms, some enter the terms."""
    labels = CategoricalLabels(TargetSpec("multiclass", tuple("0123456")))
    target = case["inputs.labels"]
    kept = target != case.info["config"]["ignore_label"]
    vector, pix = case["inputs.v"].requires_grad_(), case["inputs.x_pix"].requires_grad_()
    reading = branch(vector)
    logits = {name: item[kept] for name, item in (("vox", reading.p), ("pix", pix), ("vib", reading.q))}
    terms = {f"ce_{name}": labels.cross_entropy(item, target[kept]) for name, item in logits.items()}
    for name, student in (("vsd", "vib"), ("vcd", "pix")):
        pair = logits["vox"], logits[student]
        terms[name] = labels.divergence(*pair, "student_teacher")
        terms[f"{name}_teacher_student"] = labels.divergence(*pair)
    terms["total"] = (terms["ce_vox"] + terms["ce_pix"] + terms["ce_vib"] + terms["vsd"]) / 4
    return terms, {"v": vector, "x_pix": pix}


def test_golden_points_outputs(points):
    branch = point_branch(points)
    assert sum(item.numel() for item in branch.parameters()) == points.info["parameter_count"]
    reading = branch.eval()(points["inputs.v"])
    close(reading.z, points["outputs.eval_z"], tolerance(points))
    close(reading.q, points["outputs.eval_vib_logits"], tolerance(points))
    reading = branch.train()(points["inputs.v"])
    for part, name in (("p", "vox_logits"), ("z", "z"), ("q", "vib_logits")):
        close(getattr(reading, part), points[f"outputs.{name}"], tolerance(points))
    buffers = dict(branch.named_buffers())
    stored = [key for key in points.arrays if key.startswith("state.") and "num_batches" not in key]
    assert len(stored) == 4
    for key in stored:
        close(buffers[POINT_NAMES(key.removeprefix("state."))], points[key], tolerance(points))


def test_golden_points_terms(points):
    terms, _ = point_terms(points, point_branch(points))
    assert {key for key in points.arrays if key.startswith("losses.")} == {f"losses.{name}" for name in terms}
    for name, term in terms.items():
        close(term, points[f"losses.{name}"], tolerance(points))


@pytest.mark.parametrize("name", ["total", "vsd", "vcd", "vsd_teacher_student"])
def test_golden_points_gradients(points, name):
    branch = point_branch(points)
    terms, inputs = point_terms(points, branch)
    terms[name].backward()
    key = "gradnorm" if name == "total" else f"gradnorm_{name}"
    if key in points:
        norms = gradient_norms(branch, table_of(points), POINT_NAMES)
        close(norms, points[key], tolerance(points, "gradnorm"))
    for leaf, value in inputs.items():
        if f"gradinput.{name}.{leaf}" in points:
            close(value.grad, points[f"gradinput.{name}.{leaf}"], tolerance(points))


# Two views


@pytest.fixture(scope="module")
def case():
    return Case.load("mv2d", "case_fixed")


def build(case, **settings):
    """Return a method of two views whose branches have the prescribed weights."""
    widths = dict(
        zip(("width", "bottleneck_1", "bottleneck_2", "z_dim"), case.info["config"]["bottleneck"], strict=True)
    )
    config = MV2D.Config(**widths, head_dropout=0.0, **{"ramp_epochs": 0} | settings)
    method = MV2D(spec_of(case.info["config"]["C"]), config=config).double()
    fill(method.network.branches, table_of(case), NAMES)
    for branch in method.network.branches.values():
        torch.nn.init.zeros_(branch.neck.bias)  # frozen, and not filled in the case
    return method.train()


def forward(method, case):
    vectors = {view: case[f"inputs.x_{number}"].requires_grad_() for number, view in enumerate(VIEWS, start=1)}
    return method.network.read(vectors), vectors


def test_golden_outputs(case):
    method = build(case)
    assert sum(item.numel() for item in method.network.branches.parameters()) == case.info["parameter_count"]
    named = forward(method, case)[0].named
    for number, view in enumerate(VIEWS, start=1):
        for official, part in (("v", "v"), ("obs_logits", "p"), ("z", "z"), ("rep_logits", "q")):
            close(named[f"{part}_{view}"], case[f"outputs.{official}_{number}"], tolerance(case))
    buffers = dict(method.network.branches.named_buffers())
    stored = [key for key in case.arrays if key.startswith("state.") and "num_batches" not in key]
    assert len(stored) == 16
    for key in stored:
        close(buffers[NAMES(key.removeprefix("state."))], case[key], tolerance(case))


@pytest.mark.parametrize(("term", "settings", "official"), NETWORK_TERMS)
def test_golden_terms(case, term, settings, official):
    """Each term alone: its value and the gradient norm of every parameter."""
    method = build(case, **settings)
    loss = terms_of(method, forward(method, case)[0], case)[term]
    close(loss, case[f"losses.{official}"], tolerance(case))
    if f"gradnorm_{official}" in case:
        loss.backward()
        norms = gradient_norms(method.network.branches, table_of(case), NAMES)
        close(norms, case[f"gradnorm_{official}"], tolerance(case, "gradnorm"))


def test_golden_total(case):
    method = build(case)
    output, vectors = forward(method, case)
    total = sum(terms_of(method, output, case).values())
    total.backward()
    close(total, case["losses.total"], tolerance(case))
    norms = gradient_norms(method.network.branches, table_of(case), NAMES)
    close(norms, case["gradnorm"], tolerance(case, "gradnorm"))
    for number, view in enumerate(VIEWS, start=1):
        close(vectors[view].grad, case[f"gradinput.x_{number}"], tolerance(case))
    ours = dict(method.network.branches.named_parameters())
    none = {name for name, _, _ in table_of(case) if ours[NAMES(name)].grad is None}
    assert none == set(case.info["grad_none"])


@pytest.mark.parametrize(
    ("term", "factor", "prefix", "settings", "official"),
    [
        ("suff", 2, "", LEGACY, "vsd"),
        ("suff", 2, "", PLAIN, "vsd_teacher_student"),
        ("suff", 2, "", STUDENT, "vsd_student_teacher"),
        ("cons", 1, "sh_", LEGACY, "vcd"),
        ("cons", 1, "sh_", PLAIN, "vcd_teacher_student"),
        ("cons", 1, "sh_", STUDENT, "vcd_student_teacher"),
        ("agree", 1, "sh_", PLAIN, "vml"),
    ],
)
def test_golden_two_views_are_those_of_the_predecessor(term, factor, prefix, settings, official):
    case = Case.load("mv2d", "case_logits")
    method = MV2D(spec_of(case.info["config"]["C"]), config=MV2D.Config(heads_weight=0.0, **settings))
    leaves, named = {}, {}
    for short, view in zip(("i", "v"), VIEWS, strict=True):
        for name, part in PARTS.items():
            key = f"{prefix}{short}_{name}"
            leaves[key] = named[f"{part}_{view}"] = case[f"inputs.{key}"].requires_grad_()
    prediction = torch.zeros(len(case["inputs.labels"]), method.task.outputs, dtype=torch.float64)
    output = from_names(BranchesOutput, prediction, named)
    loss = factor * terms_of(method, output, case)[term]
    loss.backward()
    close(loss, case[f"losses.{official}"], tolerance(case))
    check_gradients(case, official, leaves)


# Three views


def three_views(**settings):
    """Return a method of three views and an output of stored logits."""
    case = Case.load("mv2d", "case_three_views")
    views = ("text", "audio", "vision")
    method = MV2D(spec_of(case.info["config"]["K"], views), config=MV2D.Config(heads_weight=0.0, **settings))
    named = {}
    for view in views:
        named |= {f"p_{view}": case[f"inputs.obs_{view}"], f"q_{view}": case[f"inputs.rep_{view}"]}
    return case, method, from_names(BranchesOutput, torch.zeros(case.info["config"]["B"], method.task.outputs), named)


@pytest.mark.parametrize(("term", "settings", "official"), VIEW_TERMS)
def test_golden_three_views(term, settings, official):
    """The figures are scipy's, by the formulas of the adaptation."""
    case, method, output = three_views(**settings)
    close(terms_of(method, output, case)[term], case[f"losses.{official}"], tolerance(case))


def test_golden_subset_teachers():
    case, method, output = three_views(**PLAIN)
    teachers = method.teachers({view: output.named[f"p_{view}"] for view in method.subsets})
    pairs = {subset: logits for subset, logits in teachers.items() if len(subset) == 2}
    assert len(pairs) == 3
    for subset, logits in pairs.items():
        close(logits.softmax(-1), case[f"outputs.teacher_{'_'.join(subset)}"], tolerance(case))


def test_every_stored_loss_is_compared(case):
    fixed = {official for _, _, official in NETWORK_TERMS} | {"total"}
    three = {official for _, _, official in VIEW_TERMS}
    for item, expected in ((case, fixed), (Case.load("mv2d", "case_three_views"), three)):
        assert {key for key in item.arrays if key.startswith("losses.")} == {f"losses.{name}" for name in expected}
