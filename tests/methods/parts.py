"""What the tests of several methods share: small methods, samples for them, and data of given sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, TargetKind, TargetSpec
from data_modules.toy import TARGETS
from mmbench.methods import FusionMethod, Output
from mmbench.testing.builders import make_batch, make_spec


def builder(cls: type[FusionMethod], usual: TargetKind = "regression", **small: object) -> Callable[..., Any]:
    """Return a function that builds a method with the settings ``small``, and always with the same random numbers.

    Its arguments are the kind of target, the modalities, and settings that win over the small ones.
    """

    def build(kind: TargetKind = usual, modalities: tuple[str, ...] = MODALITIES, **settings: object) -> FusionMethod:
        torch.manual_seed(0)
        return cls(make_spec(kind, modalities), config=cls.Config(**{**small, **settings}))

    return build


def sampler(usual: int = 12, **options: Any) -> Callable[..., Batch]:
    """Return a function that makes as many samples; the options are those of ``make_batch``."""

    def sample(
        size: int = usual, kind: TargetKind = "regression", modalities: tuple[str, ...] = MODALITIES, seed: int = 0
    ) -> Batch:
        return make_batch(make_spec(kind, modalities), size, seed, **options)

    return sample


def spec_of(
    dims: Mapping[str, int], steps: int | Mapping[str, int], target: TargetSpec = TARGETS["regression"]
) -> DataSpec:
    """Return a spec of features of these sizes; ``steps`` is the greatest length, one for all or by modality."""
    lengths = dict.fromkeys(dims, steps) if isinstance(steps, int) else steps
    modalities = {name: ModalitySpec(name, dim, lengths[name]) for name, dim in dims.items()}
    return DataSpec("made_up", "random", "standard", modalities, target)


def count(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def terms_of(method: FusionMethod, batch: Batch) -> Mapping[str, Tensor]:
    """Return the terms of the loss of a batch."""
    return method.objective(method(batch), batch)


Step = tuple[Mapping[str, Tensor], Mapping[str, Tensor], Output]


def assert_a_term_is_gone(without: Step, whole: Step, weight: str, untouched: str) -> None:
    """Compare a training step of a method of three views without the weight of a term with one of all terms.

    Args:
        without: Terms, gradients and output without it.
        whole: Those with it.
        weight: The term.
        untouched: A part of the names of parameters to which it gives no gradient.
    """
    terms, gradients, output = without
    assert set(terms) == {"task", "similarity", "difference"} - {weight}
    assert all(torch.equal(term, whole[0][name]) for name, term in terms.items())
    assert torch.equal(output.prediction, whole[2].prediction)
    for name, gradient in gradients.items():
        if untouched in name:
            torch.testing.assert_close(gradient, whole[1][name])
    shared = "network.views.shared.0.weight"
    assert not torch.allclose(gradients[shared], whole[1][shared])
