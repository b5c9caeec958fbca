"""MulT against numbers measured with the official code."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_modules.schema import Batch, PaddedSequence
from mmbench.methods.mult import MulT
from mmbench.methods.mult.network import MulTNetwork
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, renamed, snapshot
from tests.methods.mult.test_method import DIMS, data_spec, watch
from tests.methods.parts import count

CASE = Case.load("mult")
EXACT = {"rtol": 1e-8, "atol": 1e-10}
LETTERS = {"l": "text", "a": "audio", "v": "vision"}
PLAIN = MulT.Config(
    embed_dropout=0.0, attention_dropout=0.0, relu_dropout=0.0, residual_dropout=0.0, plateau_patience=0
)

official = renamed(
    *((rf"^proj_{short}\.", rf"project.{name}.") for short, name in LETTERS.items()),
    *((rf"^trans_{short}_mem", rf"memory.{name}") for short, name in LETTERS.items()),
    *(
        (rf"^trans_{t}_with_{s}", rf"crossmodal.{LETTERS[s]}_to_{LETTERS[t]}")
        for t in LETTERS
        for s in LETTERS
        if s != t
    ),
    (r"self_attn\.in_proj_", "attention.packed."),
    (r"self_attn\.out_proj", "attention.out"),
    (r"\.fc1\.", ".network.0."),
    (r"\.fc2\.", ".network.3."),
    (r"layer_norms\.0", "attention_norm"),
    (r"layer_norms\.1", "network_norm"),
    (r"\.layer_norm\.", ".norm."),
    (r"^proj1", "head.network.0"),
    (r"^proj2", "head.network.3"),
    (r"^out_layer", "head.out"),
)


def inputs_of(key, grad=False):
    values = {name: CASE[f"inputs.{key}.{name}"].requires_grad_(grad) for name in DIMS}
    return {name: PaddedSequence(values[name], CASE[f"inputs.{key}.{name}_lengths"]) for name in DIMS}


def build(sub, **settings):
    """Return our network, the official parameter table and the name map of a sub-case, weights filled."""
    key = "unaligned" if sub.startswith("unaligned") else "aligned"
    config = CASE.info["config"][key]
    dims = dict(zip(DIMS, config["dims_text_audio_vision"], strict=True))
    settings = {"padding": "left", "layers": config["layers"], **settings}
    table, absent = CASE.table(sub=key), ["proj_v"] if key == "unaligned" else []
    if "_only_" in sub:
        single = CASE.info["parameters_single_target"][sub]
        settings["only"] = LETTERS[sub[-1]]
        shapes = {name: tuple(shape) for name, shape in single["changed_shapes"].items()}
        table = [
            (name, shapes.get(name, shape), norm)
            for name, shape, norm in table
            if not name.startswith(tuple(single["removed"]))
        ]
        absent = single["gradient_none_prefixes"]
    extra = dict.fromkeys(DIMS, 9) if sub == "aligned_extra_padding" else None
    network = MulTNetwork(dims, config["output"], replace(PLAIN, **settings), extra).double().train()

    def names(name):
        return () if name.startswith(tuple(absent)) else official(name)

    fill(network, table, names)
    return network, table, names


def golden_loss(prediction, key):
    label = CASE[f"inputs.{key}.label"]
    if key == "unaligned":
        return F.cross_entropy(prediction.view(-1, 2), label.view(-1))
    return (prediction - label[:, None]).abs().mean()


def attention_map(layer, x, keys, _):
    """Attention weights of layer 0 by the explicit softmax, mean over heads; all steps take part."""
    heads = layer.attention.heads
    q, k, _ = layer.attention.packed(layer.attention_norm(torch.cat([x, keys], 1))).chunk(3, -1)
    q, k = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q[:, : x.shape[1]], k[:, x.shape[1] :]))
    steps, read = q.shape[2], k.shape[2]
    future = torch.arange(read) > torch.arange(steps)[:, None] + abs(read - steps)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(future, -torch.inf).softmax(-1).mean(1)


SUBCASES = [
    "aligned_full_length",
    "aligned",
    "unaligned",
    "aligned_nomask",
    "aligned_extra_padding",
    "unaligned_only_l",
    "unaligned_only_a",
    "unaligned_only_v",
]


@pytest.mark.parametrize("sub", SUBCASES)
def test_official_numbers(sub):
    network, table, names = build(sub, causal_mask=sub != "aligned_nomask")
    key = {"aligned_full_length": "full"}.get(sub, sub.split("_")[0])
    inputs = inputs_of(key, grad=True)
    first, outputs = watch(network)
    prediction, states = network(inputs)
    loss = golden_loss(prediction, key)
    loss.backward()
    compared = 0
    for name, value in {"prediction": prediction, "last_states": states}.items():
        torch.testing.assert_close(value, CASE[f"{sub}.outputs.{name}"], **EXACT)
    for t in LETTERS:
        for s in LETTERS:
            theirs, ours = f"trans_{t}_with_{s}", f"{LETTERS[s]}_to_{LETTERS[t]}"
            found = {
                theirs: lambda ours=ours: outputs[ours],
                f"embedded_query.{theirs}": lambda ours=ours: first[ours][0],
                f"embedded_source.{theirs}": lambda ours=ours: first[ours][1],
                f"attention_layer0.{theirs}": lambda ours=ours: attention_map(
                    network.crossmodal[ours].layers[0], *first[ours]
                ),
            }
            for name, value in found.items():
                if f"{sub}.outputs.{name}" in CASE:
                    torch.testing.assert_close(value(), CASE[f"{sub}.outputs.{name}"], **EXACT)
                    compared += 1
    assert compared == (10 if sub in ("aligned", "unaligned") else 0)
    torch.testing.assert_close(loss, CASE[f"{sub}.losses.total"], **EXACT)
    torch.testing.assert_close(gradient_norms(network, table, names), CASE[f"{sub}.gradnorm"], **EXACT)
    got = torch.stack([sequence.values.grad.norm() for sequence in inputs.values()])
    torch.testing.assert_close(got, CASE[f"{sub}.gradnorm_inputs"], **EXACT)


def test_masked_padding_equals_the_official_code_where_nothing_is_padded():
    network, table, names = build("aligned_full_length", padding="masked")
    prediction, states = network(inputs_of("full"))
    golden_loss(prediction, "full").backward()
    torch.testing.assert_close(prediction, CASE["aligned_full_length.outputs.prediction"], **EXACT)
    torch.testing.assert_close(states, CASE["aligned_full_length.outputs.last_states"], **EXACT)
    torch.testing.assert_close(gradient_norms(network, table, names), CASE["aligned_full_length.gradnorm"], **EXACT)


def test_official_training_steps():
    spec = data_spec(dict(zip(DIMS, (12, 5, 7), strict=True)), lengths=(6, 6, 6))
    method = MulT(spec, config=replace(PLAIN, padding="left", layers=2)).double()
    table = CASE.table(sub="aligned")
    network, names = method.network, official
    fill(network, table, names)
    start = snapshot(network)
    (optimizer,) = method.configure_optimizers()
    losses, norms = [], []
    for key in ("aligned", "step1", "step2"):
        batch = Batch(inputs_of(key), CASE[f"inputs.{key}.label"], torch.arange(5))
        loss = sum(method.objective(method(batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(method.parameters(), method.config.gradient_clip))
        optimizer.step()
        losses.append(loss.detach())
    close = {"rtol": 1e-6, "atol": 1e-10}
    torch.testing.assert_close(torch.stack(losses), CASE["steps.losses.total"], **close)
    torch.testing.assert_close(torch.stack(norms), CASE["steps.total_norm"], **close)
    torch.testing.assert_close(parameter_norms(network, table, names, start), CASE["steps.update_norm"], **close)
    torch.testing.assert_close(network(inputs_of("full"))[0], CASE["steps.after.prediction"], **close)


@pytest.mark.parametrize("sub", SUBCASES)
def test_official_parameter_counts_less_what_is_never_used(sub):
    network, table, names = build(sub)
    unused = sum(math.prod(shape) for name, shape, _ in table if not names(name))
    # The skipped projection 30 -> 30, and in single-target models two of the three memory encoders.
    assert unused == 900 * sub.startswith("unaligned") + 2 * count(network.memory[network.targets[0]]) * (
        "_only_" in sub
    )
    assert count(network) == CASE.info["parameter_count"][sub] - unused
