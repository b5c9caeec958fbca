"""Golden cases: numbers measured with the official code of a method, and how to compare a model of ours with them.

A case is ``tests/golden/<slug>/<case>.json`` (configuration, parameter tables with the official names, tolerances) and
``<case>.npz`` (inputs, outputs, loss terms, gradient norms). Weights are not stored: both sides fill their parameters
by :func:`golden_weight`, which depends on the official name and the shape alone.

A *name map* says where an official parameter lives in our model. It takes the official name and returns our name, or
the :class:`Piece` objects that make up the official tensor (along its first axis), or an empty tuple when our model
has no such parameter::

    names = renamed((r"^enc_(\\w)\\.", r"encoders.\\1."))
    case = Case.load("slug")
    fill(model, case.table(), names)
    norms = gradient_norms(model, case.table(), names)  # after backward(), in the order of the table
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, PaddedSequence

FOLDER = Path(__file__).parent

Table = Sequence[tuple[str, tuple[int, ...], bool]]
"""Rows of a parameter table: official name, shape, whether it is the weight of a normalisation layer."""


@dataclass(frozen=True)
class Piece:
    """One part of an official tensor, found in one of our parameters.

    Attributes:
        name: Our parameter.
        view: What to take of it; must return a view, because filling writes through it.
    """

    name: str
    view: Callable[[Tensor], Tensor] = lambda tensor: tensor


NameMap = Callable[[str], str | Sequence[Piece]]


def golden_weight(name: str, shape: Sequence[int], is_norm: bool = False) -> Tensor:
    """Return the prescribed float32 weight of the parameter with this official name."""
    weight = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(tuple(shape))
    weight *= 1 / math.sqrt(math.prod(shape[1:])) if len(shape) >= 2 else 0.1
    return torch.from_numpy(np.asarray(weight + float(is_norm), dtype=np.float32))


def renamed(*rules: tuple[str, str]) -> NameMap:
    """Return the name map that applies regular-expression substitutions one after the other."""

    def rename(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return rename


@dataclass(frozen=True)
class Case:
    """One golden case.

    Attributes:
        info: Content of the JSON file.
        arrays: Content of the npz file.
    """

    info: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def load(cls, slug: str, name: str = "case") -> Case:
        """Read ``<slug>/<name>.json`` and ``<slug>/<name>.npz``."""
        stem = FOLDER / slug / name
        with np.load(stem.with_suffix(".npz")) as arrays:
            return cls(json.loads(stem.with_suffix(".json").read_text()), dict(arrays))

    def table(self, key: str = "parameters", sub: str | None = None) -> Table:
        """Return a parameter table; ``sub`` picks one where the case has several under the same key."""
        rows = self.info[key] if sub is None else self.info[key][sub]
        return [(name, tuple(shape), bool(is_norm)) for name, shape, is_norm in rows]

    def __getitem__(self, key: str) -> Tensor:
        """Return an array; floats as float64, as the numbers of a case were measured."""
        tensor = torch.from_numpy(self.arrays[key].copy())
        return tensor.double() if tensor.is_floating_point() else tensor

    def __contains__(self, key: str) -> bool:
        """Return whether there is an array of this name."""
        return key in self.arrays


def _pieces(names: NameMap, official: str) -> Sequence[Piece]:
    found = names(official)
    return (Piece(found),) if isinstance(found, str) else found


@torch.no_grad()
def fill(model: nn.Module, table: Table, names: NameMap) -> None:
    """Write the prescribed weights into our parameters.

    Raises:
        AssertionError: When a tensor has another size than the official one, or when an element of a parameter of
            ours is not written exactly once: a map with a hole proves nothing.
    """
    ours = dict(model.named_parameters())
    written = {name: torch.zeros_like(parameter) for name, parameter in ours.items()}
    for official, shape, is_norm in table:
        pieces = _pieces(names, official)
        views = [(piece.view(ours[piece.name]), piece.view(written[piece.name])) for piece in pieces]
        if not views:
            continue
        sizes = [view.numel() for view, _ in views]
        assert sum(sizes) == math.prod(shape), f"{official} {shape}: our tensors have {sum(sizes)} elements"
        parts = golden_weight(official, shape, is_norm).reshape(-1).split(sizes)
        for (view, count), part in zip(views, parts, strict=True):
            view.copy_(part.reshape(view.shape))
            count += 1
    for name, count in written.items():
        assert bool((count == 1).all()), f"{name}: not every element is written exactly once by the name map"


def _norms(tensors: dict[str, Tensor | None], table: Table, names: NameMap) -> Tensor:
    norms = []
    for official, _, _ in table:
        parts = [(piece, tensors[piece.name]) for piece in _pieces(names, official)]
        flat = [piece.view(tensor).reshape(-1) for piece, tensor in parts if tensor is not None]
        norms.append(torch.cat(flat).norm() if flat else torch.zeros(()))
    return torch.tensor([norm.item() for norm in norms], dtype=torch.float64)


def gradient_norms(model: nn.Module, table: Table, names: NameMap) -> Tensor:
    """Return the L2 norm of the gradient of every official parameter, in table order, 0 where it is None."""
    return _norms({name: parameter.grad for name, parameter in model.named_parameters()}, table, names)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every parameter, by our names."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def parameter_norms(model: nn.Module, table: Table, names: NameMap, since: dict[str, Tensor] | None = None) -> Tensor:
    """Return the L2 norm of every official parameter, or of its change since a :func:`snapshot`, in table order."""
    now = snapshot(model)
    return _norms({name: now[name] - since[name] if since else now[name] for name in now}, table, names)


def batch_of(
    values: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor],
    label: Tensor,
    learned: Sequence[str] = MODALITIES,
    phase: str = "",
) -> Batch:
    """Return a batch of right-padded values; those of the modalities in ``learned`` get gradients."""
    inputs = {name: PaddedSequence(x.requires_grad_(name in learned), lengths[name]) for name, x in values.items()}
    return Batch(inputs, label, torch.arange(len(label)), phase=phase)


def close(ours: Tensor | float | Sequence[float], measured: Tensor, *, rtol: float, atol: float) -> None:
    """Check that a tensor, a number or a list of numbers is what was measured, within a tolerance."""
    found = ours.detach() if isinstance(ours, Tensor) else torch.tensor(ours, dtype=torch.float64)
    torch.testing.assert_close(found, measured, rtol=rtol, atol=atol)
