"""A trained method on other stores: the same preparation, every sample once, and clear words when it does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer

from data_modules import DataError, FeatureStore, FusionDataModule, Record, StoreInfo
from data_modules.schema import TargetKind
from data_modules.store import EVERYTHING, UNLABELLED
from data_modules.store_writer import write_store
from data_modules.summary import summary
from mmbench.cli import main
from mmbench.methods import ConfigError, FusionMethod, method
from mmbench.runner.plan import make_plan
from mmbench.runner.predict import load_method, predict
from mmbench.runner.settings import Suite
from tests.methods.factories import KINDS, make_batch, make_spec, write_toy_store


def trained(folder: Path, kind: TargetKind, key: str = "lf_dnn", **options: object) -> tuple[Path, Path, FusionMethod]:
    """Return checkpoint, store and method after an epoch on features that are not centred."""
    spec = make_spec(kind)
    store = write_toy_store(folder / "train.h5", spec)
    data = FusionDataModule(store, batch_size=16, **options)
    torch.manual_seed(0)
    model = method(key)(data.spec)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, default_root_dir=folder, **quiet)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt", store, model.eval()


def unlabelled(path: Path, count: int = 5, shift: float = 3.0, dim: int = 5) -> FeatureStore:
    """Write clips without labels whose features lie elsewhere than those of the training."""
    batch = make_batch(make_spec(), count, seed=9)
    records = []
    for row in range(count):
        inputs = {m: item.values[row, : item.lengths[row]].numpy() + shift for m, item in batch.inputs.items()}
        inputs["audio"] = inputs["audio"][:, :dim]
        records.append(Record(f"clip{row}", inputs, np.zeros(0), transcript=f"take {row}"))
    return write_store(path, StoreInfo("own", "random", UNLABELLED), records, splits=lambda _: {})


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_method_on_inputs_scaled_as_in_training(tmp_path: Path, kind: TargetKind) -> None:
    checkpoint, store, model = trained(tmp_path, kind, normalize="train")
    own = unlabelled(tmp_path / "own.h5")
    table = predict(checkpoint, own.path, batch_size=2, accelerator="cpu")
    assert list(table.index) == list(own.ids)
    assert list(table["transcript"]) == [f"take {row}" for row in range(5)]

    training = FeatureStore(store)
    batch = make_batch(make_spec(), 5, seed=9)
    for name, item in batch.inputs.items():
        values, _ = training.read(name, training.rows("standard", 0)["train"])
        scaled = (item.values + 3.0 - torch.from_numpy(values.mean(0))) / torch.from_numpy(values.std(0))
        item.values = scaled.float() * item.mask.unsqueeze(-1)
    with torch.no_grad():
        raw = model(batch).prediction
    if kind == "regression":
        assert np.allclose(table["sentiment"], raw[:, 0], atol=1e-4)
    elif kind == "multiclass":
        assert np.allclose(table[["p(angry)", "p(happy)", "p(sad)"]], raw.softmax(-1), atol=1e-4)
        assert list(table["label"]) == [("angry", "happy", "sad")[place] for place in raw.argmax(-1)]
        assert np.allclose(table["p"], raw.softmax(-1).max(-1).values, atol=1e-4)
    elif kind == "multilabel":
        chances = raw.sigmoid().numpy()
        assert np.allclose(table[["p(angry)", "p(happy)", "p(sad)"]], chances, atol=1e-4)
        assert (table[["angry", "happy", "sad"]].to_numpy() == (chances > model.thresholds.numpy())).all()
    else:
        assert np.allclose(table["p(sad)"], raw.reshape(-1, 2, 2).softmax(-1)[:, 1, 1], atol=1e-4)
        assert (table["sad"] == (table["p(sad)"] > 0.5)).all()


def test_every_sample_of_a_labelled_store_is_predicted_in_store_order(tmp_path: Path) -> None:
    checkpoint, store, model = trained(tmp_path, "regression")
    table = predict(checkpoint, store, accelerator="cpu")
    assert list(table.index) == list(FeatureStore(store).ids)
    data = FusionDataModule(store, batch_size=1)
    data.setup("test")
    with torch.no_grad():
        expected = torch.cat([model(batch).prediction[:, 0] for batch in data.test_dataloader()])
    assert np.allclose(table["sentiment"].iloc[-8:], expected, atol=1e-5)


def test_a_checkpoint_of_a_trial_scores_clips_without_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_toy_store(tmp_path / "data" / "toy.h5", make_spec("multiclass"))
    command = ["run", "--method", "lf_dnn", "--dataset", "toy", "--seeds", "1", "--max-epochs", "1", "--jobs", "1"]
    assert main([*command, "--accelerator", "cpu"]) == 0
    (checkpoint,) = (tmp_path / "runs").rglob("*.ckpt")
    own = unlabelled(tmp_path / "own.h5")
    command = ["predict", "--checkpoint", str(checkpoint), "--data", str(own.path), "--accelerator", "cpu"]
    assert main([*command, "--out", "said.csv"]) == 0
    table = pd.read_csv("said.csv")
    assert list(table["id"]) == [f"clip{row}" for row in range(5)]
    assert set(table["label"]) <= {"angry", "happy", "sad"}


def test_a_store_without_labels_is_shown_and_not_trained_on(tmp_path: Path) -> None:
    own = unlabelled(tmp_path / "own.h5")
    assert summary(own).to_dict()["protocols"] == {}
    data = FusionDataModule(own.path)
    assert (data.protocol, data.spec.target) == (EVERYTHING, UNLABELLED)
    with pytest.raises(DataError, match="can be predicted, not trained on"):
        data.setup("fit")
    with pytest.raises(ConfigError, match="has no splits"):
        make_plan(Suite("default"), dataset="own", path=own.path, methods_wanted=["lf_dnn"])


def test_a_store_with_other_features_is_refused(tmp_path: Path) -> None:
    checkpoint, _, _ = trained(tmp_path, "regression")
    own = unlabelled(tmp_path / "own.h5", dim=4)
    with pytest.raises(ConfigError, match=r"its audio has the dim 4 instead of 5\. Extract the same features"):
        predict(checkpoint, own.path, accelerator="cpu")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no checkpoint at"):
        load_method(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ConfigError, match="is no checkpoint that `mmbench run` wrote"):
        load_method(tmp_path / "text.ckpt")
    torch.save({"method": "Foreign", "preparation": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ConfigError, match="is of the method Foreign, which is not among"):
        load_method(tmp_path / "foreign.ckpt")
