"""Which parameters an optimiser's groups hold."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def without(parameters: Iterable[nn.Parameter], taken: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters, in their order, that are none of those taken already."""
    known = set(taken)  # a tensor is found by what it is, not by its values
    return [parameter for parameter in parameters if parameter not in known]
