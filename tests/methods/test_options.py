"""What a Trainer is asked for and methods do themselves is answered; everything else works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision

from data_modules import FusionDataModule
from mmbench.methods import ConfigError, method
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods.training import fit

SHORT = {"unimodal_epochs": 0, "cross_epochs": 1, "fused_epochs": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_store(tmp_path_factory.mktemp("options") / "toy.h5", make_spec(), train=24, held_out=8)


def trained(store: Path, folder: Path, key: str = "lf_dnn", epochs: int = 1, **options: object) -> Trainer:
    data = FusionDataModule(store, batch_size=8)
    cls = method(key)
    model = cls(data.spec, config=cls.Config.parse(SHORT if key == "mvcl" else {}))
    return fit(model, lambda: data, epochs, default_root_dir=folder, **options)


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("lf_dnn", {"gradient_clip_val": 0.5}, r"give LFDNN\.Config\(gradient_clip=0\.5\) instead of Trainer\(grad"),
        ("lf_dnn", {"gradient_clip_val": 2, "gradient_clip_algorithm": "value"}, "norm of the whole gradient"),
        ("lf_dnn", {"accumulate_grad_batches": 4}, "give the data a batch_size that is 4 times as large"),
        ("emt_dlfr", {"accumulate_grad_batches": 4}, r"give EMTDLFR\.Config\(accumulate=4\)"),
        ("lf_dnn", {"precision": "16-true"}, r"precision='16-true'\): give one of 32-true, 64-true, bf16-mixed"),
        ("lf_dnn", {"precision": "bf16-true"}, "give one of 32-true"),
        ("lf_dnn", {"overfit_batches": 1}, "give the data `limit`"),
    ],
)
def test_what_methods_do_themselves_is_answered(
    store: Path, tmp_path: Path, key: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(store, tmp_path, key, **options)


def test_scaled_gradients_are_refused_wherever_training_begins(store: Path, tmp_path: Path) -> None:
    """Lightning has them on GPUs only, so the plugin is given here; the runner refuses the word."""
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(ConfigError, match=r"16-mixed.*would be clipped at the wrong norm"):
        trained(store, tmp_path, plugins=[scaled])


def test_a_trainer_that_only_tests_is_not_asked(store: Path, tmp_path: Path) -> None:
    data = FusionDataModule(store, batch_size=8)
    trainer = Trainer(
        accelerator="cpu",
        gradient_clip_val=0.5,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    assert "test/mae" in trainer.test(method("lf_dnn")(data.spec), data, verbose=False)[0]


@pytest.mark.parametrize(
    ("key", "epochs", "options", "steps"),
    [
        ("lf_dnn", 2, {"limit_train_batches": 2}, 4),
        ("lf_dnn", 2, {"max_steps": 4}, 4),
        ("lf_dnn", 2, {"val_check_interval": 2}, 6),
        ("lf_dnn", 2, {"limit_val_batches": 0}, 6),
        ("lf_dnn", 2, {"precision": "bf16-mixed"}, 6),
        ("lf_dnn", 1, {"fast_dev_run": True}, 1),
        ("mvcl", 1, {"fast_dev_run": True}, 1),  # two epochs of which prepare
        ("mmim", 1, {"fast_dev_run": 4}, 4),  # two passes of three batches
    ],
)
def test_other_options_of_a_trainer_work(
    store: Path, tmp_path: Path, key: str, epochs: int, options: dict[str, object], steps: int
) -> None:
    assert trained(store, tmp_path, key, epochs, **options).global_step == steps
