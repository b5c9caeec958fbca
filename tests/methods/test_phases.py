"""What the base class makes of phases: who steps, when, and which epochs count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.phases import Phase
from data_modules.schema import Batch
from mmbench.methods import ConfigError
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard
from mmbench.methods.config import MethodConfig, setting
from mmbench.methods.unimodal import Unimodal
from mmbench.runner.callbacks import SelectionEarlyStopping, SelectionModelCheckpoint, TrainingHistory
from mmbench.runner.training import quiet
from mmbench.testing.builders import make_batch, make_spec, write_toy_store

SPEC = make_spec("regression", ("text",))


class Phased(FusionMethod):
    """Two linear maps whose phases are given; notes the weights after every step."""

    card = MethodCard(title="Phased", authors="Nobody", year=2026, fidelity="own")

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings."""

        sum_of: int = setting(1, "batches per step", low=1)

    def __init__(self, phases: tuple[Phase, ...], sum_of: int = 1) -> None:
        super().__init__(SPEC, config=self.Config(lr=0.1, gradient_clip=0.0, sum_of=sum_of))
        self.maps = nn.ModuleDict({name: nn.Linear(SPEC.dims["text"], 1) for name in ("main", "other")})
        self._phases = phases
        self.seen: list[tuple[int, str]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[Tensor] = []

    @property
    def accumulate(self) -> int:
        return int(self.config.sum_of)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        return self._phases

    def parameter_groups(self):
        return {name: [{"params": list(item.parameters())}] for name, item in self.maps.items()}

    def forward(self, batch: Batch) -> Output:
        return Output(self.maps["main"](batch.inputs["text"].values.sum(1)))

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return a loss that reaches both maps in every phase."""
        self.seen.append((self.current_epoch, self.phase_of(batch).name))
        self.weights.append({name: item.weight.detach().clone() for name, item in self.maps.items()})
        other = self.maps["other"](batch.inputs["text"].values.sum(1)).square().mean()
        return {**super().objective(output, batch), "other": other}

    def manual_backward(self, loss, *args, **kwargs):
        super().manual_backward(loss, *args, **kwargs)
        self.gradients.append(self.maps["main"].weight.grad.clone())


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_toy_store(tmp_path_factory.mktemp("phases") / "toy.h5", SPEC, train=24)


def fit(model: Phased, store: Path, epochs: int = 3, batch_size: int = 8, callbacks=(), **options) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with quiet():
        trainer.fit(model, datamodule=FusionDataModule(store, batch_size=batch_size), **options)
    return trainer


def moved(model: Phased, name: str) -> list[bool]:
    """Return for each objective but the last whether a map changed before the next one."""
    weights = [item[name] for item in model.weights]
    return [not torch.equal(before, after) for before, after in pairwise(weights)]


def test_a_phase_of_the_same_batch_takes_the_same_batch_and_only_its_optimiser_steps(store):
    model = Phased((Phase("other", "other"), Phase("main", same_batch=True)))
    fit(model, store, epochs=1)
    assert model.seen == 3 * [(0, "other"), (0, "main")]
    assert moved(model, "other") == [True, False, True, False, True]
    assert moved(model, "main") == [False, True, False, True, False]


def test_phases_come_and_go_with_the_epochs(store):
    model = Phased(
        (Phase("prepare", "other", stop=1), Phase("main", start=1), Phase("after", "other", same_batch=True, start=2))
    )
    fit(model, store)
    assert model.seen == 3 * [(0, "prepare")] + 3 * [(1, "main")] + 3 * [(2, "main"), (2, "after")]


def test_gradients_of_several_batches_are_added_and_the_last_batch_steps(store):
    model = Phased((Phase("main"),), sum_of=2)
    single = Phased((Phase("main"),))
    single.load_state_dict(model.state_dict())
    fit(model, store, epochs=2)
    assert moved(model, "main") == [False, True, True, False, True]
    fit(single, store, epochs=1, batch_size=16)
    # Means over 8 samples each add up to twice the mean over 16.
    torch.testing.assert_close(model.gradients[1], 2 * single.gradients[0])


def test_preparation_selects_nothing(store, tmp_path):
    """The first epochs' scores are the best there are, and yet an epoch that counts is kept."""

    class Worsening(Phased):
        def on_validation_epoch_end(self):
            self.valid_metric.reset()
            self.log("valid/mae", float(self.current_epoch))

    model = Worsening((Phase("prepare", "other", stop=3), Phase("main", start=3)))
    best = SelectionModelCheckpoint(model.first_epoch, tmp_path, monitor="valid/mae", mode="min", stamp="")
    curve = TrainingHistory("mae")
    patience = SelectionEarlyStopping(model.first_epoch, "valid/mae", mode="min", patience=2)
    fit(model, store, 20, callbacks=[best, patience, curve])
    assert [row["epoch"] for row in curve.rows] == list(range(6))  # three prepare, one is the best, two are waited for
    assert best.best.name == "epoch=3.ckpt"
    assert best.best.is_file()


def test_preparation_leaves_a_checkpoint_to_resume_from(store, tmp_path):
    def made() -> tuple[Phased, SelectionModelCheckpoint]:
        torch.manual_seed(0)
        model = Phased((Phase("prepare", "other", stop=3), Phase("main", start=3)))
        return model, SelectionModelCheckpoint(model.first_epoch, tmp_path, monitor="valid/mae", mode="min", stamp="")

    model, best = made()
    with pytest.raises(ConfigError, match=r"prepares for 3 epochs.*max_epochs is 2"):
        fit(model, store, 2, callbacks=[best])

    class Interrupted(RuntimeError):
        pass

    class Fragile(Phased):
        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                raise Interrupted
            super().on_train_epoch_start()

    model.__class__ = Fragile
    with pytest.raises(Interrupted):
        fit(model, store, 5, callbacks=[best])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    resumed, best = made()
    fit(resumed, store, 5, callbacks=[best], ckpt_path=tmp_path / "last.ckpt")
    whole, best = made()
    fit(whole, store, 5, callbacks=[best])
    assert {epoch for epoch, _ in resumed.seen} == {2, 3, 4}
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_batch_without_a_name_is_for_the_first_phase_and_an_unknown_name_is_refused(store):
    model = Phased((Phase("prepare", "other", stop=1), Phase("main", start=1)))
    batch = make_batch(SPEC)
    assert [model.phase_of(replace(batch, phase=name)).name for name in ("", "prepare", "main")] == [
        "prepare",
        "prepare",
        "main",
    ]
    with pytest.raises(ValueError, match="Phased has no phase 'later'; it has: prepare, main"):
        model.phase_of(replace(batch, phase="later"))


def test_several_phases_need_a_data_module_that_knows_them():
    model = Phased((Phase("prepare", "other", stop=1), Phase("main", start=1)))
    trainer = Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match=r"Phased goes through the samples in 2 phases.*fit\(method, datamodule="):
        trainer.fit(model, [make_batch(SPEC)], [make_batch(SPEC)])


def test_values_are_watched_over_the_samples_of_an_epoch_while_training():
    model = Phased((Phase("main"),)).train()
    model.watch("share", torch.tensor([1.0, 2.0, 6.0]))
    model.watch("share", torch.tensor([7.0], requires_grad=True))
    model.watch("now", torch.tensor(5.0))
    model.eval().watch("share", torch.tensor([100.0]))
    assert model.terms() == {"share": 4.0, "now": 5.0}
    model.on_train_epoch_start()
    assert model.terms() == {}


def test_labels_of_the_training_split_come_once_before_training(store):
    class Curious(Phased):
        def on_training_labels(self, labels):
            self.seen_labels = [*getattr(self, "seen_labels", []), labels]

    model = Curious((Phase("main"),))
    fit(model, store)
    (labels,) = model.seen_labels
    data = FusionDataModule(store)
    assert labels.inputs == {}
    assert labels.index.tolist() == data.rows["train"].tolist()
    assert labels.target.tolist() == data.store.targets[data.rows["train"]].tolist()


def test_batches_hold_what_the_method_reads_and_no_more(tmp_path):
    """Lightning's data module asks the module under its trainer; nobody has to tell it."""
    spec = make_spec()
    path = write_toy_store(tmp_path / "toy.h5", spec)

    class One(Unimodal):
        def training_step(self, batch, batch_idx):
            assert list(batch.inputs) == ["audio"]
            assert batch.phase == "main"
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            assert list(batch.inputs) == ["audio"]
            assert batch.phase == ""
            super().validation_step(batch, batch_idx)

    data = FusionDataModule(path, batch_size=8)
    model = One(data.spec, config=Unimodal.Config(modality="audio"))
    assert list(model.spec.modalities) == ["audio"]
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with quiet():
        Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **options).fit(model, datamodule=data)
    assert list(data.spec.modalities) == list(spec.modalities)
