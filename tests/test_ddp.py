"""Two processes: the same scores as one, every sample counted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Trainer

from data_modules import FeatureStore, FusionDataModule
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.methods import method

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store whose splits two processes cannot share evenly."""
    return write_synthetic(tmp_path_factory.mktemp("stores") / "odd.h5", samples=(37, 13, 21))


def trainer(folder: Path, processes: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


@pytest.mark.parametrize("key", ["late_fusion", "constant"])
def test_training_and_testing_in_two_processes(odd_store: FeatureStore, tmp_path: Path, key: str) -> None:
    """The trained weights come back; tested by one process or by two they give the same scores."""
    data = FusionDataModule(odd_store.path, batch_size=4)
    torch.manual_seed(0)
    model = method(key)(data.spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(tmp_path, 2).fit(model, data)
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    scores = []
    for processes in (1, 2):
        run = trainer(tmp_path, processes)
        run.test(model, FusionDataModule(odd_store.path, batch_size=4), verbose=False)
        scores.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)


def test_the_constant_is_that_of_all_samples(odd_store: FeatureStore, tmp_path: Path) -> None:
    """The median of the whole split, although a process sees one half of it, and a sample twice."""
    data = FusionDataModule(odd_store.path, batch_size=4)
    model = method("constant")(data.spec)
    trainer(tmp_path, 2).fit(model, data)
    targets = torch.from_numpy(odd_store.targets[odd_store.rows("standard", 0)["train"]])
    data.setup("test")
    found = model(next(iter(data.test_dataloader()))).prediction[0].item()
    assert found == targets.median().item()
