"""The linear method against scikit-learn on the same features; what it shares with all methods is in the matrix."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_absolute_error
from sklearn.preprocessing import StandardScaler

from data_modules import Corruption
from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import DataError, ModalitySpec, PaddedSequence
from mmbench.methods import ConfigError, method
from mmbench.methods.linear import STRENGTHS, Linear
from mmbench.methods.linear.pooling import mean_and_deviation
from mmbench.runner.training import Training, train_and_test
from mmbench.testing.builders import KINDS, make_batch, make_spec, write_toy_store
from tests.methods.training import fit as run


def make_data(kind: str, folder: Path, **options: object) -> FusionDataModule:
    path = folder / f"{kind}.h5"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        write_toy_store(path, make_spec(kind), train=41, held_out=23)
    return FusionDataModule(path, **{"batch_size": 8, **options})


def fit(kind: str, folder: Path, epochs: int = 1, seed: int = 0, data: object = None, **options: object) -> Linear:
    module = make_data(kind, folder, **(data or {}))
    torch.manual_seed(seed)
    model = Linear(module.spec)
    run(model, lambda: module, epochs, **options)
    return model


def split(data: FusionDataModule, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pooled features, computed sample by sample from what the store holds, and targets."""
    rows, parts = data.rows[name], []
    for modality in data.spec.modalities:
        values, offsets = data.store.read(modality, rows)
        steps = [values[start:stop].astype(float) for start, stop in pairwise(offsets)]
        parts += [np.stack([part.mean(0) for part in steps]), np.stack([part.std(0) for part in steps])]
    return np.concatenate(parts, 1), data.store.targets[rows]


def test_mean_and_deviation_are_of_the_real_steps():
    values = torch.randn(3, 6, 4)
    found = mean_and_deviation(PaddedSequence(values, torch.tensor([6, 1, 4])))
    for row, length in enumerate((6, 1, 4)):
        steps = values[row, :length].double().numpy()
        np.testing.assert_allclose(found[row], np.concatenate([steps.mean(0), steps.std(0)]), atol=1e-12)


def test_padding_and_company_change_no_bit():
    values = torch.randn(3, 6, 4)
    lengths = torch.tensor([6, 1, 4])
    whole = mean_and_deviation(PaddedSequence(values, lengths))
    longer = torch.cat([values, torch.full((3, 300, 4), torch.nan)], 1)
    assert torch.equal(mean_and_deviation(PaddedSequence(longer, lengths)), whole)
    assert torch.equal(mean_and_deviation(PaddedSequence(values[2:, :4], lengths[2:])), whole[2:])


class TestAgainstScikitLearn:
    """Features, standardisation, choice of the strength on validation, prediction of validation."""

    def test_regression(self, tmp_path):
        data = make_data("regression", tmp_path)
        (x, y), (held, expected) = split(data, "train"), split(data, "valid")
        scaler = StandardScaler().fit(x)
        predictions = {a: Ridge(alpha=a).fit(scaler.transform(x), y).predict(scaler.transform(held)) for a in STRENGTHS}
        errors = {a: mean_absolute_error(expected, prediction) for a, prediction in predictions.items()}
        model = fit("regression", tmp_path)
        best = min(errors, key=errors.get)
        assert len(set(errors.values())) == len(STRENGTHS)
        assert model.strength.item() == pytest.approx(best)
        found = model.trainer.callback_metrics
        assert found["valid/mae"].item() == pytest.approx(errors[best], rel=1e-4)
        fitted = Ridge(alpha=best).fit(scaler.transform(x), y).predict(scaler.transform(x))
        assert found["train/loss"].item() == pytest.approx(mean_absolute_error(y, fitted), rel=1e-4)
        np.testing.assert_allclose(predicted(model, data), predictions[best], atol=1e-4)

    def test_classes(self, tmp_path):
        data = make_data("multiclass", tmp_path)
        (x, y), (held, expected) = split(data, "train"), split(data, "valid")
        scaler = StandardScaler().fit(x)
        models = {
            a: LogisticRegression(C=1 / a, tol=1e-8, max_iter=50_000).fit(scaler.transform(x), y) for a in STRENGTHS
        }
        scores = {
            a: f1_score(expected, m.predict(scaler.transform(held)), average="weighted") for a, m in models.items()
        }
        model = fit("multiclass", tmp_path)
        best = max(scores, key=scores.get)  # the first, which is the strongest
        assert model.strength.item() == pytest.approx(best)
        assert model.trainer.callback_metrics["valid/f1_weighted"].item() == pytest.approx(scores[best])
        found = softmax(predicted(model, data), axis=1)
        np.testing.assert_allclose(found, models[best].predict_proba(scaler.transform(held)), atol=1e-4)

    @pytest.mark.parametrize("kind", ["multilabel", "binary"])
    def test_names(self, tmp_path, kind):
        data = make_data(kind, tmp_path)
        (x, y), (held, _) = split(data, "train"), split(data, "valid")
        scaler = StandardScaler().fit(x)
        model = fit(kind, tmp_path)
        logits = predicted(model, data)
        if kind == "binary":
            assert not logits[:, 0::2].any()
            logits = logits[:, 1::2]
        for name in range(y.shape[1]):
            one = LogisticRegression(C=1 / model.strength.item(), tol=1e-8, max_iter=50_000)
            expected = one.fit(scaler.transform(x), y[:, name]).decision_function(scaler.transform(held))
            np.testing.assert_allclose(logits[:, name], expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def predicted(model: Linear, data: FusionDataModule) -> np.ndarray:
    """Return the predictions of the validation split, in store order."""
    data.setup("validate")
    return torch.cat([model.eval()(batch).prediction for batch in data.val_dataloader()]).squeeze(1).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_data_decides(tmp_path, kind):
    """Other seeds, orders and sizes of batches, more epochs: equal weights, bit by bit."""
    once = fit(kind, tmp_path).state_dict()
    again = fit(kind, tmp_path, epochs=3, seed=7, data={"batch_size": 5, "seed": 3, "bucketed": True}).state_dict()
    assert list(once) == list(again)
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_training_ends_after_the_choice_and_a_restart_does_not_go_on(tmp_path):
    data = make_data("regression", tmp_path)
    model = Linear(data.spec)
    trainer = run(model, lambda: data, 9)
    assert trainer.current_epoch == 1
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Linear(data.spec)
    assert run(resumed, lambda: data, 9, ckpt_path=tmp_path / "last.ckpt").current_epoch == 1
    assert torch.equal(resumed.head.weight, model.head.weight)


@pytest.mark.parametrize("options", [{}, {"limit_val_batches": 0}])
def test_another_fit_starts_anew(tmp_path, options):
    model = fit("regression", tmp_path)
    path = write_toy_store(tmp_path / "other.h5", make_spec("regression"), train=30, held_out=11)
    other = FusionDataModule(path, batch_size=8)
    run(model, lambda: other, **options)
    fresh = Linear(other.spec)
    run(fresh, lambda: other, **options)
    assert torch.equal(model.head.weight, fresh.head.weight)


def test_validation_within_an_epoch_decides_nothing(tmp_path):
    model = fit("regression", tmp_path, val_check_interval=2)
    assert torch.equal(model.head.weight, fit("regression", tmp_path).head.weight)


def test_without_validation_the_strength_is_one(tmp_path):
    x, y = split(make_data("regression", tmp_path), "train")
    model = fit("regression", tmp_path, limit_val_batches=0)
    expected = Ridge(alpha=1.0).fit(StandardScaler().fit_transform(x), y)
    np.testing.assert_allclose(model.head.weight.detach()[0], expected.coef_, atol=1e-5)
    assert model.strength == 0


def test_the_saved_epoch_has_the_choice(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="valid/mae")
    data = make_data("regression", tmp_path)
    model = Linear(data.spec)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
    )
    trainer.fit(model, datamodule=data)
    again = Linear.load_from_checkpoint(keep.best_model_path)
    assert again.strength == model.strength > 0
    (scores,) = trainer.validate(again, datamodule=data, verbose=False)
    assert scores["valid/mae"] == pytest.approx(keep.best_model_score.item())
    assert torch.equal(again.head.weight, model.head.weight)  # validation outside a training chooses nothing


def test_the_runner_takes_the_one_epoch(tmp_path):
    data = make_data("multilabel", tmp_path)
    outcome = train_and_test(
        Linear(data.spec),
        data,
        Training(),
        1,
        tmp_path,
        stamp="",
        logger=False,
        accelerator="cpu",
        on_epoch=lambda epochs: None,
    )
    assert (outcome.epoch, len(outcome.curve)) == (0, 1)
    assert outcome.prediction.isfinite().all()


# Python from 3.12 on warns of forks of processes with threads; torch's are idle here.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("one_thread")
def test_two_processes_find_the_same_model(tmp_path):
    """41 samples on two processes: the sampler shows one of them twice, which must not count."""
    one = fit("multiclass", tmp_path)
    two = fit("multiclass", tmp_path, strategy="ddp_fork", devices=2)
    assert torch.equal(one.head.weight, two.head.weight)


def test_rows_are_all_together_and_each_alone():
    spec = make_spec()
    assert list(Linear.variants(spec)) == ["", "text", "audio", "vision"]
    assert list(Linear.variants(spec.select(("audio",)))) == [""]
    alone = Linear(spec, config=Linear.Config(modality="audio"))
    assert list(alone.spec.modalities) == ["audio"]
    with pytest.raises(DataError, match="has no modality text"):
        Linear(spec.select(("audio",)), config=Linear.Config(modality="text"))


def test_missing_steps_are_zeros_as_for_other_methods(tmp_path):
    clean = fit("regression", tmp_path)
    missing = fit("regression", tmp_path, data={"corruption": Corruption(steps=1.0)})
    assert clean.head.weight.abs().max() > 0
    assert missing.head.weight.abs().max() == 0


def test_a_constant_feature_is_not_scaled(tmp_path):
    """Its deviation is rounding; divided by that, other data would be sent anywhere."""
    model = Linear(make_spec("regression"))
    batch = make_batch(make_spec("regression"), 20)
    third = torch.tensor(1e4 / 3)
    batch.inputs["audio"].values[..., 0] = third
    batch.inputs["audio"].values[::2, :, 0] = torch.nextafter(third, torch.tensor(torch.inf))
    model.observe(model(batch), batch)
    model._solutions((1.0,))
    constant = 2 * 7  # after the means and deviations of the text
    assert model.scale[constant] == 1.0
    assert model.scale[constant + 1] != 1.0


def test_features_that_are_not_finite_are_refused_by_name(tmp_path):
    model, batch = Linear(make_spec("regression")), make_batch(make_spec("regression"))
    batch.inputs["audio"].values[0, 0, 2] = torch.nan
    model.observe(model(batch), batch)
    with pytest.raises(ValueError, match="1 of the 5 audio features of toy/random/standard are NaN or infinite"):
        model._solutions((1.0,))


def test_tokens_need_an_encoder():
    spec = make_spec("regression")
    tokens = replace(spec, modalities={**spec.modalities, "text": ModalitySpec("text", 30, 6, "tokens")})
    with pytest.raises(ConfigError, match="set text_encoder"):
        Linear(tokens)
    assert list(Linear(tokens, config=Linear.Config(modality="audio")).dims) == ["audio"]


@pytest.mark.parametrize("key", ["linear", "constant"])
def test_settings_of_steps_are_refused(key):
    """They would make a row of their own of the same model."""
    config = method(key).Config
    for name, value in {"lr": 0.1, "weight_decay": 0.1, "gradient_clip": 0.5, "plateau_patience": 3}.items():
        with pytest.raises(ConfigError, match=f"setting '{name}' has no effect on this method"):
            config.parse({name: value})
        assert getattr(config.parse({name: getattr(config(), name)}), name) == getattr(config(), name)
    assert config.parse({"batch_size": 7}).batch_size == 7
