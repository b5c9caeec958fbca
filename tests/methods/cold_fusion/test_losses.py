"""The terms of COLD Fusion's loss: matching of uncertainty and error, prior, task losses."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.distributions import Normal, kl_divergence

from data_modules.schema import MODALITIES, Batch
from mmbench.methods.cold_fusion import COLDFusion
from mmbench.methods.cold_fusion.losses import matching, symmetric_divergence
from mmbench.testing.builders import make_batch, make_spec
from tests.methods.cold_fusion.test_method import build, by_step, certain, sample


def every(count):
    return torch.ones(count, dtype=torch.bool)


def losses(method, batch):
    """Return the terms of a batch and the gradients of their sum."""
    torch.manual_seed(0)
    method.zero_grad()
    terms = method.objective(method(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    return terms, gradients


# The matching loss


def test_divergence_is_the_sum_of_both_directions():
    p, q = torch.rand(2, 7).softmax(-1)
    expected = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
    torch.testing.assert_close(symmetric_divergence(p, q), expected)
    assert symmetric_divergence(p, p) == 0


def test_uncertainty_that_is_the_error_plus_a_constant_matches():
    errors = {name: torch.rand(8) * 4 for name in MODALITIES}
    for name in MODALITIES:
        assert matching(errors[name], errors[name] + 2.5, every(8)) == pytest.approx(0.0, abs=1e-6)
    together = torch.cat(list(errors.values()))
    assert matching(together, together + 2.5, every(24)) == pytest.approx(0.0, abs=1e-6)


def test_constants_of_their_own_are_calibrated_but_not_ordinal():
    errors = [torch.rand(8) * 4 for _ in MODALITIES]
    scores = [error + constant for constant, error in enumerate(errors)]
    for error, score in zip(errors, scores, strict=True):
        assert matching(error, score, every(8)) == pytest.approx(0.0, abs=1e-6)
    assert matching(torch.cat(errors), torch.cat(scores), every(24)) > 0.1


def test_matching_is_not_negative_and_knows_no_order():
    for seed in range(5):
        errors, scores = torch.rand(2, 9, generator=torch.Generator().manual_seed(seed)) * 5
        value = matching(errors, scores, every(9))
        assert value > 0
        order = torch.randperm(9)
        torch.testing.assert_close(matching(errors[order], scores[order], every(9)), value)


def test_temperature_divides_errors_and_scores():
    errors, scores = torch.rand(2, 9) * 5
    torch.testing.assert_close(matching(errors, scores, every(9), 2.5), matching(errors / 2.5, scores / 2.5, every(9)))
    batch = sample()
    assert losses(build(temperature=2.5), batch)[0]["calibration"] != losses(build(), batch)[0]["calibration"]


def test_absent_items_do_not_count():
    errors, scores = (torch.rand(2, 9) * 5).requires_grad_().unbind()
    present = torch.arange(9) % 3 > 0
    expected = matching(errors[present], scores[present], every(6))
    value = matching(errors, scores, present)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, scores)
    assert not gradient[~present].any()
    assert gradient[present].all()
    assert matching(errors, scores, torch.zeros(9, dtype=torch.bool)) == 0


@pytest.mark.parametrize("kind", ["regression", "multiclass", "multilabel", "binary"])
def test_errors_are_squares_or_minus_the_log_probability_of_the_label(kind):
    method, target = build(kind), sample(kind=kind).target
    prediction = torch.randn(6, method.task.outputs)
    expected = []
    for row in range(6):
        if kind == "regression":
            expected.append((prediction[row, 0] - target[row]) ** 2)
        elif kind == "multiclass":
            expected.append(-prediction[row].softmax(-1)[target[row]].log())
        elif kind == "multilabel":
            p = prediction[row].sigmoid()
            expected.append(-torch.where(target[row] > 0, p, 1 - p).log().sum())
        else:
            p = prediction[row].reshape(-1, 2).softmax(-1)
            expected.append(-p[torch.arange(len(p)), target[row]].log().sum())
    torch.testing.assert_close(
        method.errors(prediction, Batch({}, target, torch.arange(len(target)))), torch.stack(expected)
    )


def test_the_error_of_several_outputs_is_the_sum_over_them():
    spec = make_spec()
    method = COLDFusion(replace(spec, target=replace(spec.target, names=("valence", "arousal"))))
    prediction, target = torch.randn(2, 6, 2)
    torch.testing.assert_close(
        method.errors(prediction, Batch({}, target, torch.arange(len(target)))), ((prediction - target) ** 2).sum(1)
    )


def test_variance_heads_alone_learn_the_order_of_errors():
    """With everything else fixed, calibration drives the rank correlation of uncertainty and error to 1."""
    torch.manual_seed(0)
    spec = make_spec(steps=1)
    method = COLDFusion(spec, config=COLDFusion.Config(hidden=16, dropout=0.0, detach_error=True, lambda_co=1.0))
    batch = make_batch(spec, 8)
    heads = [part.logvar for part in method.network.distributions.values()]
    optimizer = torch.optim.Adam([p for head in heads for p in head.parameters()], lr=0.05)
    for _ in range(150):
        output = method(batch)
        optimizer.zero_grad()
        method.objective(output, batch)["calibration"].backward()
        optimizer.step()
    for name in MODALITIES:
        error = method.errors(output.named[f"prediction_{name}"], batch)
        found = spearmanr(output.named[f"score_{name}"].detach().numpy(), error.detach().numpy()).statistic
        assert found == pytest.approx(1.0), name


# The prior


def test_prior_is_zero_at_the_standard_normal_and_else_the_mean_kl_of_real_steps():
    method, batch = build(lambda_reg=0.5), sample()
    output = method(batch)
    expected = 0.0
    for name in MODALITIES:
        mask = batch.inputs[name].mask
        mean, logvar = (by_step(output, batch, part, name)[mask] for part in ("mean", "logvar"))
        normal = Normal(torch.zeros_like(mean), torch.ones_like(mean))
        expected += kl_divergence(Normal(mean, (logvar / 2).exp()), normal).sum() / mask.sum()
    torch.testing.assert_close(method.objective(output, batch)["prior"], 0.5 * expected)
    assert expected > 0
    for name in MODALITIES:
        certain(method, name, 0.0)
        nn.init.zeros_(method.network.distributions[name].mean.weight)
        nn.init.zeros_(method.network.distributions[name].mean.bias)
    assert method.objective(method(batch), batch)["prior"] == 0


# Ablations


@pytest.fixture(scope="module")
def full():
    return losses(build(), sample())


def test_all_terms_train_all_parameters(full):
    terms, gradients = full
    assert list(terms) == ["task", *(f"task_{m}" for m in MODALITIES), "calibration", "ordinality", "prior"]
    assert all(term > 0 for term in terms.values())
    assert set(gradients) == {name for name, _ in build().named_parameters()}


@pytest.mark.parametrize(
    ("settings", "gone"),
    [
        ({"calibration": False}, {"calibration"}),
        ({"ordinality": False}, {"ordinality"}),
        ({"lambda_co": 0.0}, {"calibration", "ordinality"}),
        ({"lambda_reg": 0.0}, {"prior"}),
        ({"unimodal_weight": 0.0}, {f"task_{m}" for m in MODALITIES}),
    ],
)
def test_a_term_that_is_switched_off_is_gone_and_the_others_stay(full, settings, gone):
    terms, gradients = losses(build(**settings), sample())
    assert {name for name in full[0] if not terms.get(name, 0)} == gone
    for name in set(full[0]) - gone:
        torch.testing.assert_close(terms[name], full[0][name])
    part = "heads.text.weight" if settings.get("unimodal_weight") == 0 else "distributions.text.logvar.weight"
    name = f"network.{part}"
    assert not torch.allclose(gradients[name], full[1][name], atol=1e-9)


def test_unimodal_heads_learn_from_their_task_and_from_matching():
    batch = sample()
    for settings, heads in (
        ({"unimodal_weight": 0.0}, True),
        ({"unimodal_weight": 0.0, "detach_error": True}, False),
        ({"lambda_co": 0.0}, True),
        ({"lambda_co": 0.0, "unimodal_weight": 0.0}, False),
    ):
        _, gradients = losses(build(**settings), batch)
        assert ("network.heads.audio.weight" in gradients) is heads, settings
        assert "network.heads.fused.weight" in gradients


def test_a_detached_error_leaves_the_value_and_the_scores_gradient(full):
    terms, gradients = losses(build(detach_error=True), sample())
    assert terms == full[0]
    name = "network.distributions.text.logvar.weight"
    torch.testing.assert_close(gradients[name], full[1][name])
    assert not torch.allclose(gradients["network.heads.text.weight"], full[1]["network.heads.text.weight"])


def test_squared_error_is_a_choice_for_regression_only():
    batch = sample()
    method = build(regression_loss="mse")
    output = method(batch)
    expected = ((output.prediction[:, 0] - batch.target) ** 2).mean()
    torch.testing.assert_close(method.objective(output, batch)["task"], expected)
    batch = sample(kind="multiclass")
    terms = [losses(build("multiclass", regression_loss=loss), batch)[0] for loss in ("l1", "mse")]
    assert terms[0] == terms[1]
