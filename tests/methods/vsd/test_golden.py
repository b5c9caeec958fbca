"""VSD against numbers of the official code; see ``tests/golden/vsd/README.md``.

View i of the cases is our ``audio``, view v our ``vision``. The cases begin at the pooled vectors of the views, where
``VSDNetwork.read`` begins.
"""

import pytest
import torch

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.vsd import VSD
from mmbench.methods.vsd.losses import ranked_list_loss, sinkhorn_distance
from mmbench.methods.vsd.network import VSDOutput
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, renamed
from tests.methods.outputs import from_names

VIEWS = {"i": "audio", "v": "vision", "sh_i": "shared_audio", "sh_v": "shared_vision"}
PARTS = {"obs_v": "v", "obs_logits": "p", "rep_z": "z", "rep_logits": "q"}
BRANCH_WEIGHTS = {"audio": 0.5, "vision": 0.5, "shared_audio": 0.25, "shared_vision": 0.25}
NAMES = renamed(
    (r"^IR_", "audio."),
    (r"^RGB_", "vision."),
    (r"^shared_", "shared."),
    (r"\.backbone\.bottleneck\.", ".neck."),
    (r"\.backbone\.classifier\.0\.", ".observation_head."),
    (r"\.observation_head\.", ".observation_head.0."),
    (r"\.Bottleneck\.bottleneck\.model\.", ".bottleneck."),
    (r"\.Bottleneck\.classifier\.", ".representation_head."),
)
RELEASED = {
    "legacy_kl": True,
    "label_smoothing": 0.1,
    "vsd_weight": 2.0,
    "vcd_weight": 2.0,
    "vml_weight": 0.0,
    "rank_weight": 1.0,
    "cml_weight": 8.0,
}
"""Settings of the official command line."""
FIXED = {"vsd_weight": 1.0, "vcd_weight": 1.0, "vml_weight": 1.0}
STUDENT = FIXED | {"kl_direction": "student_teacher"}
SMOOTH = {"label_smoothing": 0.1}
# (case,) term, settings, the official name of what the term must be
NETWORK_TERMS = [
    ("case", "heads", {"label_smoothing": 0.1}, "ce"),
    ("case", "heads", {}, "ce_no_smoothing"),
    ("case", "vsd", {"legacy_kl": True}, "vsd"),
    ("case", "vcd", {"legacy_kl": True}, "vcd"),
    ("case", "vsd", {"legacy_kl": True, "temperature": 2.0}, "vsd_T2"),
    ("case", "vcd", {"legacy_kl": True, "temperature": 2.0}, "vcd_T2"),
    ("case", "rank", {}, "rank"),
    ("case", "cml", {}, "cml"),
    ("case_fixed", "heads", {}, "ce"),
    ("case_fixed", "heads", {"label_smoothing": 0.1}, "ce_smoothing_0.1"),
    ("case_fixed", "vsd", {}, "vsd"),
    ("case_fixed", "vcd", {}, "vcd"),
    ("case_fixed", "vml", {}, "vml"),
    ("case_fixed", "vsd", {"kl_direction": "student_teacher"}, "vsd_student_teacher"),
    ("case_fixed", "vcd", {"kl_direction": "student_teacher"}, "vcd_student_teacher"),
    ("case_fixed", "vsd", {"legacy_kl": True}, "vsd_legacy"),
    ("case_fixed", "vcd", {"legacy_kl": True}, "vcd_legacy"),
]
LOGIT_TERMS = [
    ("heads", SMOOTH, "ce"),
    ("heads", {}, "ce_no_smoothing"),
    ("rank", {"rank_weight": 1.0}, "rank"),
    ("cml", {"cml_weight": 1.0}, "cml"),
    ("vsd", FIXED | {"legacy_kl": True}, "vsd"),
    ("vcd", FIXED | {"legacy_kl": True}, "vcd"),
    ("vsd", FIXED | {"legacy_kl": True, "temperature": 2.0}, "vsd_T2"),
    ("vsd", FIXED, "vsd_teacher_student"),
    ("vcd", FIXED, "vcd_teacher_student"),
    ("vsd", FIXED | {"temperature": 2.0}, "vsd_teacher_student_T2"),
    ("vsd", STUDENT, "vsd_student_teacher"),
    ("vcd", STUDENT, "vcd_student_teacher"),
    ("vsd", STUDENT | {"temperature": 2.0}, "vsd_student_teacher_T2"),
    ("vml", FIXED, "vml"),
    ("total", RELEASED, "total"),
]
EQUAL_TERMS = [({"legacy_kl": True}, "vsd_legacy_at_equal_logits"), ({}, "vsd_teacher_student_at_equal_logits")]
VIEW_TERMS = [
    ("vsd", FIXED, "vsd"),
    ("vsd", STUDENT, "vsd_student_teacher"),
    ("vcd", FIXED, "vcd"),
    ("vcd", STUDENT, "vcd_student_teacher"),
    ("vcd", FIXED | {"vcd_pairs": "text_teacher"}, "vcd_text_teacher"),
    ("vml", FIXED, "vml"),
]


class Official(VSD):
    """VSD whose ranked-list loss keeps views apart and knows the modality of a sample, as the official code does."""

    modality: torch.Tensor

    def rank(self, output, batch):
        groups = self.task.groups(batch)
        return sum(
            weight * ranked_list_loss(output.named[f"{part}_{view}"], groups, self.modality)
            for view, weight in BRANCH_WEIGHTS.items()
            for part in "vz"
        )


def spec_of(classes, views=("audio", "vision")):
    target = TargetSpec("multiclass", tuple(f"person {number}" for number in range(classes)))
    return DataSpec("golden", "random", "standard", {view: ModalitySpec(view, 3, 1) for view in views}, target)


def golden_batch(labels, views=("audio", "vision")):
    count = len(labels)
    inputs = {view: PaddedSequence(torch.zeros(count, 1, 3), torch.ones(count, dtype=torch.long)) for view in views}
    return Batch(inputs, labels, torch.arange(count))


def table_of(case):
    """Return the parameter table; the rows of frozen biases have a remark in a fourth column."""
    return [(row[0], tuple(row[1]), bool(row[2])) for row in case.info["parameters"]]


def build(case, **settings):
    """Return a method whose branches have the prescribed weights."""
    widths = case.info["config"]["bottleneck"]
    config = VSD.Config(
        width=widths[0],
        bottleneck_1=widths[1],
        bottleneck_2=widths[2],
        z_dim=widths[3],
        head_dropout=0.0,
        **{"lr": case.info["optimiser"]["lr"], "weight_decay": case.info["optimiser"]["weight_decay"]} | settings,
    )
    method = Official(spec_of(case.info["config"]["C"]), config=config).double()
    method.modality = case["inputs.modality"]
    fill(method.network.branches, table_of(case), NAMES)
    for branch in method.network.branches.values():
        torch.nn.init.zeros_(branch.neck.bias)  # frozen, and not filled in the cases
    return method.train()


def forward(method, case, grad=False):
    pooled = {"audio": case["inputs.x_i"].requires_grad_(grad), "vision": case["inputs.x_v"].requires_grad_(grad)}
    return method.network.read(pooled, pooled), pooled


def terms_of(method, output, case):
    """Return the terms of the loss without the task's, which no case has."""
    terms = method.objective(output, golden_batch(case["inputs.labels"]))
    del terms["task"]
    return terms


def tolerance(case, kind="outputs_losses_gradinput"):
    return case.info["tolerances"]["float64_model_vs_case"][kind]


def close(actual, expected, tolerance):
    actual = actual.detach() if isinstance(actual, torch.Tensor) else torch.tensor(actual, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, **tolerance)


@pytest.fixture(scope="module", params=["case", "case_fixed"])
def network_case(request):
    return Case.load("vsd", request.param)


def settings_of(case):
    """Return the settings whose total a case has."""
    return RELEASED if "losses.rank" in case else {}


def test_golden_sizes(network_case):
    method = build(network_case)
    parameters = list(method.network.branches.parameters())
    assert sum(item.numel() for item in parameters) == network_case.info["parameter_count"]
    trainable = sum(item.numel() for item in parameters if item.requires_grad)
    assert trainable == network_case.info["parameter_count_trainable"]


def test_golden_outputs(network_case):
    method, close_to = build(network_case), tolerance(network_case)
    method.eval()
    named = forward(method, network_case)[0].named
    for official, view in (("i", "audio"), ("v", "vision")):
        for name, part in (("v", "v"), ("z", "z"), ("rep_logits", "q")):
            close(named[f"{part}_{view}"], network_case[f"outputs.eval_{official}_{name}"], close_to)
    method.train()
    named = forward(method, network_case)[0].named
    for official, view in VIEWS.items():
        for name, part in PARTS.items():
            close(named[f"{part}_{view}"], network_case[f"outputs.{official}_{name}"], close_to)
    # Statistics after one pass; the number of batches that a case has counted is of several.
    buffers = dict(method.network.branches.named_buffers())
    stored = [key for key in network_case.arrays if key.startswith("state.") and "num_batches" not in key]
    assert len(stored) == 24
    for key in stored:
        close(buffers[NAMES(key.removeprefix("state."))], network_case[key], close_to)


@pytest.mark.parametrize(("name", "term", "settings", "official"), NETWORK_TERMS)
def test_golden_terms(name, term, settings, official):
    """Each term alone: its value and the gradient norm of every parameter."""
    case = Case.load("vsd", name)
    method = build(case, **settings | {f"{term}_weight": 1.0})
    loss = terms_of(method, forward(method, case)[0], case)[term]
    close(loss, case[f"losses.{official}"], tolerance(case))
    if f"gradnorm_{official}" in case:
        loss.backward()
        norms = gradient_norms(method.network.branches, table_of(case), NAMES)
        close(norms, case[f"gradnorm_{official}"], tolerance(case, "gradnorm"))


def test_golden_total(network_case):
    method = build(network_case, **settings_of(network_case))
    output, pooled = forward(method, network_case, grad=True)
    total = sum(terms_of(method, output, network_case).values())
    total.backward()
    close(total, network_case["losses.total"], tolerance(network_case))
    norms = gradient_norms(method.network.branches, table_of(network_case), NAMES)
    close(norms, network_case["gradnorm"], tolerance(network_case, "gradnorm"))
    for official, view in (("x_i", "audio"), ("x_v", "vision")):
        close(pooled[view].grad, network_case[f"gradinput.{official}"], tolerance(network_case))
    ours = dict(method.network.branches.named_parameters())
    none = {name for name, _, _ in table_of(network_case) if ours[NAMES(name)].grad is None}
    assert none == set(network_case.info["grad_none"])


def test_golden_trajectory(network_case):
    """Three steps of the optimiser that the settings make; the loss before each and after the last."""
    method, close_to = build(network_case, **settings_of(network_case)), tolerance(network_case, "trajectory")
    (optimizer,), _ = method.configure_optimizers()
    totals = []
    for step in range(4):
        total = sum(terms_of(method, forward(method, network_case)[0], network_case).values())
        totals.append(total.item())
        if step < 3:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    close(totals, network_case["trajectory.total"], close_to)
    norms = parameter_norms(method.network.branches, table_of(network_case), NAMES)
    close(norms, network_case["trajectory.param_norm"], close_to)


# Terms on prescribed logits and features


def prescribed(case, method, views, grad=True):
    """Return an output made of stored logits and features, and its leaves by official name."""
    leaves, named = {}, {}
    for official, view in views.items():
        for name, part in PARTS.items():
            key = f"{official}_{name}"
            leaves[key] = named[f"{part}_{view}"] = case[f"inputs.{key}"].requires_grad_(grad)
    prediction = torch.zeros(len(case["inputs.labels"]), method.task.outputs, dtype=torch.float64)
    return from_names(VSDOutput, prediction, named), leaves


def check_gradients(case, term, leaves):
    """Every leaf has the stored gradient, and none where nothing is stored."""
    for key, leaf in leaves.items():
        stored = f"gradinput.{term}.{key}"
        if stored in case:
            close(leaf.grad, case[stored], tolerance(case))
        else:
            assert leaf.grad is None or not leaf.grad.any(), key


@pytest.mark.parametrize("slug", ["vsd", "mv2d"])  # the second repository has a copy of the first one's code
@pytest.mark.parametrize(("term", "settings", "official"), LOGIT_TERMS)
def test_golden_terms_on_logits(slug, term, settings, official):
    case = Case.load(slug, "case_logits")
    method = Official(spec_of(case.info["config"]["C"]), config=VSD.Config(**settings))
    method.modality = case["inputs.modality"]
    output, leaves = prescribed(case, method, VIEWS)
    terms = terms_of(method, output, case)
    loss = sum(terms.values()) if term == "total" else terms[term]
    close(loss, case[f"losses.{official}"], tolerance(case))
    if any(key.startswith(f"gradinput.{official}.") for key in case.arrays):
        loss.backward()
        check_gradients(case, official, leaves)


@pytest.mark.parametrize("slug", ["vsd", "mv2d"])
@pytest.mark.parametrize(("settings", "official"), EQUAL_TERMS)
def test_golden_self_distillation_at_equal_logits(slug, settings, official):
    case = Case.load(slug, "case_logits")
    method = Official(spec_of(case.info["config"]["C"]), config=VSD.Config(vsd_weight=1.0, **settings))
    output, leaves = prescribed(case, method, VIEWS, grad=False)
    equal = {f"q_{view}": leaves[f"{official_view}_obs_logits"] for official_view, view in VIEWS.items()}
    output = from_names(VSDOutput, output.prediction, output.named | equal)
    close(terms_of(method, output, case)["vsd"], case[f"losses.{official}"], tolerance(case))


def test_golden_sinkhorn_distance_alone():
    case = Case.load("vsd", "case_logits")
    x, y = (case[f"inputs.{view}_obs_logits"].softmax(-1) for view in "iv")
    close(sinkhorn_distance(x, y), case["losses.cml"], tolerance(case))


@pytest.mark.parametrize(("term", "settings", "official"), VIEW_TERMS)
def test_golden_three_views(term, settings, official):
    """The figures are scipy's, by the formulas of the adaptation."""
    case = Case.load("vsd", "case_three_views")
    views = ("text", "audio", "vision")
    method = VSD(spec_of(case.info["config"]["K"], views), config=VSD.Config(heads_weight=0.0, **settings))
    named = {}
    for view in views:
        for ours, theirs in (("p", "obs"), ("q", "rep")):
            named[f"{ours}_{view}"] = case[f"inputs.{theirs}_{view}"]
            named[f"{ours}_shared_{view}"] = case[f"inputs.sh_{theirs}_{view}"]
    count = case.info["config"]["B"]
    output = from_names(VSDOutput, torch.zeros(count, method.task.outputs), named)
    terms = method.objective(output, golden_batch(torch.zeros(count, dtype=torch.long), views))
    close(terms[term], case[f"losses.{official}"], tolerance(case))


def test_every_stored_loss_is_compared():
    compared = {
        "case": {official for name, _, _, official in NETWORK_TERMS if name == "case"} | {"total"},
        "case_fixed": {official for name, _, _, official in NETWORK_TERMS if name == "case_fixed"} | {"total"},
        "case_logits": {row[-1] for row in LOGIT_TERMS + EQUAL_TERMS},
        "case_three_views": {row[-1] for row in VIEW_TERMS},
    }
    for slug, name in (*(("vsd", name) for name in compared), ("mv2d", "case_logits")):
        stored = {key.removeprefix("losses.") for key in Case.load(slug, name).arrays if key.startswith("losses.")}
        assert stored == compared[name], (slug, name)
