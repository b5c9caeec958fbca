"""The fusion block of EMT-DLFR alone against numbers of the official code; see ``tests/golden/emt_dlfr/README.md``."""

from functools import partial

import pytest
import torch

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.emt_dlfr.mutual_promotion import MutualPromotion
from mmbench.nn.steps import Steps
from tests.golden import cases
from tests.golden.cases import Case, fill, gradient_norms
from tests.methods.emt_dlfr.parts import name_map
from tests.methods.parts import count

close = partial(cases.close, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shared", [True, False])
def test_golden_fusion(shared):
    case = Case.load("emt_dlfr", f"case_fusion_{'shared' if shared else 'unshared'}")
    names, c = name_map(shared), case.info["config"]
    fusion = MutualPromotion(
        MODALITIES,
        c["dim"],
        c["depth"],
        c["heads"],
        c["ff_expansion"],
        share_directions=shared,
        share_modalities=shared,
        share_layers=shared,
    ).double()
    fill(fusion, case.table(), names)
    assert count(fusion) == case.info["parameter_count"]
    start = case["inputs.G_0"].requires_grad_()
    inputs = {
        name: PaddedSequence(case[f"inputs.{name}"].requires_grad_(), case[f"inputs.{name}_lengths"])
        for name in MODALITIES
    }
    rows = {name: Steps.of(item) for name, item in inputs.items()}
    tokens, steps = fusion.tokens(start), {name: fusion.embed(item) for name, item in rows.items()}
    for number in range(c["depth"]):
        tokens, steps, weights = fusion.layer(number, tokens, steps, local=True)
        context = tokens.padded()
        close(context, case[f"outputs.G_{number + 1}"])
        close(weights, case[f"outputs.pool_weights_{number + 1}"])
    at_once, _ = fusion(start, rows)
    torch.testing.assert_close(at_once, context)
    total = (context * case["inputs.coef_G"]).sum()
    for name in inputs:
        found = steps[name].padded()
        close(found, case[f"outputs.H_{name}"])
        total = total + (found * case[f"inputs.coef_{name}"]).sum()
    close(total, case["losses.total"])
    total.backward()
    close(gradient_norms(fusion, case.table(), names), case["gradnorm"])
    close(start.grad, case["gradinput.G_0"])
    for name, item in inputs.items():
        close(item.values.grad, case[f"gradinput.{name}"])
