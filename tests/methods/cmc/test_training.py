"""CMC's curriculum, from pre-training to resumed runs and several processes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES
from mmbench.methods import ConfigError
from mmbench.methods.cmc import CMC
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods.cmc.parts import SMALL, build
from tests.methods.training import fit


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four training batches of 12 samples."""
    path = write_toy_store(tmp_path_factory.mktemp("cmc") / "toy.h5", make_spec(), train=48)

    return partial(FusionDataModule, path, batch_size=12)


class Observed(CMC):
    """CMC that notes the phase, the level, how many pairs were fed, and the frozen predictors of every step."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        super().__init__(make_spec(), config=CMC.Config(**{**SMALL, "pretrain_epochs": 2, **settings}))
        self.steps = []

    def objective(self, output, batch):
        terms = super().objective(output, batch)
        frozen = self.scorer.frozen["audio_vision"].layers[0].weight.clone()
        self.steps.append((batch.phase, int(self.level), len(self.scorer.cache), frozen))
        return terms


def test_pre_training_comes_first_and_ends_in_the_cache(data):
    before = {}

    class Stopped(Observed):
        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                before.update(
                    {name: value.clone() for name, value in self.state_dict().items() if "_extra" not in name}
                )
            super().on_train_epoch_start()

    method = Stopped()
    fit(method, data, 4)
    assert [step[0] for step in method.steps] == ["pretrain"] * 8 + ["main"] * 8
    assert [step[2] for step in method.steps] == [0] * 8 + [48] * 8
    # What was frozen is the state at the end of pre-training, and it stays.
    frozen = before["network.predictors.audio_vision.layers.0.weight"]
    assert all(torch.equal(step[3], frozen) for step in method.steps[8:])
    assert not torch.equal(method.network.predictors["audio_vision"].layers[0].weight, frozen)
    then = build(pretrain_epochs=2)
    then.load_state_dict(before, strict=False)
    then.eval()
    loader = data()
    loader.setup("fit")
    for batch in loader.train_dataloader():
        vectors, known = method.scorer.cache(batch.index)
        assert known.all()
        named = then(batch).named
        torch.testing.assert_close(vectors, torch.stack([named[f"h_{name}"] for name in MODALITIES], 1))


def test_the_cache_is_filled_without_dropout_and_training_goes_on_with_it(data):
    method = Observed(embed_dropout=0.5)
    modes = []
    method.network.register_forward_hook(lambda module, *_: modes.append(module.training))
    fit(method, data, 3)
    # Two epochs of four batches and one of validation, the four batches again for the cache, and an epoch more.
    assert modes == 2 * ([True] * 4 + [False]) + [False] * 4 + [True] * 4 + [False]


def test_a_saturated_loss_moves_the_level_to_the_end(data):
    method = Observed(tolerance=1.0, levels=3)  # no change of the loss is large enough
    trainer = fit(method, data, 8)
    assert [level for _, level, *_ in method.steps[8::4]] == [1, 1, 2, 3, 3, 3]
    logged = trainer.callback_metrics
    assert (logged["train/level"], logged["train/feed_action"]) == (3.0, 1.0)
    assert set(logged) >= {f"train/pair_loss_{bucket}" for bucket in (1, 2, 3)}
    assert logged["train/pair_loss_1"] < logged["train/pair_loss_2"] < logged["train/pair_loss_3"]
    for bucket in range(3):
        torch.testing.assert_close(method.fed_losses[bucket], logged[f"train/pair_loss_{bucket + 1}"])


def test_a_fresh_start_forgets_the_curriculum(data):
    method = Observed(tolerance=1.0)
    for _ in range(2):
        method.steps.clear()
        fit(method, data, 5)
        assert [level for phase, level, *_ in method.steps if phase == "main"] == [1] * 8 + [2] * 4


class Saved(Observed):
    """Every epoch has its seed and leaves a checkpoint, as in the suite."""

    def __init__(self, folder):
        super().__init__(tolerance=1.0, embed_dropout=0.3)
        self.folder = folder

    def on_train_epoch_start(self):
        torch.manual_seed(self.current_epoch)
        super().on_train_epoch_start()

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        self.trainer.save_checkpoint(self.folder / f"{self.current_epoch}.ckpt")


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, tmp_path):
    """Stopped while it prepares, when it has prepared, and twice in the curriculum."""
    whole = Saved(tmp_path)
    fit(whole, data, 5)
    ours = whole.state_dict()
    cache = ours.pop("scorer.cache._extra_state")
    assert len(cache["index"]) == 48
    for finished in range(4):
        resumed = Saved(tmp_path / "again")
        fit(resumed, data, 5, ckpt_path=tmp_path / f"{finished}.ckpt")
        assert len(resumed.steps) == 4 * (4 - finished)
        theirs = resumed.state_dict()
        for mine, yours in ((cache, theirs.pop("scorer.cache._extra_state")), (ours, theirs)):
            assert mine.keys() == yours.keys()
            for name, value in mine.items():
                assert torch.equal(yours[name].nan_to_num(-1), value.nan_to_num(-1)), (finished, name)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_remember_all_samples_and_move_together(tmp_path):
    """37 samples: one of them is seen by both processes. Nothing learns, so that what is cached can be told."""
    path = write_toy_store(tmp_path / "odd.h5", make_spec(), train=37)

    class Together(Observed):
        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            every = [None, None]
            dist.all_gather_object(every, (int(self.level), self.fed_losses.nan_to_num(-1).tolist()))
            assert every[0] == every[1]

    method = Together(pretrain_epochs=1, tolerance=1.0, lr=0.0, predictor_lr=0.0)
    fit(method, lambda: FusionDataModule(path, batch_size=8), 4, devices=2, strategy="ddp_fork")
    assert int(method.level) == 3
    assert len(method.scorer.cache) == 38
    data = FusionDataModule(path, batch_size=37)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    vectors, known = method.scorer.cache(batch.index)
    assert known.all()
    named = method.eval()(batch).named
    torch.testing.assert_close(vectors, torch.stack([named[f"h_{name}"] for name in MODALITIES], 1))


def test_the_predictors_have_their_own_rate():
    method = build(lr=0.5, predictor_lr=0.25)
    rest, predictors = method.parameter_groups()["main"]
    assert "lr" not in rest
    assert predictors["lr"] == 0.25
    assert {id(p) for p in predictors["params"]} == {id(p) for p in method.network.predictors.parameters()}
    # The frozen copies are in no group.
    assert len(rest["params"]) + len(predictors["params"]) == sum(p.requires_grad for p in method.parameters())


def test_scores_count_after_pre_training(data):
    assert build().first_epoch == 5
    with pytest.raises(ConfigError, match="prepares for 3 epochs"):
        fit(Observed(pretrain_epochs=3), data, 3)
