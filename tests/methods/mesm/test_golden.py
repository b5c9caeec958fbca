"""FE2E and MESM against numbers of the official code; see ``tests/golden/mesm/README.md``."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_modules.schema import Batch, PaddedSequence
from mmbench.methods.mesm import rarity
from tests.golden.cases import gradient_norms, parameter_norms, snapshot
from tests.methods.mesm.golden_parts import (
    BATCH,
    CASE,
    EXACT,
    FACES,
    HIDDEN,
    LABEL_TABLE,
    LETTERS,
    SINGLE,
    SPECTROGRAM,
    assert_parts,
    buffer_norms,
    build,
    count,
    forget,
    loss_of,
    official,
    parts,
    watch,
)


def test_the_inputs_are_the_prescribed_ones():
    assert CASE["inputs.faces_sum"] == FACES.long().sum()
    assert torch.equal(CASE["inputs.faces_first8"], FACES.flatten()[:8])
    torch.testing.assert_close(CASE["inputs.specs_norm"], SPECTROGRAM.double().norm(), **EXACT)
    torch.testing.assert_close(CASE["inputs.hidden_norm"], HIDDEN.double().norm(), **EXACT)
    assert np.array_equal(CASE.arrays["inputs.label_table"], LABEL_TABLE)


def test_rare_labels_weigh_as_in_the_official_code():
    torch.testing.assert_close(rarity(torch.from_numpy(LABEL_TABLE)).double(), CASE["outputs.pos_weight"])


# The dense model


@pytest.fixture(scope="module")
def dense():
    """Evaluation, then three Adam steps, of which the first is the case in training mode."""
    table = CASE.table("table_fe2e")
    method = build(table)
    network, seen, got = method.network, watch(method.network), {"table": table}
    got["count"] = count(network)
    with torch.no_grad():
        output = method.eval()(BATCH)
        got["eval"], got["eval_loss"] = parts(output, seen), loss_of(method, output)
        got["eval_f32"] = method.float()(SINGLE).prediction
    method.double().train()
    (optimizer,) = method.configure_optimizers()
    start, losses = snapshot(network), []
    for step in range(3):
        batch = replace(BATCH, target=BATCH.target.roll(step, 0))
        output = method(batch)
        loss = loss_of(method, output, batch)
        optimizer.zero_grad()
        loss.backward()
        if not step:
            hidden = method.text_encoder.hidden.grad.view(3, 2, -1)
            got |= {"train": parts(output, seen), "hidden": hidden.clone()}
            got["gradients"] = gradient_norms(network, table, official())
            got["buffers"] = buffer_norms(network, CASE.info["bn_fe2e"])
        optimizer.step()
        losses.append(loss.detach())
    got["losses"] = torch.stack(losses)
    got["changes"] = parameter_norms(network, table, official(), since=start)
    return got


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_dense_outputs(dense, mode):
    assert_parts(dense[mode], f"fe2e_{mode}")
    torch.testing.assert_close(dense["eval_f32"].double(), CASE["outputs.fe2e_eval.logits_f32"], atol=1e-4, rtol=0)


def test_dense_losses_gradients_and_statistics(dense):
    torch.testing.assert_close(dense["eval_loss"], CASE["losses.fe2e_eval.bce"], **EXACT)
    torch.testing.assert_close(dense["losses"][0], CASE["losses.fe2e_train.bce"], **EXACT)
    torch.testing.assert_close(dense["gradients"], CASE["gradnorm.fe2e_train"], **EXACT)
    torch.testing.assert_close(dense["hidden"][:, 0].norm(dim=1), CASE["grad.fe2e_train.hidden_first_token_norm"])
    assert (dense["hidden"][:, 1] == 0).all()
    torch.testing.assert_close(dense["buffers"], CASE["buffers_norm.fe2e_train"], **EXACT)


def test_dense_adam_steps(dense):
    torch.testing.assert_close(dense["losses"], CASE["losses.fe2e_train.three_adam_steps"], **EXACT)
    expected = CASE["state.fe2e_train.param_change_norm_after_three_steps"]
    silent = set(CASE.info["zero_gradients"]["fe2e_train"]["zero_up_to_rounding"])
    told = torch.tensor([name not in silent for name, *_ in dense["table"]])  # Adam turns rounding into full steps
    torch.testing.assert_close(dense["changes"][told], expected[told], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("key", "modalities"), [("fe2e_tv_eval", ("text", "vision")), ("fe2e_a_eval", ("audio",))])
def test_dense_subsets(key, modalities):
    letters = tuple(LETTERS[name] for name in modalities)
    own = tuple(f"{mark}{end}" for letter in letters for mark, end in ((letter, "_"), (letter.upper(), ".")))
    table = [row for row in CASE.table("table_fe2e") if row[0].startswith(own)]
    if len(modalities) > 1:
        table.append(("weighted_fusion.weight", (1, len(modalities)), False))
    method = build(table, modalities).eval()
    with torch.no_grad():
        prediction = method(replace(BATCH, inputs={name: BATCH.inputs[name] for name in modalities})).prediction
    torch.testing.assert_close(prediction, CASE[f"outputs.{key}.logits"], **EXACT)


# The sparse model

VARIANTS = {"mesm_official": ("none", True), "mesm_paired": ("none", False), "mesm_paired_gate": ("prob", False)}


@pytest.fixture(scope="module")
def sparse():
    """The sparse model; the attention can be frozen and the towers switched."""
    method = build(CASE.table("table_mesm"), sparse=True)
    buffers = {name: value.clone() for name, value in method.network.named_buffers()}
    return method, watch(method.network), buffers


def switch(method, variant):
    gate, order = VARIANTS[variant]
    for name in ("vision", "audio"):
        tower = method.network.encoders[name].tower
        tower.gate, tower.legacy_order = gate, order
        tower.attentions.requires_grad_(gate != "none")


@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_training(sparse, variant):
    method, seen, buffers = sparse
    forget(method.network, buffers)
    switch(method, variant)
    method.text_encoder.hidden.grad = None
    output = method.train()(BATCH)
    loss = loss_of(method, output)
    loss.backward()
    assert_parts(parts(output, seen), f"{variant}_train")
    torch.testing.assert_close(loss.detach(), CASE[f"losses.{variant}_train.bce"], **EXACT)
    table = CASE.table("table_mesm")
    norms = gradient_norms(method.network, table, official())
    torch.testing.assert_close(norms, CASE[f"gradnorm.{variant}_train"].nan_to_num(), **EXACT)
    untouched = {name for name, parameter in method.network.named_parameters() if parameter.grad is None}
    attention = {name for name, _ in method.network.named_parameters() if ".attentions." in name}
    assert untouched == (attention if VARIANTS[variant][0] == "none" else set())
    hidden = method.text_encoder.hidden.grad.view(3, 2, -1)
    torch.testing.assert_close(hidden[:, 0].norm(dim=1), CASE[f"grad.{variant}_train.hidden_first_token_norm"], **EXACT)
    assert (hidden[:, 1] == 0).all()
    found = buffer_norms(method.network, CASE.info["bn_mesm"])
    torch.testing.assert_close(found, CASE[f"buffers_norm.{variant}_train"], **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_sparse_evaluation(sparse, variant):
    method, seen, buffers = sparse
    forget(method.network, buffers)
    switch(method, variant)
    with torch.no_grad():
        output = method.eval()(BATCH)
    assert_parts(parts(output, seen), f"{variant}_eval")
    torch.testing.assert_close(loss_of(method, output), CASE[f"losses.{variant}_eval.bce"], **EXACT)


@pytest.mark.parametrize("variant", ["mesm_official", "mesm_paired"])
def test_the_order_of_sites_matters_to_several_frames_only(sparse, variant):
    method, _, buffers = sparse
    forget(method.network, buffers)
    switch(method, variant)
    one = {
        name: PaddedSequence(item.values[:1, :1], torch.ones(1, dtype=torch.long))
        for name, item in BATCH.inputs.items()
    }
    with torch.no_grad():
        prediction = method.eval()(Batch(one, BATCH.target[:1], BATCH.index[:1])).prediction
    torch.testing.assert_close(prediction, CASE["outputs.mesm_official_eval_one_frame_one_piece.logits"], **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_precision_selects_the_same(sparse, variant):
    method, seen, buffers = sparse
    forget(method.network, buffers)
    switch(method, variant)
    try:
        with torch.no_grad():
            found = parts(method.float().train()(SINGLE), seen)
    finally:
        method.double()
    expected = CASE[f"outputs.{variant}_train.logits_f32"].float()
    torch.testing.assert_close(found["logits"], expected, atol=1e-4, rtol=0)
    for name in (f"{letter}_n{block}" for letter in "av" for block in (1, 2, 3)):
        assert torch.equal(found[name], CASE[f"outputs.{variant}_train.{name}"])


def test_published_parameter_counts(dense, sparse):
    counts = CASE.info["parameter_count"]
    for found, key in ((dense["count"], "fe2e"), (count(sparse[0].network), "mesm")):
        assert found == counts[f"{key}_without_albert"]
    assert counts == {"fe2e_without_albert": 25_098_901, "mesm_without_albert": 25_957_275}
