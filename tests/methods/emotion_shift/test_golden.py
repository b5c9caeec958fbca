"""Emotion-Shift against numbers of the official code; see ``tests/golden/emotion_shift/README.md``."""

import re

import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.emotion_shift import EmotionShift
from mmbench.methods.emotion_shift.gates import ShiftDetector
from mmbench.methods.emotion_shift.shift_labels import EmotionGroups, predecessors, shift_labels
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, snapshot
from tests.methods.training import step

OUTPUTS = {"rtol": 1e-8, "atol": 1e-10}
GRADNORM = {"rtol": 1e-7, "atol": 1e-10}
TRAJECTORY = {"rtol": 1e-7, "atol": 1e-9}
CLASSES = ("hap", "sad", "neu", "ang", "exc", "fru")
CASES = {
    "case": {"backward_gate": "legacy_zero", "attn_mask": False},
    "case_fixed": {},
    "case_fixed_shared_text": {},
    "case_plain_gru": {"backward_gate": "plain_gru"},
    "case_no_shift": {"use_shift": False},
    "case_no_shift_legacy": {"use_shift": False, "attn_mask": False},
}
WAYS = {"fwd": "forward", "bwd": "backward"}
every_case = pytest.mark.parametrize("name", CASES)


def names(official):
    """Return where an official parameter lives in the method."""
    found = re.match(r"multilogue_net_([fr])_([tav])\.multilogue_cell\.(\w)\w*(\..*)", official)
    if found:
        way, modality, kind, rest = found.groups()
        part = {"g": "context", "p": "party", "e": "emotion", "a": "history"}[kind]
        for theirs, ours in ((".w_hi", ".read"), (".u_hh", ".keep"), (".scalar", "")):
            rest = rest.replace(theirs, ours)
        modality = {"t": "text", "a": "audio", "v": "vision"}[modality]
        return f"network.nets.{modality}_{ {'f': 'forward', 'r': 'backward'}[way] }.{part}{rest}"
    for theirs, ours in {"linear": "shared", "smax_fc": "head", "classifier": "detector.classifier"}.items():
        if official.startswith(f"{theirs}."):
            return f"network.{ours}{official.removeprefix(theirs)}"
    raise AssertionError(official)


class Separate(EmotionShift):
    """The method with vectors of its own for the detector, as an encoder would give them."""

    shift_text = None

    def forward(self, batch):
        return self.network(batch.inputs, batch.speaker, self._previous(batch), self.shift_text)


def golden(name, **settings):
    """Return case, method with its weights, and batch."""
    case = Case.load("emotion_shift", name)
    c = case.info["config"]
    dims = {"text": c["d_t"], "audio": c["d_a"], "vision": c["d_v"]}
    spec = DataSpec(
        dataset="golden",
        feature_set="random",
        protocol="standard",
        modalities={modality: ModalitySpec(modality, dims[modality], 7) for modality in MODALITIES},
        target=TargetSpec("multiclass", CLASSES[: c["n_classes"]]),
        aligned=True,
        dialogue=True,
        speakers=2,
    )
    sizes = {"context": c["D_g"], "party": c["D_p"], "emotion": c["D_e"], "hidden": c["D_h"]}
    method = Separate(spec, config=EmotionShift.Config(**sizes, **CASES[name], **settings)).double().eval()
    fill(method, case.table(), names)
    method.class_weights.copy_(case["inputs.class_weights"])
    if "inputs.shift_weights" in case:
        method.shift_weights.copy_(case["inputs.shift_weights"])
    lengths = case["inputs.lengths"]
    inputs = {modality: PaddedSequence(case[f"inputs.{modality}"].requires_grad_(), lengths) for modality in MODALITIES}
    if "inputs.s" in case:
        method.shift_text = case["inputs.s"].requires_grad_()
    target, real = case["inputs.labels"], inputs["text"].mask
    speaker = case["inputs.speaker"].argmax(-1)
    index = torch.arange(target.numel()).view_as(target)
    return case, method, Batch(inputs, target, index, speaker=speaker, target_mask=real)


def close(actual, expected, tolerance=OUTPUTS):
    torch.testing.assert_close(actual.detach(), expected, **tolerance)


@every_case
def test_states_and_predictions(name):
    case, method, batch = golden(name)
    output = method(batch)
    named = output.named
    assert sum(p.numel() for p in method.parameters()) == case.info["parameter_count"]
    real = batch.target_mask
    # Without the mask padding takes part in the attention: it must be right as well.
    steps = real if method.config.attn_mask else torch.ones_like(real)
    close(output.prediction.log_softmax(-1)[steps], case["outputs.log_prob"][steps])
    for modality in MODALITIES:
        for theirs, way in WAYS.items():
            close(named[f"emotion_{modality}_{way}"][steps], case[f"outputs.e_{theirs}_{modality}"][steps])
        close(named[f"hidden_{modality}"][steps], case[f"outputs.H_{modality}"][steps])
    for one, other in (("text", "audio"), ("vision", "audio"), ("text", "vision")):
        close(named[f"attention_{one}_{other}"][steps], case[f"outputs.att_{one[0]}{other[0]}"][steps])
    context = named["context_text_forward"]
    close(context[steps], case["outputs.g_fwd_text"][steps])
    close(named["history_text_forward"][steps], (case["outputs.alpha_fwd_text"] @ context.detach())[steps])
    speaks = F.one_hot(batch.speaker, 2).double()
    close(named["party_text_forward"][steps], (case["outputs.q_fwd_text"] * speaks[..., None]).sum(2)[steps])


@every_case
def test_shifts(name):
    case, method, batch = golden(name)
    named = method(batch).named
    if not method.config.use_shift:
        assert "shift" not in named
        return
    close(named["shift"], case["outputs.shift_logits"])
    close(named["shift"].log_softmax(-1), case["outputs.log_pi"])
    close(named["p_shift"], case["outputs.p_shift"])
    labels, _, counted = method._shifts(batch, method._previous(batch))
    assert torch.equal(counted, batch.target_mask)
    assert torch.equal(labels[counted], case["inputs.shift_labels"][counted])


@every_case
def test_losses_and_gradients(name):
    case, method, batch = golden(name)
    terms, _, _ = step(method, batch)
    close(sum(terms.values()), case["losses.total"])
    close(gradient_norms(method, case.table(), names), case["gradnorm"], GRADNORM)
    for modality, sequence in batch.inputs.items():
        close(sequence.values.grad, case[f"gradinput.{modality}"])
    if method.shift_text is not None:
        close(method.shift_text.grad, case["gradinput.s"])
    assert set(terms) == ({"task", "shift"} if method.config.use_shift else {"task"})
    for ours, theirs in {"task": "emotion", "shift": "shift"}.items():
        if ours in terms:
            close(terms[ours], case[f"losses.{theirs}"])
            method.zero_grad()
            method.objective(method(batch), batch)[ours].backward()
            key = f"gradnorm_{theirs}" if method.config.use_shift else "gradnorm"
            close(gradient_norms(method, case.table(), names), case[key], GRADNORM)


@every_case
def test_unweighted_losses(name):
    case, method, batch = golden(name)
    method.class_weights.fill_(1.0)
    method.shift_weights.fill_(1.0)
    terms, _, _ = step(method, batch)
    close(terms["task"], case["losses.emotion_unweighted"])
    if "shift" in terms:
        close(terms["shift"], case["losses.shift_unweighted"])


@every_case
def test_three_steps(name):
    case, method, batch = golden(name, siamese_epochs=0)
    (optimizer,) = method.configure_optimizers()
    found = []
    for number in range(4):
        terms = method.objective(method(batch), batch)
        found.append((torch.stack(list(terms.values())).sum(), terms["task"]))
        if number < 3:
            optimizer.zero_grad()
            found[-1][0].backward()
            optimizer.step()
    close(torch.stack([total for total, _ in found]), case["trajectory.total"], TRAJECTORY)
    close(torch.stack([task for _, task in found]), case["trajectory.emotion"], TRAJECTORY)
    close(parameter_norms(method, case.table(), names), case["trajectory.param_norm"], TRAJECTORY)
    now = snapshot(method)
    sums = torch.stack([now[names(official)].sum() for official, _, _ in case.table()])
    close(sums, case["trajectory.param_sum"], TRAJECTORY)


def test_released_reversed_nets_are_dead():
    case, method, batch = golden("case")
    _, gradients, output = step(method, batch)
    dead = {name: gradient for name, gradient in gradients.items() if "_backward." in name}
    assert len(dead) == len(case.info["zero_gradients"]) == 39
    assert all((gradient == 0).all() for gradient in dead.values())
    assert all((output.named[f"emotion_{modality}_backward"] == 0).all() for modality in MODALITIES)


def test_pairs_of_sentences():
    case = Case.load("emotion_shift", "case_stage1")
    detector = ShiftDetector(case.info["config"]["d_s"]).double()
    fill(detector, case.table(), lambda name: name)
    u, v = (case[f"inputs.{key}"].requires_grad_() for key in "uv")
    logits = detector(u, v)
    loss = F.cross_entropy(logits, case["inputs.labels"], weight=case["inputs.weights"])
    loss.backward()
    close(logits, case["outputs.logits"])
    close(loss, case["losses.total"])
    close(gradient_norms(detector, case.table(), lambda name: name), case["gradnorm"], GRADNORM)
    close(u.grad, case["gradinput.u"])
    close(v.grad, case["gradinput.v"])


def test_preparation_is_the_loss_of_pairs():
    """Two utterances per dialogue: the preparation sees the pairs of the case, and nothing of first utterances."""
    _, method, _ = golden("case_fixed", siamese_epochs=1)
    pairs = Case.load("emotion_shift", "case_stage1")
    method.shift_weights.copy_(pairs["inputs.weights"])
    text = torch.stack([pairs["inputs.u"], pairs["inputs.v"]], dim=1)
    labels = torch.stack([torch.zeros(6, dtype=torch.long), 1 - pairs["inputs.labels"]], dim=1)  # sad after happy
    lengths = torch.full((6,), 2)
    inputs = {"text": PaddedSequence(text, lengths)}
    batch = Batch(inputs, labels, labels, speaker=torch.zeros_like(labels), target_mask=labels >= 0)
    method.train()
    output = EmotionShift.forward(method, batch)
    terms = method.objective(output, batch)
    close(output.named["shift"][:, 1], pairs["outputs.logits"])
    assert set(terms) == {"shift"}
    close(terms["shift"], pairs["losses.total"])
    terms["shift"].backward()
    close(gradient_norms(method, pairs.table(), names), pairs["gradnorm"], GRADNORM)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("iemocap6", TargetSpec("multiclass", CLASSES)),
        ("iemocap4", TargetSpec("multiclass", CLASSES[:4])),
        ("mosei", TargetSpec("binary", ("sentiment",))),
    ],
)
def test_labels(key, target):
    case = Case.load("emotion_shift", "case_labels")
    labels = case[f"inputs.{key}"]
    before = predecessors(torch.ones_like(labels, dtype=torch.bool))
    groups = EmotionGroups(target)
    found = shift_labels(groups(labels.unsqueeze(-1) if target.kind == "binary" else labels), before)
    assert torch.equal(found, case[f"outputs.shift_{key}"])
    previous = torch.where(before < 0, 0, labels.gather(1, before.clamp(min=0)))
    assert torch.equal(previous, case[f"outputs.previous_{key}"])
