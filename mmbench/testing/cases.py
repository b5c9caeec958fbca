"""Which data a method is tested on: every kind of target, set of modalities and form that it says it can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from data_modules.schema import MEDIA, MODALITIES, Batch, DataSpec, ModalityKind, TargetKind
from mmbench.methods import FusionMethod, method
from mmbench.methods.card import Needs
from mmbench.runner.settings import benchmarks_folder, shipped_settings
from mmbench.testing.builders import KINDS, make_batch, make_spec

SUBSETS = (MODALITIES, ("text", "audio"), ("audio", "vision"), ("text",), ("vision",))
BENCHMARKS = benchmarks_folder().absolute()


@dataclass(frozen=True)
class Case:
    """One method on one kind of data.

    Attributes:
        key: Key of the method.
        kind: What is predicted.
        modalities: What is read.
        steps: Length of every modality; 0 for different ones.
        media: Whether frames and waveforms take the place of features, where the method reads them.
        benchmarks: Folder with settings of ``suite:ci``, which make large networks small.
    """

    key: str
    kind: TargetKind
    modalities: tuple[str, ...]
    steps: int = 0
    media: bool = False
    benchmarks: Path = BENCHMARKS

    @property
    def needs(self) -> Needs:
        """What the method needs."""
        return method(self.key).card.needs

    @property
    def spec(self) -> DataSpec:
        """The data."""
        return make_spec(
            self.kind,
            self.modalities,
            steps=self.steps,
            dialogue=self.needs.dialogue,
            kinds=media_kinds(self.needs, self.modalities) if self.media else {},
        )

    @property
    def fits(self) -> bool:
        """Whether the method can work on the data."""
        return bool(self.spec.media) == self.media and not self.needs.unmet(self.spec)

    @property
    def settings(self) -> dict[str, object]:
        """The method's own small settings where it reads media: its published network is large."""
        return small_settings(self.key, self.benchmarks) if media_kinds(self.needs, MODALITIES) else {}

    def batch(self, size: int = 4, seed: int = 0, corrupted: bool = False, phase: str = "") -> Batch:
        """Return a random batch."""
        return make_batch(self.spec, size, seed, corrupted=corrupted, phase=phase)

    def __str__(self) -> str:
        form = [f"{self.steps}-step"] * bool(self.steps) + ["media"] * self.media
        return "-".join([self.key, self.kind, *self.modalities, *form])


def media_kinds(needs: Needs, modalities: tuple[str, ...]) -> dict[str, ModalityKind]:
    """Return the raw form of the modalities that a method can read as frames or waveforms."""
    last = {name: needs.reads(name)[-1] for name in modalities} if isinstance(needs.kinds, Mapping) else {}
    return {name: kind for name, kind in last.items() if kind in MEDIA}


@cache
def small_settings(key: str, benchmarks: Path) -> dict[str, object]:
    """Return the settings of a method under which it is small."""
    return shipped_settings(benchmarks, key, "", "", "ci")


def cases(keys: Sequence[str], benchmarks: Path) -> list[Case]:
    """Return every case of some methods."""
    return list(_cases(keys, benchmarks))


def _cases(keys: Sequence[str], benchmarks: Path) -> Iterator[Case]:
    for key in keys:
        steps = (0,) if method(key).card.needs.dialogue else (0, 1)
        found = [Case(key, kind, subset) for kind in KINDS for subset in SUBSETS]
        found += [Case(key, kind, MODALITIES, 1) for kind in KINDS if 1 in steps]
        found += [Case(key, kind, subset, media=True) for kind in KINDS for subset in SUBSETS]
        yield from (replace(case, benchmarks=benchmarks) for case in found if case.fits)


def first_of_kind(every: Sequence[Case]) -> list[Case]:
    """Return one case for every method, kind of target and form."""
    chosen = {(case.key, case.kind, case.media): case for case in reversed(every) if not case.steps}
    return list(chosen.values())[::-1]


def first_of_subset(every: Sequence[Case]) -> list[Case]:
    """Return one case for every method, set of modalities and form."""
    return list({(case.key, case.modalities, case.steps, case.media): case for case in reversed(every)}.values())[::-1]


def first_of_either(every: Sequence[Case]) -> list[Case]:
    """Return cases in which every method meets each kind of target and each set of modalities, not all pairs."""
    return list(dict.fromkeys([*first_of_kind(every), *first_of_subset(every)]))


def kinds_in_turn(every: Sequence[Case]) -> list[Case]:
    """Return one case for every method and form, of the kinds of target in turn."""
    found: dict[tuple[str, bool], list[Case]] = {}
    for case in first_of_kind(every):
        found.setdefault((case.key, case.media), []).append(case)
    return [kinds[number % len(kinds)] for number, kinds in enumerate(found.values())]


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
