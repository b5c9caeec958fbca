"""The tests that every method must pass, whatever it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from lightning.pytorch import Trainer

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES
from data_modules.toy import make_spec, toy_store
from mmbench.methods import ConfigError, FusionMethod, method
from mmbench.methods.card import Fidelity
from mmbench.metrics import DESCRIPTIONS
from mmbench.metrics.sentiment import SENTIMENT_LEGACY_INFO
from mmbench.runner.code import code_sources
from mmbench.runner.contract import unread
from mmbench.tasks import Task
from mmbench.testing.builders import changed, padded, rows, with_garbage
from mmbench.testing.cases import (
    BENCHMARKS,
    Case,
    build,
    cases,
    descend,
    evaluated,
    first_of_either,
    first_of_kind,
    first_of_subset,
    kinds_in_turn,
    media_kinds,
    predict,
    task_loss,
)

EPOCHS = 6
BATCH = 16
QUICK = {"lr": 5e-3, "weight_decay": 0.0, "gradient_clip": 1.0, "batch_size": BATCH}
"""Settings under which a dozen steps show whether a method learns."""
OF_CASES: dict[str, Callable[[Sequence[Case]], Sequence[Case]]] = {
    "case": lambda every: every,
    "of_kind": first_of_kind,
    "of_subset": first_of_subset,
    "trained": first_of_kind,
}
"""By argument of a test the cases that it is run on."""
OF_FEWER_CASES = {**OF_CASES, "case": first_of_either, "trained": kinds_in_turn}
"""Likewise, of a class that is not thorough."""
CONTRACT = (
    *(f"mmbench.methods.{name}" for name in ("base", "config", "scoring", "stepping")),
    *("mmbench.runner.", "mmbench.metrics.", "data_modules."),
)


@dataclass
class Fitted:
    """A method after some epochs on 32 samples."""

    case: Case
    model: FusionMethod
    trainer: Trainer
    before: float
    after: float


@lru_cache(maxsize=1)  # the tests of a training follow each other
def fit(case: Case) -> Fitted:
    """Return a method that was trained for some epochs."""
    inert = method(case.key).Config.inert
    model = build(case, **{name: value for name, value in QUICK.items() if name not in inert})
    whole = case.batch(32)
    before = task_loss(model, whole)
    with toy_store(case.spec, 32, 8) as store:
        data = FusionDataModule(store, batch_size=BATCH, dialogue=case.spec.dialogue, workers=0)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=model.first_epoch + EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            check_val_every_n_epoch=model.first_epoch + EPOCHS,
            default_root_dir=store.parent,
        )
        trainer.fit(model, datamodule=data)
    return Fitted(case, model, trainer, before, task_loss(model, whole))


class MethodTests:
    """The tests; a subclass whose name begins with ``Test`` runs them.

    Attributes:
        methods: Keys of the methods.
        benchmarks: Folder with settings of ``suite:ci`` for methods of media, whose networks are large.
        thorough: Whether every kind of target is met with every set of modalities, and trained on; for many methods
            that takes minutes.
    """

    methods: ClassVar[Sequence[str]] = ()
    thorough: ClassVar[bool] = True
    benchmarks: ClassVar[Path] = BENCHMARKS

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test on the cases, or the methods, that its argument names."""
        for name, choose in (OF_CASES if self.thorough else OF_FEWER_CASES).items():
            if name in metafunc.fixturenames:
                chosen = choose(cases(self.methods, self.benchmarks))
                metafunc.parametrize(name, chosen, ids=str, scope="class" if name == "trained" else None)
        if "cls" in metafunc.fixturenames:
            metafunc.parametrize("cls", [method(key) for key in self.methods], ids=self.methods)
        if "key" in metafunc.fixturenames:
            metafunc.parametrize("key", self.methods)

    # Cards and settings

    def test_every_kind_that_it_predicts_has_cases(self, key: str) -> None:
        """The needs of the card leave something to test."""
        needs = method(key).card.needs
        found = first_of_kind(cases([key], self.benchmarks))
        assert {case.kind for case in found} == set(needs.tasks)
        if media_kinds(needs, MODALITIES):
            assert {case.kind for case in found if case.media} == set(needs.tasks)

    def test_card_is_complete(self, cls: type[FusionMethod]) -> None:
        """Who, when, how faithful, and where it deviates."""
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

    def test_published_results_use_known_names_and_fractions(self, cls: type[FusionMethod]) -> None:
        """Metrics by our names, 0.85 and not 85."""
        known = {name: info for family in DESCRIPTIONS.values() for name, info in family.items()}
        known |= SENTIMENT_LEGACY_INFO
        for result in cls.card.published:
            name = result.metric.partition("/")[0]
            assert name in known, result
            assert result.track.count("/") == 2, result
            assert result.source, result
            if known[name].higher_is_better:
                assert -1 <= result.value <= 1, f"{result} is not a fraction"

    def test_module_says_what_it_is(self, cls: type[FusionMethod]) -> None:
        """The file begins with a docstring, of any length."""
        assert (importlib.import_module(cls.__module__).__doc__ or "").strip()

    def test_settings_are_described_and_checked(self, cls: type[FusionMethod]) -> None:
        """Every setting has a text, and refuses what is out of its range."""
        for item in fields(cls.Config):
            assert item.metadata.get("text"), item.name
            for edge, beyond in (("low", -1), ("high", 1)):
                if item.metadata.get(edge) is not None:
                    outside: Any = type(item.default)(item.metadata[edge] + beyond)  # type: ignore[misc] # all have one
                    with pytest.raises(ConfigError, match=f"'{item.name}'.*must be at"):
                        cls.Config.parse({item.name: outside})
            if item.metadata.get("choices"):
                outside = type(item.default)("9999")  # type: ignore[misc] # all have one
                with pytest.raises(ConfigError, match=f"'{item.name}'.*must be one of"):
                    cls.Config.parse({item.name: outside})

    def test_unknown_setting_names_the_nearest(self, cls: type[FusionMethod]) -> None:
        """Settings are refused when they are unknown."""
        with pytest.raises(ConfigError, match=r"'batchsize'.*Did you mean 'batch_size'"):
            cls.Config.parse({"batchsize": 8})

    def test_every_setting_is_read(self, key: str) -> None:
        """Something in the files of the method uses it."""
        own = [path for name, path in code_sources(key).items() if not name.startswith(CONTRACT)]
        assert unread(method(key), own) == {}

    def test_variants_are_settings(self, cls: type[FusionMethod]) -> None:
        """Every row of its own can be made."""
        needs = cls.card.needs
        spec = make_spec(needs.tasks[0], dialogue=needs.dialogue, kinds=media_kinds(needs, MODALITIES))
        variants = cls.variants(spec)
        assert variants
        for settings in variants.values():
            assert isinstance(cls.Config.parse(settings), cls.Config)

    # Networks

    def test_prediction_has_the_shape_of_the_task(self, case: Case) -> None:
        """One row per sample or utterance, finite."""
        batch = case.batch()
        output = build(case).eval()(batch)
        units = batch.target.shape[:2] if case.spec.dialogue else (4,)
        expected = (*units, Task.of(case.spec).outputs)
        given = tuple(output.prediction.shape)
        assert given == expected, f"the prediction has the shape {given}; for {case} it must be {expected}"
        assert output.prediction.isfinite().all(), "the prediction holds values that are not finite"

    def test_every_parameter_gets_a_finite_gradient(self, case: Case) -> None:
        """In some phase, with clean or corrupted data, at once or when a memory has filled."""
        model = build(case).train()
        missing = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        for step, corrupted in ((0, False), (1, False), (2, False), (0, True)):
            for phase in model.phases:
                if missing:
                    missing -= descend(model, case.batch(32, seed=step, corrupted=corrupted, phase=phase.name))
        assert missing == set()

    def test_every_parameter_is_in_an_optimiser(self, of_kind: Case) -> None:
        """The groups hold all parameters, and every phase has its optimiser."""
        model = build(of_kind)
        groups = model.parameter_groups()
        inside = {id(p) for group in groups.values() for part in group for p in part["params"]}
        assert [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in inside] == []
        assert {phase.optimizer for phase in model.phases} == {name for name, group in groups.items() if group}

    def test_batch_of_one(self, case: Case) -> None:
        """The last batch of an epoch may have one sample."""
        model = build(case).train()
        for phase in model.phases:
            descend(model, case.batch(1, phase=phase.name))
        assert predict(model.eval(), case.batch(1)).isfinite().all()

    def test_one_sample_is_predicted_alone_as_in_company(self, of_subset: Case) -> None:
        """Samples do not leak into each other."""
        model, batch = evaluated(of_subset), of_subset.batch()
        alone = [predict(model, rows(batch, torch.tensor([row]))) for row in range(batch.size)]
        torch.testing.assert_close(torch.cat(alone), predict(model, batch), atol=1e-5, rtol=1e-5)

    def test_order_of_samples_does_not_matter(self, of_subset: Case) -> None:
        """Nor does the place in the batch."""
        model, batch = evaluated(of_subset), of_subset.batch()
        shuffled = rows(batch, torch.tensor([2, 0, 3, 1]))
        torch.testing.assert_close(predict(model, shuffled), predict(model, batch), atol=1e-5, rtol=1e-5)

    def test_padding_changes_nothing(self, of_subset: Case) -> None:
        """More padding, the same prediction."""
        model, batch = evaluated(of_subset), of_subset.batch()
        torch.testing.assert_close(predict(model, padded(batch, 3)), predict(model, batch), atol=1e-5, rtol=1e-5)

    def test_values_beyond_the_lengths_are_ignored(self, of_subset: Case) -> None:
        """Other padding, the same prediction."""
        model, batch = evaluated(of_subset), of_subset.batch()
        torch.testing.assert_close(predict(model, with_garbage(batch)), predict(model, batch), atol=1e-5, rtol=1e-5)

    def test_every_modality_is_used(self, of_subset: Case) -> None:
        """Exchanging one between samples changes predictions; a method's own spec names what it uses."""
        batch = of_subset.batch()
        used = set()
        for settings in method(of_subset.key).variants(of_subset.spec).values():
            model = build(of_subset, **settings).eval()
            before = predict(model, batch)
            for name in model.spec.modalities:
                after = predict(model, changed(batch, name, batch.inputs[name].values.roll(1, 0)))
                assert (after - before).abs().max() > 1e-6, f"{name} is not used ({settings})"
                used.add(name)
        assert used == set(of_subset.modalities) or used <= set(of_subset.needs.modalities)

    # Training

    @pytest.fixture
    def fitted(self, trained: Case) -> Fitted:
        """A method that was trained for some epochs."""
        return fit(trained)

    def test_loss_falls_on_32_samples(self, fitted: Fitted) -> None:
        """By a tenth at least, or at all for a method that looks at nothing."""
        assert fitted.after < fitted.before * (0.9 if fitted.model.spec.modalities else 1.0)

    def test_training_logs_loss_and_scores(self, fitted: Fitted) -> None:
        """What the runner selects by is there."""
        logged = fitted.trainer.callback_metrics
        assert torch.isfinite(logged["train/loss"])
        assert torch.isfinite(logged[f"valid/{fitted.model.task.selection}"])

    def test_checkpoint_restores_the_method(self, fitted: Fitted, tmp_path: Path) -> None:
        """It predicts after a restart as before."""
        path = tmp_path / "method.ckpt"
        fitted.trainer.save_checkpoint(path)
        again = type(fitted.model).load_from_checkpoint(path, map_location="cpu").eval()
        batch = fitted.case.batch(8, seed=5)
        assert torch.equal(predict(again, batch), predict(fitted.model.eval(), batch))
        assert again.config == fitted.model.config
        assert again.spec == fitted.model.spec
        if fitted.case.kind == "multilabel":
            assert torch.equal(again.thresholds, fitted.model.thresholds)
