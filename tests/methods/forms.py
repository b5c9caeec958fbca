"""The two forms of a batch: rows of the real steps alone, as on a CPU, and rows of all steps, as on other devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from mmbench.nn.steps import Layout


@contextmanager
def padded_form() -> Iterator[None]:
    """Have layouts whose rows are all steps, by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout.__init__, "__defaults__", (False,))
        yield


def assert_forms_agree(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Check that both forms give the same result and the same gradients of its squares; without dropout, in double."""
    found = []
    for form in (None, padded_form()):
        module.zero_grad()
        if form is None:
            result = run()
        else:
            with form:
                result = run()
        result.square().sum().backward()
        found.append((result.detach(), {name: value.grad for name, value in module.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def watch_steps(encoder: nn.Module, keep: Callable[[Tensor], None]) -> None:
    """Hand over what an encoder makes of every step ``(B, T, d)``, also where only the last one is wanted."""
    encoder.register_forward_pre_hook(
        lambda _, args, kwargs: keep(args[1].padded(encoder.forward(*args, **kwargs | {"last": False}))),
        with_kwargs=True,
    )
