"""How FE2E and MESM learn: weighted labels, rates, what is counted and what a checkpoint carries."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.mesm import MESM
from mmbench.methods.mesm.sparse import SparseTower
from mmbench.runner.settings import shipped_settings
from mmbench.testing.builders import make_batch, make_spec, write_toy_store
from tests.methods.mesm.test_method import build, raw_spec, rows, shortened
from tests.methods.training import assert_resumes, fit

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
LEARN = {"lr": 5e-3, "text_pooling": "mean", "width": 8, "dim": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_toy_store(tmp_path_factory.mktemp("mesm") / "raw.h5", raw_spec(), train=24, held_out=4)


def data(store, **settings):
    return FusionDataModule(store, batch_size=8, workers=0, **settings)


# Labels


def counted(datamodule):
    """Return negatives per positive of every label, sample by sample."""
    labels = [datamodule.store.targets[row].tolist() for row in datamodule.rows["train"]]
    positives = [sum(row[column] for row in labels) for column in range(3)]
    return torch.tensor([(len(labels) - count) / count for count in positives])


def test_training_counts_its_labels_and_a_checkpoint_carries_them(store, tmp_path):
    module = data(store)
    model = build(module.spec, sparse=True, **LEARN)
    assert model.positive_weight.tolist() == [1.0] * 3
    whole = make_batch(raw_spec(), 24)
    before = F.binary_cross_entropy_with_logits(model.eval()(whole).prediction, whole.target)
    trainer = fit(model.train(), lambda: module, epochs=6)
    torch.testing.assert_close(model.positive_weight, counted(module))
    after = F.binary_cross_entropy_with_logits(model.eval()(whole).prediction, whole.target)
    assert after < 0.95 * before
    for name in ("audio", "vision"):
        assert 0.1 < trainer.callback_metrics[f"train/flops_{name}"] < 1.0
    trainer.save_checkpoint(tmp_path / "mesm.ckpt")
    again = MESM.load_from_checkpoint(tmp_path / "mesm.ckpt").eval()
    assert torch.equal(again.positive_weight, model.positive_weight)
    assert torch.equal(again(whole).prediction, model(whole).prediction)


def test_labels_are_counted_on_the_part_that_is_trained_on(store):
    module = data(store, limit=12)
    model = build(module.spec)
    fit(model, lambda: module)
    assert len(module.rows["train"]) == 12
    torch.testing.assert_close(model.positive_weight, counted(module))


def test_a_run_resumes_where_it_stopped(store, tmp_path):
    assert_resumes(lambda: build(data(store).spec, sparse=True, **LEARN), lambda: data(store), 2, tmp_path)


def test_positives_of_rare_labels_weigh_more():
    model = build()
    batch = make_batch(model.spec)
    model.positive_weight.copy_(torch.tensor([3.0, 1.0, 0.5]))
    output = model.eval()(batch)
    chance = output.prediction.sigmoid()
    terms = -(batch.target * chance.log() * model.positive_weight + (1 - batch.target) * (1 - chance).log())
    torch.testing.assert_close(model.objective(output, batch)["task"], terms.mean())
    plain = MESM(model.spec, config=replace(model.config, pos_weight=False))
    torch.testing.assert_close(
        plain.objective(output, batch)["task"], F.binary_cross_entropy_with_logits(output.prediction, batch.target)
    )


@pytest.mark.parametrize("kind", ["regression", "multiclass", "binary"])
def test_other_targets_have_the_plain_loss(kind):
    model = build(raw_spec(kind)).eval()
    batch = make_batch(model.spec)
    output = model(batch)
    assert torch.equal(model.objective(output, batch)["task"], model.task.loss(output.prediction, batch))
    assert "positive_weight" not in dict(model.named_buffers())


# Learning rates


class Lookup(nn.Module):
    """Stands for a pretrained encoder of tokens."""

    dim = 7

    def __init__(self, name, frozen=False):
        super().__init__()
        self.table = nn.Embedding(20, self.dim)
        self.requires_grad_(not frozen)

    def forward(self, tokens):
        return PaddedSequence(self.table(tokens.values) * tokens.mask.unsqueeze(-1), tokens.lengths)


def rates(model):
    """Return the rate of every parameter, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = model.parameter_groups()["main"]
    found = [(names[id(p)], group.get("lr", model.config.lr)) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("text_lr", [5e-6, 0.0])
@pytest.mark.parametrize("media", [True, False])
def test_the_head_of_a_text_encoder_learns_as_slowly_as_the_encoder(monkeypatch, text_lr, media):
    monkeypatch.setattr("mmbench.methods.base.PretrainedText", Lookup)
    spec = raw_spec() if media else make_spec("multilabel")
    spec = replace(spec, modalities={**spec.modalities, "text": ModalitySpec("text", 20, 6, "tokens")})
    model = build(spec, text_encoder="lookup", text_lr=text_lr, lr=1e-3)
    found = rates(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found) == trained
    slow = {"network.heads.text.weight", "network.heads.text.bias", "text_encoder.table.weight"}
    assert {name for name, rate in found.items() if rate != 1e-3} == (slow if text_lr else set())
    assert {found[name] for name in slow & set(found)} == ({text_lr} if text_lr else {1e-3})


def test_text_that_is_no_tokens_learns_at_the_common_rate():
    for spec in (raw_spec(), make_spec("multilabel")):
        model = build(spec)
        assert set(rates(model).values()) == {model.config.lr}


def test_a_frozen_attention_is_in_no_optimiser():
    model = build(sparse=True, attn_gate="none")
    found = rates(model)
    assert {name for name, _ in model.named_parameters()} - set(found) == {
        name for name, _ in model.named_parameters() if ".attentions." in name
    }


def test_every_parameter_of_the_sparse_model_learns():
    for gate in ("prob", "straight_through"):
        model = build(sparse=True, attn_gate=gate).train()
        batch = make_batch(model.spec, 8)
        model.objective(model(batch), batch)["task"].backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


# What is counted


@torch.no_grad()
def test_the_share_of_the_cost_is_that_of_the_kept_sites():
    model = build(sparse=True, nucleus=0.5).eval()
    batch = shortened(make_batch(model.spec), vision=[8, 1, 3, 2])
    sites = {}
    for name in ("audio", "vision"):
        tower = model.network.encoders[name].tower
        assert isinstance(tower, SparseTower)
        for number, block in enumerate(tower.blocks):
            block.register_forward_pre_hook(lambda _, taken, key=(name, number): sites.update({key: taken[1]}))
    output = model(batch)
    for name in ("audio", "vision"):
        pictures = model.network.encoders[name].source(batch.inputs[name])
        for row in range(4):
            mine = pictures.rows == row
            kept = dense = 0.0
            for number in range(3):
                cost = 18 * (4 << number) * (8 << number) + 18 * (8 << number) ** 2
                kept += cost * float(sites[name, number][mine].sum())
                dense += cost * sites[name, number][mine].numel()
            assert float(output.named[f"flops_{name}"][row]) == pytest.approx(kept / dense, rel=1e-5)
    assert "flops_vision" not in build().eval()(batch).named


def test_a_larger_nucleus_costs_more():
    batch = make_batch(raw_spec())
    shares = []
    for mass in (0.0, 0.3, 0.6, 0.9, 1.0):
        output = build(sparse=True, nucleus=mass).eval()(batch)
        shares.append(torch.cat([output.named["flops_audio"], output.named["flops_vision"]]).mean().item())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    # One site of 8 x 8, of 4 x 4 and of 2 x 2, where a site of the next block costs four times as much.
    assert shares[0] == pytest.approx((1 + 4 + 16) / (64 + 4 * 16 + 16 * 4))


@torch.no_grad()
def test_half_precision_predicts_nearly_the_same():
    for settings in ({}, {"sparse": True, "nucleus": 1.0}):
        model = build(**settings).eval()
        batch = rows(make_batch(model.spec), torch.tensor([0, 1]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(batch).prediction
        torch.testing.assert_close(found.float(), model(batch).prediction, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("settings", [{}, {"attn_gate": "straight_through"}, {"legacy_site_order": True}])
@pytest.mark.filterwarnings("ignore:legacy_site_order")
def test_half_precision_learns_with_finite_gradients(settings):
    model = build(sparse=True, **settings).train()
    batch = make_batch(model.spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.objective(model(batch), batch)["task"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize(
    "track", ["mosei/aligned_50", "iemocap_erc/text600-6", "iemocap_raw/4-logmel", "synthetic_dialogues/generated"]
)
def test_features_alone_have_the_settings_of_lf_trans(track):
    settings = shipped_settings(BENCHMARKS, "mesm", *track.split("/"), "")
    assert settings == {"lr": 5e-4, "batch_size": 32, "gradient_clip": 2.0}
    assert shipped_settings(BENCHMARKS, "mesm", "iemocap_raw", "4-waveform-frames224", "") == {}


def test_the_defaults_are_those_of_the_official_commands():
    c = MESM.Config()
    assert (c.lr, c.text_lr, c.batch_size, c.weight_decay, c.gradient_clip) == (5e-5, 5e-6, 8, 0.0, 0.0)
    assert (c.dim, c.layers, c.heads, c.feed_forward, c.dropout) == (64, 4, 4, 2048, 0.1)
    assert (c.width, c.hidden, c.image_size, c.bands, c.piece) == (64, 1024, 48, 128, 32)
    assert (c.nucleus, c.frame_interval, c.sparse_momentum) == (0.8, 0.5, 0.01)
