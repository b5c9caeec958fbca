"""MIB: codes, the terms of the loss, and what is left when one of them is taken away."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from data_modules.schema import MODALITIES
from tests.methods.mib.parts import SMALL, build, losses, sample

# Codes and the terms of the loss


@pytest.mark.parametrize(
    ("variant", "codes"),
    [("none", set()), ("e", {"fused"}), ("l", set(MODALITIES)), ("c", {*MODALITIES, "fused"})],
)
def test_every_code_has_a_kl_and_every_unimodal_one_a_task(variant, codes):
    terms, gradients = losses(build(variant=variant), sample())
    unimodal = codes - {"fused"}
    assert set(terms) == {"task"} | {f"task_{name}" for name in unimodal} | {f"kl_{name}" for name in codes}
    assert set(build(variant=variant).network.bottlenecks) == codes
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("kl", ["mean", "sum"])
def test_kl_is_that_of_gaussians(kl):
    method, batch = build(kl=kl, beta=0.5), sample()
    output = method(batch)
    terms = method.objective(output, batch)
    for name in (*MODALITIES, "fused"):
        mean, std = output.named[f"mean_{name}"], output.named[f"std_{name}"]
        assert (std > 0).all()
        every = kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(std)))
        expected = every.sum() / batch.size / (1 if kl == "sum" else SMALL["dim"])
        torch.testing.assert_close(terms[f"kl_{name}"], 0.5 * expected)


def test_the_loss_of_the_complete_variant_is_that_of_the_late_one_and_a_kl():
    """With the same predictions and unimodal codes."""
    complete, late, batch = build(variant="c"), build(variant="l"), sample()
    output = complete(batch)
    more, less = complete.objective(output, batch), late.objective(output, batch)
    kl = more.pop("kl_fused")
    assert kl > 0
    assert more == less


def test_predictions_are_linear_in_the_draws():
    method, batch = build(), sample()
    output = method(batch)
    decoders = method.network.decoders
    torch.testing.assert_close(output.prediction, decoders["fused"](output.named["z_fused"]))
    for name in MODALITIES:
        torch.testing.assert_close(output.named[f"prediction_{name}"], decoders[name](output.named[f"z_{name}"]))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "binary"])
def test_unimodal_predictions_have_the_task_of_the_final_one(kind):
    method, batch = build(kind), sample(kind=kind)
    output = method(batch)
    terms = method.objective(output, batch)
    for name in MODALITIES:
        assert output.named[f"prediction_{name}"].shape == output.prediction.shape
        torch.testing.assert_close(terms[f"task_{name}"], method.task.loss(output.named[f"prediction_{name}"], batch))


@pytest.mark.parametrize("eval_noise", [False, True])
def test_codes_are_drawn_in_training_and_else_when_asked_for(eval_noise):
    method, batch = build(eval_noise=eval_noise), sample()
    for training in (True, False):
        method.train(training)
        first, second = method(batch), method(batch)
        drawn = training or eval_noise
        assert torch.equal(first.prediction, second.prediction) is not drawn
        for name in (*MODALITIES, "fused"):
            assert torch.equal(first.named[f"z_{name}"], first.named[f"mean_{name}"]) is not drawn


def test_a_unimodal_loss_stays_in_its_branch():
    method, batch = build(), sample()
    terms = method.objective(method(batch), batch)
    for name in MODALITIES:
        method.zero_grad()
        (terms[f"task_{name}"] + terms[f"kl_{name}"]).backward(retain_graph=True)
        touched = {key.split(".")[2] for key, p in method.named_parameters() if p.grad is not None and p.grad.any()}
        assert touched == {name}


# Ablations


@pytest.fixture(scope="module")
def full():
    return losses(build(), sample())


def changed(gradients, others):
    return {name for name in gradients if not torch.allclose(gradients[name], others[name], rtol=1e-4, atol=1e-8)}


def test_without_beta_codes_are_only_noisy(full):
    terms, gradients = losses(build(beta=0.0), sample())
    assert [name for name, term in terms.items() if not term] == [f"kl_{name}" for name in (*MODALITIES, "fused")]
    for name, term in terms.items():
        assert term == (0 if name.startswith("kl") else full[0][name])
    assert not any(".decoders." in name for name in changed(gradients, full[1]))  # the KL does not reach those
    assert {name.split(".")[2] for name in changed(gradients, full[1]) if ".bottlenecks." in name} == {
        *MODALITIES,
        "fused",
    }


def test_main_weight_is_that_of_the_final_task(full):
    terms, _ = losses(build(main_weight=2.0), sample())
    for name, term in terms.items():
        torch.testing.assert_close(term, full[0][name] * (2 if name == "task" else 1))


def test_the_early_variant_without_beta_is_the_one_without_bottlenecks_but_for_noise():
    """B-MIB of the paper: the bottleneck is there and draws, and nothing pulls it to the standard normal."""
    terms, gradients = losses(build(variant="e", beta=0.0), sample())
    assert terms["kl_fused"] == 0
    assert torch.stack(list(terms.values())).sum() == terms["task"]
    alone = build(variant="e", beta=0.0)
    torch.manual_seed(0)
    batch = sample()
    alone.task.loss(alone(batch).prediction, batch).backward()
    assert not changed({name: p.grad for name, p in alone.named_parameters()}, gradients)


def test_draws_of_a_code_reach_its_deviation():
    for training, reached in ((True, True), (False, False)):
        _, gradients = losses(build(beta=0.0).train(training), sample())
        moved = [
            bool(gradients[f"network.bottlenecks.{name}.deviation.weight"].any()) for name in (*MODALITIES, "fused")
        ]
        assert moved == [reached] * 4
