"""A trained method on other stores: the same preparation, every sample once, and clear words when it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data_modules import DataError, DataSpec, FeatureStore, FusionDataModule, Sample, StoreInfo
from data_modules.schema import TargetKind
from data_modules.store import EVERYTHING, UNLABELLED, write_store
from data_modules.store.summary import summary
from mmbench.cli import main
from mmbench.methods import ConfigError, FusionMethod, method
from mmbench.methods.vcan import VCAN
from mmbench.runner.plan import make_plan
from mmbench.runner.predict import load_method, other_sources, predict
from mmbench.runner.settings import Suite
from mmbench.testing.builders import KINDS, make_batch, make_spec, write_toy_store
from tests.methods.training import fit


def trained(
    folder: Path,
    kind: TargetKind,
    key: str = "lf_dnn",
    spec: DataSpec | None = None,
    config: Mapping[str, Any] = MappingProxyType({}),
    **options: object,
) -> tuple[Path, Path, FusionMethod]:
    """Return checkpoint, store and method after an epoch on features that are not centred."""
    store = write_toy_store(folder / "train.h5", spec or make_spec(kind))
    data = FusionDataModule(store, batch_size=16, **options)
    torch.manual_seed(0)
    cls = method(key)
    model = cls(data.spec, config=cls.Config.parse(config))
    trainer = fit(model, lambda: data, default_root_dir=folder)
    trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt", store, model.eval()


def unlabelled(
    path: Path, count: int = 5, shift: float = 3.0, dim: int = 5, without: str = "", **info: Any
) -> FeatureStore:
    """Write clips without labels whose features lie elsewhere than those of the training."""
    batch = make_batch(make_spec(), count, seed=9)
    records = []
    for row in range(count):
        inputs = {m: item.values[row, : item.lengths[row]].numpy() + shift for m, item in batch.inputs.items()}
        inputs["audio"] = inputs["audio"][:, :dim]
        inputs.pop(without, None)
        records.append(Sample(f"clip{row}", inputs, np.zeros(0), transcript=f"take {row}"))
    return write_store(path, StoreInfo("own", "random", UNLABELLED, **info), records, splits=lambda _: {})


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


def test_a_store_that_lacks_a_modality_or_its_time_axis_is_refused(tmp_path: Path) -> None:
    checkpoint, _, _ = trained(tmp_path, "regression")
    own = unlabelled(tmp_path / "own.h5", without="vision")
    with pytest.raises(ConfigError, match=r"own\.h5 was not made as .*: it has no vision\. Extract the same"):
        predict(checkpoint, own.path, accelerator="cpu")
    together = replace(make_spec(), aligned=True)
    checkpoint, _, _ = trained(tmp_path, "regression", spec=together)
    own = unlabelled(tmp_path / "own.h5")
    with pytest.raises(ConfigError, match="its modalities do not share one time axis"):
        predict(checkpoint, own.path, accelerator="cpu")


def test_features_of_another_extractor_are_warned_of(tmp_path: Path) -> None:
    """As many columns may mean something else."""
    sources = {"text": "BERT", "vision": "action units"}
    spec = make_spec()
    spec = replace(
        spec, modalities={m: replace(item, source=sources.get(m, "")) for m, item in spec.modalities.items()}
    )
    given = {m: replace(item, source="") for m, item in spec.modalities.items()}
    given |= {"text": replace(given["text"], source="RoBERTa"), "audio": replace(given["audio"], source="mel")}
    assert other_sources(spec, replace(spec, modalities=given)) == [
        "text of the training is 'BERT', and here it is 'RoBERTa'"
    ]
    checkpoint, _, _ = trained(tmp_path, "regression")
    saved = torch.load(checkpoint, weights_only=True)
    saved["hyper_parameters"]["spec"] = spec.to_dict()
    torch.save(saved, checkpoint)
    own = unlabelled(tmp_path / "own.h5", sources={"text": "RoBERTa"})
    with pytest.warns(UserWarning, match="text of the training is 'BERT', and here it is 'RoBERTa'"):
        assert len(predict(checkpoint, own.path, accelerator="cpu")) == 5


def test_what_a_method_does_not_read_may_be_otherwise(tmp_path: Path) -> None:
    checkpoint, _, model = trained(tmp_path, "regression", "constant", normalize="train")
    own = unlabelled(tmp_path / "own.h5", dim=2, without="text")
    table = predict(checkpoint, own.path, accelerator="cpu")
    assert np.allclose(table["sentiment"], model.constant.item())


def test_batches_are_as_large_as_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one accelerator can hold of frames, no default of another size knows."""
    checkpoint, store, model = trained(tmp_path, "regression", config={"batch_size": 20})
    sizes = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, batch: sizes.append(batch.size) or forward(self, batch))
    predict(checkpoint, store, accelerator="cpu")
    predict(checkpoint, store, batch_size=45, accelerator="cpu")
    assert sizes == [20, 20, 8, 45, 3]


def test_utterances_of_dialogues_are_predicted_in_their_dialogue(tmp_path: Path) -> None:
    spec = make_spec("multiclass", dialogue=True)
    checkpoint, store, model = trained(
        tmp_path, "multiclass", "emotion_shift", spec, {"siamese_epochs": 0}, dialogue=True
    )
    table = predict(checkpoint, store, accelerator="cpu")
    assert list(table.index) == list(FeatureStore(store).ids)
    data = FusionDataModule(store, dialogue=True, batch_size=1)
    data.setup("test")
    with torch.no_grad():
        found = {
            int(row): chances
            for batch in data.test_dataloader()
            for row, chances in zip(batch.index[0], model(batch).prediction[0].softmax(-1), strict=True)
        }
    tested = table.iloc[list(found)][[f"p({name})" for name in spec.target.names]]
    assert np.allclose(tested, torch.stack(list(found.values())), atol=1e-5)


def test_media_are_predicted_by_what_reads_them(tmp_path: Path) -> None:
    """Text, which the method does not use, may be missing."""
    spec = make_spec("multiclass", kinds={"audio": "waveform", "vision": "frames"})
    store = write_toy_store(tmp_path / "train.h5", spec, train=6, held_out=3)
    data = FusionDataModule(store, batch_size=3, workers=0)
    model = VCAN(data.spec, config=VCAN.Config.parse({"classifiers": "tiny", "size": 16}))
    fit(model, lambda: data, default_root_dir=tmp_path).save_checkpoint(tmp_path / "model.ckpt")
    data.setup("test")
    with torch.no_grad():
        expected = torch.cat([model.eval()(batch).prediction.softmax(-1) for batch in data.test_dataloader()])
    table = predict(tmp_path / "model.ckpt", store, accelerator="cpu")
    assert np.allclose(table.iloc[-3:, 2:], expected, atol=1e-5)
    alone = replace(spec, modalities={"vision": spec.modalities["vision"]})
    silent = write_toy_store(tmp_path / "silent.h5", alone, train=6, held_out=3)
    assert predict(tmp_path / "model.ckpt", silent, accelerator="cpu").shape == table.shape


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no checkpoint at"):
        load_method(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.ckpt is no checkpoint, or a damaged one"):
        load_method(tmp_path / "text.ckpt")
    torch.save({"method": "Foreign", "hyper_parameters": {}, "state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ConfigError, match=r"is of the method Foreign, which is not among .* by --plugin\.$"):
        load_method(tmp_path / "foreign.ckpt")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda saved: saved.pop("preparation"), "does not say how inputs were scaled: train with"),
        (lambda saved: saved["preparation"].update(normalize="some"), "'normalize' is 'some'"),
        (lambda saved: saved["preparation"].pop("tokenizer"), "'tokenizer' is None"),
        (lambda saved: saved["preparation"].pop("scales"), "'scales' is None"),
        (lambda saved: saved["preparation"]["scales"].pop("audio"), "the scales of audio are not twice 5 finite"),
        (
            lambda saved: saved["preparation"]["scales"]["text"][1].fill_(torch.nan),
            "the scales of text are not twice 7",
        ),
        (lambda saved: saved["preparation"]["scales"]["text"][1].fill_(-1), "the scales of text are not twice 7"),
        (lambda saved: saved.update(method=3), "does not say of which method it is"),
        (lambda saved: saved["state_dict"]["thresholds"].fill_(torch.nan), "thresholds"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    checkpoint, store, _ = trained(tmp_path, "multilabel", normalize="train")
    saved = torch.load(checkpoint, weights_only=True)
    edit(saved)
    torch.save(saved, checkpoint)
    with pytest.raises(ConfigError, match=message) as caught:
        predict(checkpoint, store, accelerator="cpu")
    assert "model.ckpt" in str(caught.value)


def test_an_accelerator_that_is_none_is_named(tmp_path: Path) -> None:
    checkpoint, store, _ = trained(tmp_path, "regression")
    with pytest.raises(ConfigError, match="cannot predict with --accelerator warp"):
        predict(checkpoint, store, accelerator="warp")
