"""Emotion-Shift in training: the preparation of the detector, and what weighs how much."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from data_modules.batches.data_module import FusionDataModule
from mmbench.methods import ConfigError
from mmbench.methods.emotion_shift import EmotionShift
from mmbench.testing.builders import make_spec, write_toy_store
from tests.golden.cases import snapshot
from tests.methods.emotion_shift.test_method import build, sample
from tests.methods.training import assert_resumes, fit, step

frozen_on_purpose = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*")


def data_of(folder, kind):
    path = folder / f"{kind}.h5"
    if not path.is_file():
        write_toy_store(path, make_spec(kind, dialogue=True), train=12, held_out=3)
    return partial(FusionDataModule, path, batch_size=5, dialogue=True)


# Phases


def test_preparation_comes_first():
    phases = build(siamese_epochs=4).phases
    assert [(phase.name, phase.optimizer, phase.start, phase.stop) for phase in phases] == [
        ("siamese", "siamese", 0, 4),
        ("joint", "main", 4, None),
    ]
    for settings in ({"siamese_epochs": 0}, {"use_shift": False}):
        assert [phase.name for phase in build(**settings).phases] == ["joint"]
        assert set(build(**settings).parameter_groups()) == {"main"}


def test_preparation_trains_the_detector_on_pairs_alone():
    method = build().train()
    terms, gradients, output = step(method, sample())
    assert set(terms) == {"shift"}
    reached = {name for name, gradient in gradients.items() if gradient is not None}
    assert reached == {"network.detector.classifier.weight", "network.detector.classifier.bias"}
    groups = method.parameter_groups()
    assert [(group["lr"], group["weight_decay"]) for group in groups["siamese"]] == [(2e-5, 0.0)]
    assert {id(p) for p in groups["siamese"][0]["params"]} == {id(p) for p in method.network.detector.parameters()}
    assert len(groups["main"][0]["params"]) == len(list(method.parameters()))
    alone = sample(size=3)
    alone.inputs["text"].lengths[:] = 1  # no pairs: nothing to learn, and nothing that breaks
    alone.target_mask[:, 1:] = False
    terms, _, _ = step(method, replace(alone, inputs={m: replace(s) for m, s in alone.inputs.items()}))
    assert terms["shift"] == 0
    assert output.prediction.shape == (6, 5, 3)


def test_epochs_of_preparation_move_the_detector_only(folder):
    class Watched(EmotionShift):
        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            self.seen = [*getattr(self, "seen", []), snapshot(self)]

    template = build(siamese_epochs=2, siamese_lr=1e-2)
    method = Watched(template.spec, config=template.config)
    before = snapshot(method)
    fit(method, data_of(folder, "multiclass"), epochs=3)
    detector = {"network.detector.classifier.weight", "network.detector.classifier.bias"}
    assert {name for name, value in method.seen[1].items() if not torch.equal(value, before[name])} == detector
    joint = {name for name, value in method.seen[2].items() if not torch.equal(value, method.seen[1][name])}
    assert joint == set(before)


def test_too_few_epochs_are_refused(folder):
    with pytest.raises(ConfigError, match="prepares for 2 epochs"):
        fit(build(siamese_epochs=2), data_of(folder, "multiclass"), epochs=2)


def test_the_prepared_detector_finds_shifts():
    """On pairs whose distance tells a shift the preparation alone brings the loss down."""
    method = build(siamese_epochs=1).train()
    batch = sample(size=24)
    optimizer = torch.optim.Adam(method.parameter_groups()["siamese"][0]["params"], lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(method.objective(method(batch), batch)["shift"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_run_ends_like_an_uninterrupted_one(folder, tmp_path):
    assert_resumes(lambda: build(siamese_epochs=2), data_of(folder, "multiclass"), 4, tmp_path)


# Weights of classes


def expected_weights(store, rows):
    """Return counts of classes, of pairs and of shifts, by loops over the store."""
    classes, pairs, shifts, last = [0, 0, 0], 0, 0, {}
    for row in rows:
        label, group = int(store.targets[row]), store.groups[row]
        classes[label] += 1
        if group in last:
            pairs += 1
            shifts += (label == 1) != (last[group] == 1)  # angry, happy, sad
        last[group] = label
    return classes, pairs, shifts


def test_weights_are_the_inverse_frequencies_of_the_training_split(folder, tmp_path):
    data, method = data_of(folder, "multiclass"), build(siamese_epochs=1)
    trainer = fit(method, data, epochs=2)
    module = data()
    classes, pairs, shifts = expected_weights(module.store, module.rows["train"])
    assert min(classes) > 0
    torch.testing.assert_close(method.class_weights, sum(classes) / torch.tensor(classes))
    torch.testing.assert_close(method.shift_weights, pairs / torch.tensor([shifts, pairs - shifts]))
    trainer.save_checkpoint(tmp_path / "w.ckpt")
    again = EmotionShift.load_from_checkpoint(tmp_path / "w.ckpt")
    assert torch.equal(again.class_weights, method.class_weights)
    assert torch.equal(again.shift_weights, method.shift_weights)


def test_a_process_that_trains_on_a_share_weighs_by_the_whole_split(folder):
    class Share(FusionDataModule):
        def train_dataloader(self):
            loader = super().train_dataloader()
            loader.rank, loader.world = 1, 4
            return loader

    whole, share = (build(siamese_epochs=0) for _ in range(2))
    fit(whole, data_of(folder, "multiclass"))
    fit(share, partial(Share, *data_of(folder, "multiclass").args, batch_size=5, dialogue=True))
    assert torch.equal(share.class_weights, whole.class_weights)
    assert torch.equal(share.shift_weights, whole.shift_weights)


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_each_name_has_its_own_weights(folder, kind):
    data, method = data_of(folder, kind), build(kind, siamese_epochs=0)
    fit(method, data)
    module = data()
    labels = module.store.targets[module.rows["train"]]
    share = np.stack([(labels == 0).mean(0), (labels == 1).mean(0)], -1)
    torch.testing.assert_close(method.class_weights, torch.from_numpy(1 / share).float())


def test_weights_are_equal_if_asked_for_or_where_no_training_split_is_known(folder):
    method = build(siamese_epochs=0, balanced=False)
    fit(method, data_of(folder, "multiclass"))
    assert torch.equal(method.class_weights, torch.ones(3))
    assert torch.equal(method.shift_weights, torch.ones(2))
    module = data_of(folder, "multiclass")()
    module.setup("fit")
    plain = build(siamese_epochs=0)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    trainer = Trainer(accelerator="cpu", enable_model_summary=False, **options)
    trainer.fit(plain, module.train_dataloader(), module.val_dataloader())
    assert torch.equal(plain.class_weights, torch.ones(3))


def test_same_speaker_pairs_are_counted_where_they_are_compared(folder):
    counts = {}
    for scope in ("dialogue", "same_speaker"):
        method = build(siamese_epochs=0, shift_scope=scope)
        fit(method, data_of(folder, "multiclass"))
        counts[scope] = method.shift_weights
    assert not torch.equal(*counts.values())


def test_a_dialogue_of_scores_trains_too(folder):
    method = build("regression", siamese_epochs=1)
    trainer = fit(method, data_of(folder, "regression"), epochs=2)
    assert trainer.callback_metrics["valid/mae"].isfinite()
    assert (method.shift_weights > 1).all()
