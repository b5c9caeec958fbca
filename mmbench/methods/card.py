"""What is said of a method beside its code: source, fidelity, needs and published results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

from data_modules.schema import MODALITIES, DataSpec, ModalityKind, TargetKind, unknown_name
from mmbench.methods.config import ConfigError, shown

Fidelity = Literal["official-code", "paper", "abstract", "own"]
FIDELITY: dict[Fidelity, str] = {
    "official-code": "the mechanism was read in the authors' code",
    "paper": "built from the equations of the paper",
    "abstract": "a reconstruction, of which only the idea is the authors'",
    "own": "a baseline of this suite",
}
"""What the word promises."""
VECTORS: tuple[ModalityKind, ...] = ("features", "tokens")


@dataclass(frozen=True)
class PublishedResult:
    """One number that somebody else reported.

    Attributes:
        track: The track it belongs to, ``<data set>/<feature set>/<split protocol>``.
        metric: Our name of the metric.
        value: The value in our units (fractions, not per cent).
        source: Where it is printed.
    """

    track: str
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Needs:
    """What a method cannot do without.

    Attributes:
        modalities: Modalities that must be present.
        at_least: Smallest number of modalities.
        tasks: Target kinds that it can predict.
        kinds: Kinds of modalities that it can read: of all, or by modality, where one that is not named may be features
            or tokens. A kind that is named later is the closer one to the paper.
        dialogue: Whether it works on dialogues instead of single samples.
    """

    modalities: tuple[str, ...] = ()
    at_least: int = 1
    tasks: tuple[TargetKind, ...] = ("regression", "multiclass", "multilabel", "binary")
    kinds: tuple[ModalityKind, ...] | Mapping[str, tuple[ModalityKind, ...]] = VECTORS
    dialogue: bool = False

    def __post_init__(self) -> None:
        """Check the names of modalities, tasks and kinds.

        Raises:
            ConfigError: When there is none of a name, or something is not of its type.
        """
        lists = [self.modalities, self.tasks]
        lists += self.kinds.values() if isinstance(self.kinds, Mapping) else [self.kinds]
        for names in lists:
            if not isinstance(names, tuple | list):
                raise ConfigError(f"Needs: {names!r} is no tuple of names, such as ('text',).")
        if type(self.at_least) is not int or type(self.dialogue) is not bool:
            raise ConfigError(
                f"Needs: at_least is a number and dialogue True or False, not {self.at_least!r} and {self.dialogue!r}."
            )
        by_modality = self.kinds if isinstance(self.kinds, Mapping) else {"": self.kinds}
        checks: tuple[tuple[str, Iterable[str], Sequence[str]], ...] = (
            ("modality", (*self.modalities, *filter(None, by_modality)), MODALITIES),
            ("kind of target", self.tasks, get_args(TargetKind)),
            ("kind of modality", chain(*by_modality.values()), get_args(ModalityKind)),
        )
        for what, given, known in checks:
            for name in given:
                if name not in known:
                    raise ConfigError(f"Needs: {unknown_name(what, name, known)}")

    def reads(self, modality: str) -> tuple[ModalityKind, ...]:
        """Return the kinds of a modality that the method can read."""
        return self.kinds.get(modality, VECTORS) if isinstance(self.kinds, Mapping) else self.kinds

    def substitutes(self, spec: DataSpec) -> dict[str, tuple[str, str]]:
        """Return by modality the kind that the data have and the one that the method was built for, where they differ.

        Only kinds by modality say what a method was built for.
        """
        if not isinstance(self.kinds, Mapping):
            return {}
        kinds = {m.name: (m.kind, self.reads(m.name)[-1]) for m in spec.modalities.values() if m.name in self.kinds}
        return {name: (had, meant) for name, (had, meant) in kinds.items() if had != meant}

    def unmet(self, spec: DataSpec) -> list[str]:
        """Return the reasons why a data set does not fit, empty when it does."""
        reasons = [f"it needs the modality {name!r}" for name in self.modalities if name not in spec.modalities]
        if len(spec.modalities) < self.at_least:
            have = ", ".join(spec.modalities) or "none"
            reasons.append(f"it needs at least {self.at_least} modalities and the data have {have}")
        reasons += [
            f"it reads {modality.name} as {' or '.join(self.reads(modality.name))}, and here it is {modality.kind}"
            for modality in spec.modalities.values()
            if modality.kind not in self.reads(modality.name)
        ]
        if spec.target.kind not in self.tasks:
            reasons.append(f"it predicts {', '.join(self.tasks)} targets and the data have {spec.target.kind}")
        if spec.dialogue != self.dialogue:
            reasons.append("it works on dialogues" if self.dialogue else "it works on single samples, not dialogues")
        return reasons


@dataclass(frozen=True)
class MethodCard:
    """The identity of a method.

    Attributes:
        title: Full name, as in the paper.
        authors: Authors of the paper.
        year: Year of publication.
        venue: Where it was published.
        arxiv: arXiv identifier, if any.
        code: Official code as ``owner/name@commit``, if any was read.
        fidelity: What our version rests on: ``official-code`` (mechanism read in the authors' code), ``paper``
            (equations), ``abstract`` (only the idea is the authors') or ``own`` (a baseline of this suite).
        deviations: Where our version differs from its source, one sentence each.
        findings: What trainings of this suite showed that a reader of its rows should know, with the evidence.
        published: Numbers reported elsewhere.
        needs: What the method cannot do without.
    """

    title: str
    authors: str
    year: int
    fidelity: Fidelity
    venue: str = ""
    arxiv: str | None = None
    code: str | None = None
    deviations: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    published: tuple[PublishedResult, ...] = ()
    needs: Needs = Needs()

    def __post_init__(self) -> None:
        """Check that everything is what it is called."""
        if self.fidelity not in get_args(Fidelity):
            raise ConfigError(unknown_name("fidelity", self.fidelity, get_args(Fidelity)))
        year = isinstance(self.year, int) and not isinstance(self.year, bool)
        if not (self.title and self.authors and year):
            raise ConfigError("A card needs a title, authors and the year as a number.")
        for name in ("title", "authors", "venue", "arxiv", "code"):
            given = getattr(self, name)
            if not isinstance(given, str) and not (given is None and name in ("arxiv", "code")):
                raise ConfigError(f"The {name} of a card is a text, and here it is {shown(given)}.")
        for name, kind in (("deviations", str), ("findings", str), ("published", PublishedResult)):
            given = getattr(self, name)
            if not isinstance(given, tuple | list) or not all(isinstance(item, kind) for item in given):
                raise ConfigError(f"The {name} of a card are a tuple of {kind.__name__}, each with a comma behind it.")
        if not isinstance(self.needs, Needs):
            raise ConfigError("The needs of a card are Needs(...).")
