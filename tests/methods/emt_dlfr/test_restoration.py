"""What EMT-DLFR restores: how far it is from what was there, and where."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.methods.emt_dlfr import restoration
from tests.methods.emt_dlfr.test_method import build, damaged
from tests.methods.parts import terms_of


def test_restoration_is_the_mean_smooth_distance_in_missing_steps():
    torch.manual_seed(0)
    restored, features = 3 * torch.randn(2, 4, 5, 3)
    missing = torch.rand(4, 5) < 0.5
    total, numbers = 0.0, 0
    for b, t in missing.nonzero().tolist():
        for d in range(3):
            gap = abs(float(restored[b, t, d] - features[b, t, d]))
            total += gap * gap / 2 if gap < 1 else gap - 0.5
            numbers += 1
    assert restoration(restored, features, missing).item() == pytest.approx(total / numbers)
    assert restoration(restored, features, missing & False) == 0


def altered(batch, name, where):
    """Return the batch with another intact view in some places of a modality."""
    item = batch.complete[name]
    values = torch.where(where[..., None], item.values + 5.0, item.values)
    return replace(batch, complete={**batch.complete, name: PaddedSequence(values, item.lengths)})


@pytest.mark.parametrize("states", ["words", "bert"])
def test_only_missing_steps_are_restored(states):
    method, batch = build(text_states=states, attraction=0.0).train(), damaged()
    before = terms_of(method, batch)
    for name, item in batch.inputs.items():
        missing = item.mask & ~batch.kept[name]
        if name == "text" and states == "bert":  # the marks at both ends are no local features
            missing[:, 0] = missing[torch.arange(12), item.lengths - 1] = False
        assert missing.any()
        assert not missing.all()
        after = terms_of(method, altered(batch, name, ~missing))
        assert after == before
        after = terms_of(method, altered(batch, name, missing))
        assert {key for key in before if after[key] != before[key]} == {f"restoration_{name}"}


def test_everything_missing_is_everything_restored():
    method, batch = build(attraction=0.0).train(), damaged()
    gone = {name: PaddedSequence(torch.zeros_like(item.values), item.lengths) for name, item in batch.inputs.items()}
    batch = replace(batch, inputs=gone, kept={name: mask & False for name, mask in batch.kept.items()})
    terms, output = terms_of(method, batch), method(batch)
    for name, item in batch.complete.items():
        restored = method.restorers[name](output.named[f"steps_{name}"])
        expected = nn.functional.smooth_l1_loss(restored[item.mask], item.values[item.mask])
        torch.testing.assert_close(terms[f"restoration_{name}"], expected)


def test_targets_of_restoration_get_no_gradient():
    method, batch = build(attraction=0.0).train(), damaged()
    for item in batch.complete.values():
        item.values.requires_grad_()
    sum(terms_of(method, batch).values()).backward()
    assert all(item.values.grad is None for item in batch.complete.values())
