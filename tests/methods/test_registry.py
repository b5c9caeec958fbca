"""What every method must do, whatever it is: a new method is tested here without touching this file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

import mmbench.methods
from data_modules.base import FusionDataModule
from data_modules.schema import MEDIA, MODALITIES, Batch, DataSpec, ModalityKind, TargetKind
from mmbench.methods import ConfigError, FusionMethod, method, methods
from mmbench.methods.card import Fidelity, Needs
from mmbench.metrics import DESCRIPTIONS
from mmbench.metrics.sentiment import SENTIMENT_LEGACY_INFO
from mmbench.runner.settings import shipped_settings
from mmbench.tasks import Task
from tests.methods.factories import (
    KINDS,
    changed,
    make_batch,
    make_spec,
    padded,
    rows,
    with_garbage,
    write_toy_store,
)

SUBSETS = (MODALITIES, ("text", "audio"), ("audio", "vision"), ("text",), ("vision",))
EPOCHS = 6
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = {"lr": 5e-3, "weight_decay": 0.0, "gradient_clip": 1.0, "batch_size": 16}
"""Settings under which a dozen steps show whether a method learns."""


@dataclass(frozen=True)
class Case:
    """One method on one kind of data."""

    key: str
    kind: TargetKind
    modalities: tuple[str, ...]
    steps: int = 0
    media: bool = False

    @property
    def needs(self) -> Needs:
        return methods()[self.key].card.needs

    @property
    def spec(self) -> DataSpec:
        return make_spec(
            self.kind,
            self.modalities,
            steps=self.steps,
            dialogue=self.needs.dialogue,
            kinds=media_kinds(self.needs, self.modalities) if self.media else {},
        )

    @property
    def fits(self) -> bool:
        return bool(self.spec.media) == self.media and not self.needs.unmet(self.spec)

    @property
    def settings(self) -> dict[str, object]:
        """The method's own small settings where it reads media: its published network is large."""
        return small_settings(self.key) if media_kinds(self.needs, MODALITIES) else {}

    def batch(self, size: int = 4, seed: int = 0, corrupted: bool = False, stage: int = 0) -> Batch:
        return replace(make_batch(self.spec, size, seed, corrupted=corrupted), stage=stage)

    def __str__(self) -> str:
        form = [f"{self.steps}-step"] * bool(self.steps) + ["media"] * self.media
        return "-".join([self.key, self.kind, *self.modalities, *form])


def media_kinds(needs: Needs, modalities: tuple[str, ...]) -> dict[str, ModalityKind]:
    """Return the raw form of the modalities that a method can read as frames or waveforms."""
    last = {name: needs.reads(name)[-1] for name in modalities} if isinstance(needs.kinds, Mapping) else {}
    return {name: kind for name, kind in last.items() if kind in MEDIA}


@cache
def small_settings(key: str) -> dict[str, object]:
    return shipped_settings(BENCHMARKS, key, "", "", "ci")


def _cases() -> Iterator[Case]:
    for key, cls in methods().items():
        steps = (0,) if cls.card.needs.dialogue else (0, 1)
        found = [Case(key, kind, subset) for kind in KINDS for subset in SUBSETS]
        found += [Case(key, kind, MODALITIES, 1) for kind in KINDS if 1 in steps]
        found += [Case(key, kind, subset, media=True) for kind in KINDS for subset in SUBSETS]
        yield from (case for case in found if case.fits)


CASES = list(_cases())
FIRST_OF_KIND = list({(case.key, case.kind, case.media): case for case in reversed(CASES) if not case.steps}.values())[
    ::-1
]
FIRST_OF_SUBSET = list(
    {(case.key, case.modalities, case.steps, case.media): case for case in reversed(CASES)}.values()
)[::-1]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_kind = pytest.mark.parametrize("case", FIRST_OF_KIND, ids=str)
every_subset = pytest.mark.parametrize("case", FIRST_OF_SUBSET, ids=str)
every_method = pytest.mark.parametrize("cls", methods().values(), ids=methods())


def build(case: Case, **settings: object) -> FusionMethod:
    """Return a method with fixed weights; the settings replace its defaults."""
    cls = method(case.key)
    torch.manual_seed(0)
    return cls(case.spec, config=cls.Config.parse({**case.settings, **settings}))


@cache
def evaluated(case: Case) -> FusionMethod:
    """Return a method for looking only: in evaluation mode, shared by tests."""
    return build(case).eval()


@torch.no_grad()
def predict(model: FusionMethod, batch: Batch) -> Tensor:
    """Return one row of prediction per scored unit, in the order of their index."""
    prediction, _, index = model.task.flatten(model(batch).prediction, batch)
    return prediction[index.argsort()]


# Registry, cards and settings


def test_every_module_that_defines_a_method_is_registered():
    found = set()
    for info in pkgutil.iter_modules(mmbench.methods.__path__):
        module = importlib.import_module(f"mmbench.methods.{info.name}")
        own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
        if any(issubclass(item, FusionMethod) and item is not FusionMethod for item in own):
            found.add(info.name)
    assert found == set(methods())


def test_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'late_fusoin'.*Did you mean 'late_fusion'"):
        method("late_fusoin")


def test_every_method_has_cases_of_every_kind_it_predicts():
    for key, cls in methods().items():
        cases = [case for case in FIRST_OF_KIND if case.key == key]
        assert {case.kind for case in cases} == set(cls.card.needs.tasks)
        if media_kinds(cls.card.needs, MODALITIES):
            assert {case.kind for case in cases if case.media} == set(cls.card.needs.tasks)


@every_method
def test_card_is_complete(cls):
    card = cls.card
    assert card.title
    assert card.authors
    assert 1990 < card.year < 2100
    assert card.fidelity in get_args(Fidelity)
    assert card.deviations or card.fidelity == "own"
    assert all(text.strip().endswith(".") for text in card.deviations)
    assert card.code or card.fidelity != "official-code"
    if card.code:
        repository, _, commit = card.code.partition("@")
        assert repository.count("/") == 1
        assert len(commit) >= 7
        assert set(commit) <= set("0123456789abcdef")


@every_method
def test_published_results_use_known_names_and_fractions(cls):
    known = {name: info for family in DESCRIPTIONS.values() for name, info in family.items()} | SENTIMENT_LEGACY_INFO
    for result in cls.card.published:
        name = result.metric.partition("/")[0]
        assert name in known, result
        assert result.track.count("/") == 2, result
        assert result.source, result
        if known[name].higher_is_better:
            assert -1 <= result.value <= 1, f"{result} is not a fraction"


@every_method
def test_module_says_what_it_is(cls):
    text = importlib.import_module(cls.__module__).__doc__ or ""
    assert len(text) > 200
    assert cls.card.arxiv is None or cls.card.arxiv in text


@every_method
def test_settings_are_described_and_checked(cls):
    for item in fields(cls.Config):
        assert item.metadata.get("text"), item.name
        for edge, beyond in (("low", -1), ("high", 1)):
            if item.metadata.get(edge) is not None:
                with pytest.raises(ConfigError, match=f"'{item.name}'.*must be at"):
                    cls.Config.parse({item.name: type(item.default)(item.metadata[edge] + beyond)})
        if item.metadata.get("choices"):
            with pytest.raises(ConfigError, match=f"'{item.name}'.*must be one of"):
                cls.Config.parse({item.name: type(item.default)("9999")})


@every_method
def test_unknown_setting_names_the_nearest(cls):
    with pytest.raises(ConfigError, match=r"'batchsize'.*Did you mean 'batch_size'"):
        cls.Config.parse({"batchsize": 8})


@every_method
def test_variants_are_settings(cls):
    needs = cls.card.needs
    kinds = media_kinds(needs, MODALITIES)
    spec = make_spec(needs.tasks[0], dialogue=needs.dialogue, kinds=kinds)
    variants = cls.variants(spec)
    assert variants
    for settings in variants.values():
        assert isinstance(cls.Config.parse(settings), cls.Config)


# Networks


@every_case
def test_prediction_has_the_shape_of_the_task(case):
    batch = case.batch()
    output = build(case).eval()(batch)
    units = batch.target.shape[:2] if case.spec.dialogue else (4,)
    assert output.prediction.shape == (*units, Task.of(case.spec).outputs)
    assert output.prediction.isfinite().all()


@torch.no_grad()
def task_loss(model: FusionMethod, batch: Batch) -> float:
    """Return the task loss of a batch in evaluation mode; the method is left in training mode."""
    loss = float(model.task.loss(model.eval()(batch).prediction, batch))
    model.train()
    return loss


def descend(model: FusionMethod, batch: Batch) -> set[str]:
    """Return the parameters that the loss of a batch reaches; loss and gradients must be finite."""
    model.zero_grad(set_to_none=True)
    terms = model.objective(model(batch), batch)
    assert all(term.numel() == 1 and term.isfinite() for term in terms.values()), terms
    torch.stack([term.reshape(()) for term in terms.values()]).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    return set(gradients)


@every_case
def test_every_parameter_gets_a_finite_gradient(case):
    """In some stage, with clean or corrupted data, at once or when a memory has filled."""
    model = build(case).train()
    missing = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for step, corrupted in ((0, False), (1, False), (2, False), (0, True)):
        for stage in range(len(model.stages())):
            if missing:
                missing -= descend(model, case.batch(32, seed=step, corrupted=corrupted, stage=stage))
    assert missing == set()


@every_kind
def test_every_parameter_is_in_an_optimiser(case):
    model = build(case)
    groups = model.parameter_groups()
    inside = {id(p) for group in groups.values() for part in group for p in part["params"]}
    assert [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in inside] == []
    assert {stage.optimizer for stage in model.stages()} == {name for name, group in groups.items() if group}


@every_case
def test_batch_of_one(case):
    model = build(case).train()
    for stage in range(len(model.stages())):
        descend(model, case.batch(1, stage=stage))
    assert predict(model.eval(), case.batch(1)).isfinite().all()


@every_subset
def test_one_sample_is_predicted_alone_as_in_company(case):
    model, batch = evaluated(case), case.batch()
    alone = [predict(model, rows(batch, torch.tensor([row]))) for row in range(batch.size)]
    torch.testing.assert_close(torch.cat(alone), predict(model, batch), atol=1e-5, rtol=1e-5)


@every_subset
def test_order_of_samples_does_not_matter(case):
    model, batch = evaluated(case), case.batch()
    shuffled = rows(batch, torch.tensor([2, 0, 3, 1]))
    torch.testing.assert_close(predict(model, shuffled), predict(model, batch), atol=1e-5, rtol=1e-5)


@every_subset
def test_padding_changes_nothing(case):
    model, batch = evaluated(case), case.batch()
    torch.testing.assert_close(predict(model, padded(batch, 3)), predict(model, batch), atol=1e-5, rtol=1e-5)


@every_subset
def test_values_beyond_the_lengths_are_ignored(case):
    model, batch = evaluated(case), case.batch()
    torch.testing.assert_close(predict(model, with_garbage(batch)), predict(model, batch), atol=1e-5, rtol=1e-5)


@every_subset
def test_every_modality_is_used(case):
    """Exchanging one modality between samples changes predictions; a method's own spec names what it uses."""
    batch = case.batch()
    used = set()
    for settings in method(case.key).variants(case.spec).values():
        model = build(case, **settings).eval()
        before = predict(model, batch)
        for name in model.spec.modalities:
            after = predict(model, changed(batch, name, batch.inputs[name].values.roll(1, 0)))
            assert (after - before).abs().max() > 1e-6, f"{name} is not used ({settings})"
            used.add(name)
    assert used == set(case.modalities) or used <= set(case.needs.modalities)


# Training


@dataclass
class Fitted:
    """A method after some epochs on 32 samples."""

    case: Case
    model: FusionMethod
    trainer: Trainer
    before: float
    after: float


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("registry")


@cache
def _store(folder: Path, spec_case: Case) -> Path:
    return write_toy_store(folder / f"{spec_case}.h5", spec_case.spec)


@pytest.fixture(scope="module", params=FIRST_OF_KIND, ids=str)
def fitted(request, folder) -> Fitted:
    case = request.param
    model = build(case, **QUICK)
    data = FusionDataModule(
        _store(folder, case), batch_size=QUICK["batch_size"], dialogue=case.spec.dialogue, workers=0
    )
    whole = case.batch(32)

    before = task_loss(model, whole)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=model.first_epoch + EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=model.first_epoch + EPOCHS,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data)
    return Fitted(case, model, trainer, before, task_loss(model, whole))


def test_loss_falls_on_32_samples(fitted):
    """By a tenth at least, or at all for a method that looks at nothing."""
    assert fitted.after < fitted.before * (0.9 if fitted.model.spec.modalities else 1.0)


def test_training_logs_loss_and_scores(fitted):
    logged = fitted.trainer.callback_metrics
    assert torch.isfinite(logged["train/loss"])
    assert torch.isfinite(logged[f"valid/{fitted.model.task.selection}"])


def test_checkpoint_restores_the_method(fitted, tmp_path):
    path = tmp_path / "method.ckpt"
    fitted.trainer.save_checkpoint(path)
    again = type(fitted.model).load_from_checkpoint(path, map_location="cpu").eval()
    batch = fitted.case.batch(8, seed=5)
    assert torch.equal(predict(again, batch), predict(fitted.model.eval(), batch))
    assert again.config == fitted.model.config
    assert again.spec == fitted.model.spec
    if fitted.case.kind == "multilabel":
        assert torch.equal(again.thresholds, fitted.model.thresholds)
