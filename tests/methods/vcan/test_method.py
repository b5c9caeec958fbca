"""VCAN's classifier group: what it learns from frames, and how frames and networks vote."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_modules.batches.data_module import FusionDataModule
from data_modules.features.keyframes import keyframe_store
from data_modules.schema import Batch, PaddedSequence
from mmbench.methods import ConfigError, method
from mmbench.methods.vcan import VCAN
from mmbench.testing.builders import make_batch, make_spec, padded, with_garbage, write_toy_store
from tests.methods.parts import count
from tests.methods.training import fit

pytest.importorskip("transformers")

KINDS = {"vision": "frames", "audio": "waveform"}
SPEC = make_spec("multiclass", ("audio", "vision"), kinds=KINDS)
SMALL = {"classifiers": "tiny,tiny", "size": 24, "lr": 5e-3, "batch_size": 8}


def build(**settings: object) -> VCAN:
    torch.manual_seed(0)
    model = VCAN(SPEC, config=VCAN.Config.parse(SMALL | settings))
    with torch.no_grad():  # so that frames differ in their probabilities
        for classifier in model.group.classifiers:
            classifier.classifier[-1].weight *= 30
    return model


def frames_of(batch: Batch) -> list[torch.Tensor]:
    vision = batch.inputs["vision"]
    return [values[:length] for values, length in zip(vision.values, vision.lengths, strict=True)]


def test_clip_probability_is_the_mean_over_frames_and_networks():
    model, batch = build().eval(), make_batch(SPEC)
    found = model(batch).prediction.softmax(-1)
    for row, frames in enumerate(frames_of(batch)):
        votes = [
            classifier(pixel_values=model.group.images(frame[None])).logits.softmax(-1)[0]
            for frame in frames
            for classifier in model.group.classifiers
        ]
        torch.testing.assert_close(found[row], torch.stack(votes).mean(0))
        assert torch.stack(votes).std(0).max() > 1e-3


def test_group_probability_is_the_mean_of_the_networks():
    model, batch = build().eval(), make_batch(SPEC)
    whole, classifiers = model(batch).prediction.exp(), model.group.classifiers
    parts = []
    for number in range(2):
        model.group.classifiers = classifiers[number : number + 1]
        parts.append(model(batch).prediction.exp())
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)
    assert (parts[0] - parts[1]).abs().max() > 1e-3


def test_prediction_is_the_logarithm_of_the_vote():
    """So its softmax is the vote itself, and its cross-entropy that of the vote."""
    model, batch = build().eval(), make_batch(SPEC)
    prediction = model(batch).prediction
    torch.testing.assert_close(prediction.exp().sum(-1), torch.ones(4))
    torch.testing.assert_close(prediction.softmax(-1), prediction.exp())
    expected = -prediction.exp()[torch.arange(4), batch.target].log().mean()
    torch.testing.assert_close(model.task.loss(prediction, batch), expected)


def test_sure_networks_give_finite_predictions():
    model, batch = build().eval(), make_batch(SPEC)
    with torch.no_grad():
        for classifier in model.group.classifiers:
            classifier.classifier[-1].bias += torch.tensor([0.0, 500.0, 0.0])
    assert model(batch).prediction.isfinite().all()


def test_double_precision_is_kept():
    model, batch = build().eval().double(), make_batch(SPEC)
    assert model(batch).prediction.dtype == torch.float64


def test_order_of_frames_does_not_matter():
    model, batch = build().eval(), make_batch(SPEC)
    frames = [clip.flip(0) for clip in frames_of(batch)]
    values = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)
    turned = replace(batch, inputs={"vision": PaddedSequence(values, batch.inputs["vision"].lengths)})
    torch.testing.assert_close(model(turned).prediction, model(batch).prediction)


def test_loss_is_the_mean_over_all_frames_and_networks():
    """A clip of more frames weighs more, as each frame is an example of its own."""
    model, batch = build().eval(), make_batch(SPEC)
    losses = [
        torch.nn.functional.cross_entropy(
            classifier(pixel_values=model.group.images(frame[None])).logits, batch.target[row, None]
        )
        for row, frames in enumerate(frames_of(batch))
        for frame in frames
        for classifier in model.group.classifiers
    ]
    terms = model.objective(model(batch), batch)
    assert set(terms) == {"task"}
    torch.testing.assert_close(terms["task"], torch.stack(losses).mean())
    assert len(losses) == 2 * int(batch.inputs["vision"].lengths.sum())


def test_padding_has_no_part_in_training():
    """Neither in the loss nor in the statistics of the normalisation."""
    batch = make_batch(SPEC)
    found = []
    for seen in (batch, with_garbage(padded(batch, 5))):
        model = build().train()
        loss = model.objective(model(seen), seen)["task"]
        found.append((loss.detach(), [buffer.clone() for buffer in model.group.buffers()]))
    torch.testing.assert_close(found[0], found[1])


def test_sound_and_text_are_not_read():
    spec = make_spec("multiclass", ("text", "audio", "vision"), kinds=KINDS)
    model = VCAN(spec, config=VCAN.Config.parse(SMALL)).eval()
    assert set(model.spec.modalities) == {"vision"}
    batch = make_batch(spec)
    alone = replace(batch, inputs={"vision": batch.inputs["vision"]})
    assert torch.equal(model(batch).prediction, model(alone).prediction)


def test_more_classifiers_make_a_larger_group():
    sizes = [count(build(classifiers=names)) for names in ("tiny", "tiny, tiny", "tiny,tiny,tiny")]
    assert sizes == [sizes[0], 2 * sizes[0], 3 * sizes[0]]


def test_default_group_is_the_three_published_networks():
    with torch.device("meta"):
        model = VCAN(SPEC)
    counts = [count(network) for network in model.group.classifiers]
    # with 1000 classes 11,689,512, 3,504,872 and 5,288,548; the last layers see 512, 1280 and 1280 features
    assert counts == [11_689_512 - 997 * 513, 3_504_872 - 997 * 1281, 5_288_548 - 997 * 1281]
    assert (model.config.lr, model.config.size, model.config.pretrained) == (1e-4, 224, False)


@pytest.mark.parametrize("names", ["", "tiny,", "resnet81", "tiny,vgg"])
def test_unknown_classifiers_are_refused(names):
    with pytest.raises(ConfigError, match=r"VCAN: setting 'classifiers' has '.*'; give names of resnet18"):
        VCAN.Config.parse({"classifiers": names})


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (make_spec("multiclass", ("audio",), kinds=KINDS), "needs the modality 'vision'"),
        (make_spec("multiclass"), "reads vision as frames, and here it is features"),
        (make_spec("regression", ("vision",), kinds=KINDS), "predicts multiclass targets"),
    ],
)
def test_data_that_do_not_fit_are_refused(spec, reason):
    with pytest.raises(ConfigError, match=reason):
        VCAN(spec, config=VCAN.Config.parse(SMALL))


def test_from_sound_to_key_frames_to_predictions(tmp_path):
    """A raw store becomes one of key frames, on which the group trains and predicts through the data module."""
    raw = write_toy_store(tmp_path / "raw.h5", SPEC, train=4, held_out=1)
    store = keyframe_store(raw, tmp_path / "key.h5")
    frames = {row: len(store.read("vision", np.array([row]))[0]) for row in range(len(store))}
    assert all(1 <= count <= 8 for count in frames.values())

    def data() -> FusionDataModule:
        return FusionDataModule(store.path, batch_size=2, workers=0)

    spec = data().spec
    assert spec.track == "toy/random-keyframes/standard"
    model = VCAN(spec, config=VCAN.Config.parse(SMALL))
    trainer = fit(model, data, epochs=2)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    predicted = trainer.predict(model, datamodule=data())
    assert torch.cat([prediction for _, prediction in predicted]).exp().sum(-1).tolist() == pytest.approx([1.0])


def test_it_is_not_the_feature_method():
    raw, feature = method("vcan").card, method("vcan_feature").card
    assert raw.title != feature.title
    assert "Feature-level" in feature.title
    assert {raw.fidelity, feature.fidelity} == {"abstract"}
    assert feature.code is None
    assert raw.published == feature.published == ()
