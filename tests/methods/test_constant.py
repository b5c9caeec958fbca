from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.dummy import DummyClassifier

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import Batch, ModalitySpec
from mmbench.methods import ConfigError
from mmbench.methods.constant import Constant, best_constant
from mmbench.tasks import Task
from mmbench.testing.builders import KINDS, make_batch, make_spec, write_toy_store


def fit(kind: str, folder: Path, **options: object) -> tuple[Constant, FusionDataModule, Trainer]:
    spec = make_spec(kind)
    data = FusionDataModule(write_toy_store(folder / "toy.h5", spec, train=33, held_out=9), batch_size=8)
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    trainer = Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    model = Constant(data.spec)
    trainer.fit(model, datamodule=data)
    return model, data, trainer


@pytest.mark.parametrize("kind", KINDS)
def test_no_other_constant_has_less_loss(kind):
    """Gradient descent on the task loss, from the constant and from elsewhere, finds nothing better."""
    target = make_batch(make_spec(kind), 41, seed=3).target
    task = Task(make_spec(kind).target)
    batch = Batch({}, target, torch.arange(41))

    def loss(constant: torch.Tensor) -> torch.Tensor:
        return task.loss(constant.float().expand(41, -1), batch)

    best = best_constant(kind, target, task.outputs)
    assert best.shape == (task.outputs,)
    for start in (best, torch.zeros_like(best)):
        other = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([other], lr=0.02)
        for _ in range(300):
            optimiser.zero_grad()
            loss(other).backward()
            optimiser.step()
            assert loss(best) <= loss(other) + 1e-4
        assert loss(other) < loss(best) + 5e-3


def test_regression_takes_the_median():
    assert best_constant("regression", torch.tensor([-3.0, 0.5, 1.0, 2.5, 2.5]), 1).tolist() == [1.0]
    columns = torch.tensor([[0.0, 5.0], [1.0, 6.0], [9.0, -4.0]])
    assert best_constant("regression", columns, 2).tolist() == [1.0, 5.0]


def test_classes_take_their_log_frequencies():
    target = torch.tensor([0, 2, 2, 2, 1, 0])
    expected = DummyClassifier(strategy="prior").fit(torch.zeros(6, 1), target).predict_log_proba(torch.zeros(1, 1))[0]
    torch.testing.assert_close(best_constant("multiclass", target, 3), torch.from_numpy(expected))


def test_labels_take_their_log_odds_and_binary_targets_two_log_frequencies():
    target = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0]])
    share = torch.tensor([0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(best_constant("multilabel", target.float(), 2), torch.log(share / (1 - share)))
    expected = torch.tensor([0.75, 0.25, 0.75, 0.25], dtype=torch.float64).log()
    torch.testing.assert_close(best_constant("binary", target, 4), expected)


def test_what_never_occurs_counts_as_half_a_sample():
    half = torch.tensor(0.5 / 4, dtype=torch.float64)
    multiclass = best_constant("multiclass", torch.tensor([0, 0, 2, 2]), 3)
    torch.testing.assert_close(multiclass[1], half.log())
    multilabel = best_constant("multilabel", torch.tensor([[0.0, 1.0]] * 4), 2)
    torch.testing.assert_close(multilabel, torch.stack([half.logit(), (1 - half).logit()]))


def test_training_finds_the_median_of_the_training_targets_in_one_epoch(tmp_path):
    """Over unequal batches; validation of that epoch already uses it; the validation targets have no part in it."""
    model, data, trainer = fit("regression", tmp_path)
    targets = {name: data.store.targets[rows] for name, rows in data.store.rows("standard", 0).items()}
    median = torch.tensor(targets["train"]).median()
    assert model.constant.item() == median.item()
    expected = (torch.tensor(targets["valid"]) - median).abs().mean()
    assert abs(expected - torch.tensor(targets["valid"]).abs().mean()) > 1e-3  # what the initial zero would score
    torch.testing.assert_close(trainer.callback_metrics["valid/mae"], expected)


def test_steps_do_not_move_the_constant(tmp_path):
    """The loss of the first epoch is that of the initial zero throughout."""
    _, data, trainer = fit("regression", tmp_path)
    train = torch.tensor(data.store.targets[data.store.rows("standard", 0)["train"]])
    torch.testing.assert_close(trainer.callback_metrics["train/loss"], train.abs().mean())


def test_training_without_validation_fits_too(tmp_path):
    model, data, _ = fit("regression", tmp_path, limit_val_batches=0)
    train = data.store.targets[data.store.rows("standard", 0)["train"]]
    assert model.constant.item() == torch.tensor(train).median().item()


def test_more_epochs_change_nothing(tmp_path):
    once, _, _ = fit("multiclass", tmp_path)
    often, _, _ = fit("multiclass", tmp_path, max_epochs=3)
    assert torch.equal(once.constant, often.constant)


def test_batches_of_another_loader_have_no_training_split(tmp_path):
    batches = [make_batch(make_spec("regression"))]
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=r"Constant is found from the labels.*trainer\.fit\(method, datamodule"):
        trainer.fit(Constant(make_spec("regression")), batches, batches)


def test_best_epoch_is_saved(tmp_path):
    """Lightning's checkpoint callback skips models that never stepped; the constant must not be skipped."""
    keep = ModelCheckpoint(tmp_path / "kept", monitor="valid/mae")
    model, _, _ = fit("regression", tmp_path, enable_checkpointing=True, callbacks=[keep])
    again = Constant.load_from_checkpoint(keep.best_model_path)
    assert torch.equal(again.constant, model.constant)


def test_validation_before_training_leaves_the_constant_alone(tmp_path):
    spec = make_spec("regression")
    data = FusionDataModule(write_toy_store(tmp_path / "toy.h5", spec), batch_size=8)
    model = Constant(spec)
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path).validate(
        model, datamodule=data, verbose=False
    )
    assert model.constant.item() == 0.0


# Python from 3.12 on warns of forks of processes with threads; torch's are idle here.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.usefixtures("one_thread")
def test_two_processes_find_the_same_constant(tmp_path):
    """33 samples on two processes: the sampler shows one of them twice, which must not count."""
    one, _, _ = fit("regression", tmp_path / "one")
    two, _, _ = fit("regression", tmp_path / "two", strategy="ddp_fork", devices=2)
    assert torch.equal(one.constant, two.constant)


def test_text_tokens_need_no_encoder():
    spec = make_spec("regression")
    tokens = replace(spec, modalities={"text": ModalitySpec("text", 30, 6, "tokens")})
    assert Constant(tokens).text_encoder is None
