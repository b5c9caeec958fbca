"""How EMT-DLFR reads text: states of a pretrained encoder, tokens that one encodes, or word vectors."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.emt_dlfr import EMTDLFR
from mmbench.nn.steps import Layout
from mmbench.testing.builders import doubled, make_spec, padded, with_garbage
from tests.methods.emt_dlfr.test_method import SMALL, STILL, TERMS, build, clean, damaged, gradients
from tests.methods.parts import terms_of


def test_text_states_are_split_into_the_utterance_and_its_words():
    batch = clean(4)
    for states, width in {"words": 64, "bert": 7}.items():
        method = build(text_states=states).eval()
        vector = method(batch).named["h_text"]
        assert vector.shape == (4, width)
        assert torch.equal(vector, batch.inputs["text"].values[:, 0]) == (states == "bert")
    last = batch.inputs["text"].lengths - 1
    assert (last > 1).any()
    values = batch.inputs["text"].values.clone()
    values[torch.arange(4), last] += 5.0 * (last > 0)[:, None]  # the mark at the end is nothing that is read
    changed = replace(batch, inputs={**batch.inputs, "text": PaddedSequence(values, last + 1)})
    assert torch.equal(method(changed).prediction, method(batch).prediction)
    assert not torch.equal(build().eval()(changed).prediction, build().eval()(batch).prediction)


def test_padding_changes_nothing_where_text_is_states():
    method, batch = build(text_states="bert").eval(), clean()
    batch.inputs["text"].lengths[3:6] = torch.tensor([3, 2, 1])
    for other in (padded(batch, 3), with_garbage(batch)):
        torch.testing.assert_close(method(other).prediction, method(batch).prediction)


@pytest.mark.parametrize("states", ["words", "bert"])
def test_steps_alone_give_what_padded_steps_give(monkeypatch, states):
    method, batch, found = build(text_states=states).double().train(), damaged(), []
    batch = replace(doubled(batch), complete=doubled(replace(batch, inputs=batch.complete)).inputs)
    for view in (batch.inputs, batch.complete):
        view["audio"].lengths[3] = 0
    for packed in (True, False):
        monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
        terms = terms_of(method, batch)
        found.append((terms, gradients(method, terms)))
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)


class Embedding(nn.Module):
    """Stands for a pretrained encoder of tokens."""

    dim = 7

    def __init__(self, name, frozen=False):
        super().__init__()
        self.table = nn.Embedding(20, self.dim)
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, tokens):
        return PaddedSequence(self.norm(self.table(tokens.values)) * tokens.mask.unsqueeze(-1), tokens.lengths)


@pytest.fixture
def tokens(monkeypatch):
    """A spec of tokens and a batch whose third word of three is missing."""
    monkeypatch.setattr("mmbench.methods.base.PretrainedText", Embedding)
    spec = make_spec()
    spec = replace(spec, modalities={**spec.modalities, "text": ModalitySpec("text", 20, 6, "tokens", unknown=19)})
    batch = damaged(6)
    lengths = torch.tensor([6, 5, 5, 3, 2, 1])
    ids = torch.randint(2, 18, (6, 6)) * (torch.arange(6) < lengths[:, None])
    kept = (torch.arange(6) != 3) & (torch.arange(6) < lengths[:, None])
    batch.complete["text"] = PaddedSequence(ids, lengths)
    batch.inputs["text"] = PaddedSequence(torch.where(kept | (ids == 0), ids, 19), lengths)
    return spec, replace(batch, kept={**batch.kept, "text": kept})


def test_tokens_are_restored_as_states_and_marks_are_none(tokens):
    spec, batch = tokens
    method = EMTDLFR(spec, config=EMTDLFR.Config(text_encoder="some", **SMALL, **STILL)).train()
    terms = terms_of(method, batch)
    assert set(terms) == TERMS
    states = method.text_encoder(batch.complete["text"]).values
    restored = method.restorers["text"](method(batch).named["steps_text"])
    # Step 3 of the text is word 2; the fourth to sixth text have no such word.
    expected = nn.functional.smooth_l1_loss(restored[:3, 2], states[:3, 3])
    torch.testing.assert_close(terms["restoration_text"], expected)
    sum(terms.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    assert method.text_encoder.table.weight.grad[19].any()


def test_matrices_and_vectors_of_the_text_encoder_have_their_own_groups(tokens):
    spec, _ = tokens
    config = EMTDLFR.Config(text_encoder="some", text_lr=3e-5, weight_decay_text=0.02)
    method = EMTDLFR(spec, config=config)
    matrices, vectors, *_ = method.parameter_groups()["main"]
    assert [p.shape for p in matrices["params"]] == [(20, 7)]
    assert [p.shape for p in vectors["params"]] == [(7,), (7,)]
    assert (matrices["lr"], matrices["weight_decay"]) == (3e-5, 0.02)
    assert (vectors["lr"], vectors["weight_decay"]) == (3e-5, 0.0)


def test_tokens_are_not_all_words(tokens):
    with pytest.raises(ConfigError, match=r"'text_states' is 'words'.*leave it at 'auto'"):
        EMTDLFR(tokens[0], config=EMTDLFR.Config(text_encoder="some", text_states="words"))
