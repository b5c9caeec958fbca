"""COLD Fusion against numbers of an independent re-implementation; see ``tests/golden/cold_fusion/README.md``."""

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.cold_fusion import COLDFusion
from mmbench.methods.cold_fusion.losses import matching, symmetric_divergence
from mmbench.nn.variational import standard_normal_kl
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, renamed

OUTPUTS = {"rtol": 1e-8, "atol": 1e-10}
GRADNORM = {"rtol": 1e-7, "atol": 1e-10}
TRAJECTORY = {"rtol": 1e-6, "atol": 1e-8}
TARGETS = {
    "regression": TargetSpec("regression", ("sentiment",), -3.0, 3.0),
    "multiclass": TargetSpec("multiclass", ("angry", "happy", "sad")),
}
NAMES = renamed(
    (r"^(audio|text)_dist\.", r"network.distributions.\1."),
    (r"\.(mean|logvar)_head\.", r".\1."),
    (r"^output_head\.", "network.heads.fused."),
    (r"^(audio|text)_head\.", r"network.heads.\1."),
)
RELEASED = {"lambda_co": 1.0, "lambda_reg": 1.0, "unimodal_weight": 0.0, "legacy_averages": True}
CASES = {
    "case": ("regression", RELEASED),
    "case_classification": ("multiclass", RELEASED),
    "case_fixed": ("regression", {}),
    "case_fixed_classification": ("multiclass", {}),
}
every_case = pytest.mark.parametrize("name", CASES)


def build(kind, dims, steps, **settings):
    modalities = {name: ModalitySpec(name, dims[name], steps) for name in MODALITIES if name in dims}
    spec = DataSpec("golden", "random", "standard", modalities, TARGETS[kind], aligned=True)
    settings = {"dropout": 0.0, "regression_loss": "mse", **settings}
    return COLDFusion(spec, config=COLDFusion.Config(**settings)).double().train()


def golden(name, **settings):
    """Return case, method with its weights, and batch."""
    case = Case.load("cold_fusion", name)
    kind, ours = CASES[name]
    config = case.info["config"]
    dims = {"audio": config["d_a"], "text": config["d_t"]}
    method = build(kind, dims, config["T"], hidden=config["H"], **ours, **settings)
    fill(method, case.table(), NAMES)
    lengths, target = case["inputs.lengths"], case["inputs.labels"]
    inputs = {
        modality: PaddedSequence(case[f"inputs.{modality}"].requires_grad_(), lengths) for modality in ("text", "audio")
    }
    return case, method, Batch(inputs, target, torch.arange(len(target)))


def close(actual, expected, tolerance=OUTPUTS):
    torch.testing.assert_close(actual.detach(), expected, **tolerance)


def total(terms):
    return torch.stack(list(terms.values())).sum()


@every_case
def test_outputs(name):
    case, method, batch = golden(name)
    output = method(batch)
    named = output.named
    assert sum(parameter.numel() for parameter in method.parameters()) == case.info["parameter_count"]
    steps = batch.inputs["text"].mask if "fixed" in name else torch.ones_like(batch.inputs["text"].mask)
    close(output.prediction, case["outputs.prediction"])
    close(named["fused"][steps], case["outputs.mu_fused"][steps])
    for modality in batch.inputs:
        for ours, theirs in {"mean": "mu", "logvar": "logvar", "step_score": "s"}.items():
            close(named[f"{ours}_{modality}"], case[f"outputs.{theirs}_{modality}"][steps])
        close(named[f"weight_{modality}"][steps], case[f"outputs.w_{modality}"][steps])
        close(named[f"prediction_{modality}"], case[f"outputs.prediction_{modality}"])
        close(named[f"score_{modality}"], case[f"outputs.s_mean_{modality}"])
        close(method.errors(named[f"prediction_{modality}"], batch), case[f"outputs.d_{modality}"])


@every_case
def test_terms_and_their_gradients(name):
    case, method, batch = golden(name)
    output, c = method(batch), method.config
    terms = method.objective(output, batch)
    unweighted = {
        "main": terms["task"],
        "co": (terms["calibration"] + terms["ordinality"]) / c.lambda_co,
        "reg": terms["prior"] / c.lambda_reg,
    }
    if c.unimodal_weight:
        unweighted |= {f"task_{modality}": terms[f"task_{modality}"] for modality in batch.inputs}
    for term, value in unweighted.items():
        close(value, case[f"losses.{term}"])
        method.zero_grad()
        value.backward(retain_graph=True)
        close(gradient_norms(method, case.table(), NAMES), case[f"gradnorm_{term}"], GRADNORM)
    every = torch.ones(len(batch.target), dtype=torch.bool)
    for modality in batch.inputs:
        error = method.errors(output.named[f"prediction_{modality}"], batch)
        close(matching(error, output.named[f"score_{modality}"], every), case[f"losses.cal_{modality}"])
    close(terms["ordinality"] / c.lambda_co, case["losses.ord"])
    assert {key for key in case.arrays if key.startswith("gradnorm_")} == {f"gradnorm_{term}" for term in unweighted}


@every_case
def test_total_and_its_gradients(name):
    case, method, batch = golden(name)
    loss = total(method.objective(method(batch), batch))
    loss.backward()
    close(loss, case["losses.total"])
    close(gradient_norms(method, case.table(), NAMES), case["gradnorm"], GRADNORM)
    for modality, sequence in batch.inputs.items():
        close(sequence.values.grad, case[f"gradinput.{modality}"])


@every_case
def test_three_steps(name):
    case, method, batch = golden(name)
    (optimizer,) = method.configure_optimizers()
    losses = []
    for _ in range(3):
        losses.append(total(method.objective(method(batch), batch)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    losses.append(total(method.objective(method(batch), batch)))
    close(torch.stack(losses), case["trajectory.total"], TRAJECTORY)
    close(parameter_norms(method, case.table(), NAMES), case["trajectory.param_norm"], TRAJECTORY)


def test_the_absolute_error_is_the_default_task_loss():
    case, method, batch = golden("case_fixed", regression_loss=COLDFusion.Config().regression_loss)
    terms = method.objective(method(batch), batch)
    for ours, theirs in {"task": "main", "task_audio": "task_audio", "task_text": "task_text"}.items():
        close(terms[ours], case[f"losses.{theirs}_mae"])


# Prescribed predictions, scores and Gaussians


@pytest.fixture(scope="module")
def losses():
    return Case.load("cold_fusion", "case_losses")


def errors_and_scores(case, task):
    kind, source, label = {
        "reg": ("regression", "reg_pred", "y_reg"),
        "cls": ("multiclass", "logits", "y_cls"),
    }[task]
    method = build(kind, dict.fromkeys(MODALITIES, 1), 1)
    predictions = {name: case[f"inputs.{source}_{name}"].requires_grad_() for name in MODALITIES}
    batch = Batch({}, case[f"inputs.{label}"], torch.arange(len(case[f"inputs.{label}"])))
    errors = {name: method.errors(value, batch) for name, value in predictions.items()}
    return predictions, errors, {name: case[f"inputs.s_{name}"].requires_grad_() for name in MODALITIES}


def calibration(errors, scores, names):
    every = torch.ones(len(errors["text"]), dtype=torch.bool)
    return sum(matching(errors[name], scores[name], every) for name in names)


def ordinality(errors, scores, names):
    joined = [torch.cat([values[name] for name in names]) for values in (errors, scores)]
    return matching(*joined, torch.ones(len(joined[0]), dtype=torch.bool))


@pytest.mark.parametrize("task", ["reg", "cls"])
def test_matching(losses, task):
    predictions, errors, scores = errors_and_scores(losses, task)
    pair = ("audio", "text")
    for name in MODALITIES:
        close(errors[name], losses[f"outputs.d_{task}_{name}"])
        close(calibration(errors, scores, [name]), losses[f"losses.{task}.cal_{name}"])
    together = calibration(errors, scores, pair) + ordinality(errors, scores, pair)
    close(ordinality(errors, scores, pair), losses[f"losses.{task}.ord_audio_text"])
    close(together, losses[f"losses.{task}.co_audio_text"])
    three = ordinality(errors, scores, MODALITIES)
    close(three, losses[f"losses.{task}.ord_three"])
    close(calibration(errors, scores, MODALITIES) + three, losses[f"losses.{task}.co_three"])
    together.backward()
    for name in pair:
        close(predictions[name].grad, losses[f"gradinput.{task}.co_audio_text.pred_{name}"])
        close(scores[name].grad, losses[f"gradinput.{task}.co_audio_text.s_{name}"])
    same = {name: error + 2.5 for name, error in errors.items()}
    close(calibration(errors, same, MODALITIES), losses[f"losses.{task}.cal_same_constant"])
    close(ordinality(errors, same, MODALITIES), losses[f"losses.{task}.ord_same_constant"])
    shifted = {name: error + number for number, (name, error) in enumerate(errors.items())}
    close(ordinality(errors, shifted, MODALITIES), losses[f"losses.{task}.ord_constants_0_1_2"])


class Prescribed(nn.Module):
    """Distributions that are given."""

    def __init__(self, mean, logvar):
        super().__init__()
        self.moments = mean, logvar

    def forward(self, rows, layout):
        return [layout.rows(moment) for moment in self.moments]


def prescribed(case, names, **settings):
    method = build("regression", dict.fromkeys(names, 1), 4, hidden=6, lambda_reg=1.0, **settings)
    for name in names:
        method.network.distributions[name] = Prescribed(case[f"inputs.mu_{name}"], case[f"inputs.logvar_{name}"])
    lengths = torch.full((3,), 4)
    inputs = {name: PaddedSequence(torch.zeros(3, 4, 1, dtype=torch.float64), lengths) for name in names}
    return method, Batch(inputs, torch.zeros(3, dtype=torch.float64), torch.arange(3))


def test_fusion_of_prescribed_gaussians(losses):
    method, batch = prescribed(losses, MODALITIES)
    named = method(batch).named
    close(named["fused"], losses["outputs.fused_three"])
    for name in MODALITIES:
        close(named[f"step_score_{name}"], losses[f"outputs.step_s_{name}"].flatten())
        close(named[f"weight_{name}"], losses[f"outputs.w_three_{name}"])
    method, batch = prescribed(losses, ("audio", "text"))
    close(method(batch).named["fused"], losses["outputs.fused_audio_text"])


@pytest.mark.parametrize(("legacy", "key"), [(True, "released"), (False, "card")])
def test_prior_of_prescribed_gaussians(losses, legacy, key):
    method, batch = prescribed(losses, MODALITIES, legacy_averages=legacy)
    expected = sum(losses[f"losses.reg_{key}.{name}"] for name in MODALITIES)
    close(method.objective(method(batch), batch)["prior"], expected)
    for name in MODALITIES:
        elements = standard_normal_kl(losses[f"inputs.mu_{name}"], losses[f"inputs.logvar_{name}"])
        close(elements.sum(1 if legacy else -1).mean(), losses[f"losses.reg_{key}.{name}"])


@pytest.mark.parametrize("version", ["released", "fixed"])
def test_label_wise_matching_of_a_derived_method(version):
    """Half the divergence of softmaxes with a plus sign; the released one also slips in an axis and an average."""
    case = Case.load("cold_fusion", "case_lddu")
    std, score = case["inputs.std"].requires_grad_(), case["inputs.score"].requires_grad_()
    norms = std.norm(dim=-1)
    close(norms, case["outputs.s"])
    uncertainty = norms.flatten().softmax(0)
    if version == "released":
        value = symmetric_divergence(uncertainty, score.softmax(-1).flatten()) / 2 / score.numel()
    else:
        value = symmetric_divergence(uncertainty, score.flatten().softmax(0)) / 2
    value.backward()
    close(value, case[f"losses.{version}"])
    close(std.grad, case[f"gradinput.{version}.std"])
    close(score.grad, case[f"gradinput.{version}.score"])
