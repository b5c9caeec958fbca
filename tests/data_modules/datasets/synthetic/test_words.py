"""Generated words: transcripts that say level and sign, and an encoder that a method can train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from data_modules import Synthetic
from data_modules.datasets.synthetic.generator import CAUSES, directions, draw_causes, write_synthetic
from data_modules.datasets.synthetic.words import encoder_folder, write_words
from data_modules.schema import DataError

SAMPLES = (60, 10, 10)


def test_words_say_level_and_sign_and_nothing_else(tmp_path: Path) -> None:
    store = write_words(tmp_path / "words.h5", samples=SAMPLES, seed=3)
    causes = draw_causes(sum(SAMPLES), np.random.PCG64(3))
    assert len(store) == sum(SAMPLES)
    for said, level, sign in zip(store.transcripts, causes["text_level"], causes["text_sign"], strict=True):
        words = said.split()
        assert (words.count("good") - words.count("bad")) / 4 == level
        assert (words.count("yes") - words.count("no")) / 2 == sign
        assert len(words) == 12
    assert len({tuple(said.split()) for said in store.transcripts}) == sum(SAMPLES)  # in any order
    assert set(causes["text_level"]) == set(CAUSES["text_level"])


def test_all_else_is_as_in_the_set_of_sequences(tmp_path: Path) -> None:
    store = write_words(tmp_path / "words.h5", samples=SAMPLES, seed=3)
    sequences = write_synthetic(tmp_path / "sequences.h5", samples=SAMPLES, seed=3)
    np.testing.assert_array_equal(store.targets, sequences.targets)
    assert store.ids.tolist() == sequences.ids.tolist()
    assert list(store.modalities) == ["audio", "vision"]
    causes = draw_causes(sum(SAMPLES), np.random.PCG64(3))
    for name in store.modalities:
        for row, level in enumerate(causes[f"{name}_level"]):
            steps, _ = store.read(name, np.array([row]))
            assert (steps @ directions(steps.shape[1])[0]).mean() == pytest.approx(level, abs=0.01)
    assert store.spec("standard").track == "synthetic/words/standard"


def test_a_tokenizer_and_an_encoder_lie_beside_the_store(tmp_path: Path) -> None:
    write_words(tmp_path / "words.h5", samples=SAMPLES)
    folder = str(encoder_folder(tmp_path / "words.h5"))
    data = Synthetic(tmp_path / "words.h5", tokenizer=folder, batch_size=8)
    assert data.spec.modalities["text"].kind == "tokens"
    data.setup("fit")
    text = next(iter(data.train_dataloader())).inputs["text"]
    assert text.lengths.tolist() == [14] * 8  # twelve words between two special tokens
    assert AutoTokenizer.from_pretrained(folder).unk_token_id not in text.values
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    assert model(text.values).last_hidden_state.shape == (8, 14, 16)
    before = torch.random.get_rng_state()
    write_words(tmp_path / "again.h5", samples=SAMPLES)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = AutoModel.from_pretrained(str(encoder_folder(tmp_path / "again.h5")), add_pooling_layer=False)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def test_amounts_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="in each split"):
        write_words(tmp_path / "words.h5", samples=(1, 0, 1))
    assert list(tmp_path.iterdir()) == []


def test_the_encoder_takes_no_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DataError, match="mine, where the encoder would lie, is something else"):
        write_words(tmp_path / "mine.h5", samples=SAMPLES)
    with pytest.raises(DataError, match=r"words has no ending.*call it .*words\.h5"):
        write_words(tmp_path / "words", samples=SAMPLES)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]
