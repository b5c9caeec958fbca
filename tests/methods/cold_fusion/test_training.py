"""What COLD Fusion is for: weights and uncertainties that follow the noise, after training on toy data."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy.stats import spearmanr
from torch import nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.cold_fusion import COLDFusion
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods.cold_fusion.test_method import build

PAIR = DataSpec(
    "toy",
    "random",
    "standard",
    {name: ModalitySpec(name, 6, 1) for name in ("audio", "vision")},
    TargetSpec("regression", ("sentiment",), -3.0, 3.0),
    aligned=True,
)


def noisy_batch(seed, noise_of, size=64):
    """Return a batch whose target stands in all features of both modalities, under noise of a size per sample."""
    random = torch.Generator().manual_seed(seed)
    target = (2 * torch.randn(size, generator=random)).clamp(-3, 3)
    inputs = {}
    for name in ("audio", "vision"):
        noise = torch.randn(size, 1, 6, generator=random) * noise_of(name, random, size)
        inputs[name] = PaddedSequence(target[:, None, None] + noise, torch.ones(size, dtype=torch.long))
    return Batch(inputs, target, torch.arange(size))


def train(noise_of, **settings):
    torch.manual_seed(0)
    method = COLDFusion(PAIR, config=COLDFusion.Config(hidden=8, lr=1e-2, dropout=0.0, **settings))
    (optimizer,) = method.configure_optimizers()
    for step in range(150):
        batch = noisy_batch(step, noise_of)
        optimizer.zero_grad()
        torch.stack(list(method.objective(method(batch), batch).values())).sum().backward()
        optimizer.step()
    return method.eval()


def mean_weight(method, noise_of, name):
    return method(noisy_batch(1000, noise_of)).named[f"weight_{name}"].mean().item()


def test_a_modality_that_is_noise_ends_with_a_lower_weight():
    def noise_of(name, random, size):
        return 0.1 if name == "audio" else 30.0

    assert mean_weight(train(noise_of, lambda_co=1.0), noise_of, "vision") < 0.4


def now_and_then(name, random, size):
    """Return noise that half of the samples have, in one modality or the other or in both."""
    return 6.0 * (torch.rand(size, 1, 1, generator=random) < 0.5) + 0.1


@pytest.fixture(scope="module")
def constrained():
    return train(now_and_then, lambda_co=1.0)


@pytest.mark.parametrize("noised", ["audio", "vision"])
def test_the_weight_of_a_modality_falls_when_it_is_noised(constrained, noised):
    def noise(level):
        return lambda name, random, size: level if name == noised else 0.1

    weights = [mean_weight(constrained, noise(level), noised) for level in (0.1, 2.0, 4.0, 8.0)]
    assert (np.diff(weights) < 0).all(), weights
    assert weights[0] - weights[-1] > 0.08, weights


def test_constraints_make_uncertainty_follow_the_error_on_new_samples(constrained):
    free, batch = train(now_and_then, lambda_co=0.0), noisy_batch(1000, now_and_then, size=200)
    mismatch = {}
    for key, method in (("constrained", constrained), ("free", free)):
        output = method(batch)
        terms = constrained.objective(output, batch)  # with the weights of the constrained one
        mismatch[key] = {name: float(terms[name].detach()) for name in ("calibration", "ordinality")}
        for name in ("audio", "vision"):
            error = method.errors(output.named[f"prediction_{name}"], batch)
            found = spearmanr(output.named[f"score_{name}"].detach(), error.detach()).statistic
            assert key == "free" or found > 0.5, (name, found)
    for name, value in mismatch["constrained"].items():
        assert value < 0.5 * mismatch["free"][name], mismatch


def test_calibration_error_is_reported(tmp_path):
    path = write_toy_store(tmp_path / "toy.h5", make_spec("multiclass"), held_out=40)
    method = build("multiclass")
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    (scores,) = trainer.test(method, datamodule=FusionDataModule(path, batch_size=16), verbose=False)
    reported = {name: scores[f"test/{name}"] for name in ("ece", "brier", "nll")}
    prediction, target, _ = method.test_metric.gathered()
    probability = prediction.double().softmax(-1)
    confidence, guess = probability.max(-1)
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap = (guess[inside] == target[inside]).double().mean() - confidence[inside].mean()
            expected += float(inside.double().mean() * gap.abs())
    assert reported["ece"] == pytest.approx(expected, abs=1e-6)
    assert reported["nll"] == pytest.approx(float(-probability[torch.arange(40), target].log().mean()), abs=1e-6)
    truth = nn.functional.one_hot(target, 3)
    assert reported["brier"] == pytest.approx(float((probability - truth).square().sum(-1).mean()), abs=1e-6)
