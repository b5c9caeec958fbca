"""LMR-CBT against numbers measured with the official code; see ``tests/golden/lmr_cbt/README.md``."""

import contextlib

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES
from mmbench.methods.lmr_cbt import LMRCBT
from tests.golden.cases import Case, batch_of, fill, gradient_norms, parameter_norms, renamed, snapshot
from tests.methods.forms import watch_steps
from tests.methods.parts import count, spec_of

DIMS = {"text": 12, "audio": 6, "vision": 7}
STEPS = {"text": 9, "audio": 17, "vision": 13}
SPEC = spec_of(DIMS, STEPS)
PLAIN = {
    "layers": 2,
    "embed_dropout": 0.0,
    "lstm_dropout": 0.0,
    "attention_dropout": 0.0,
    "relu_dropout": 0.0,
    "residual_dropout": 0.0,
    "output_dropout": 0.0,
    "plateau_patience": 0,
}
LETTERS = {"l": "text", "a": "audio", "v": "vision"}
OUTPUTS = {"rtol": 1e-6, "atol": 1e-6}
GRADIENTS = {"rtol": 1e-5, "atol": 1e-8}
LOOP = {"rtol": 1e-5, "atol": 1e-7}

_rename = renamed(
    *((rf"^proj_{short}\.", rf"local.{name}.convolution.") for short, name in LETTERS.items()),
    *((rf"^bn_{short}\.", rf"local.{name}.norm.") for short, name in LETTERS.items()),
    *((rf"^trans_{short}_mem", rf"encoders.{name}") for short, name in LETTERS.items()),
    *((rf"^cross_{short}\.0", rf"blocks.{name}") for short, name in LETTERS.items()),
    (r"^lstm\.", "local.text.lstm.rnn."),
    (r"channel_affine", "step"),
    (r"y_affine", "vector"),
    (r"self_attn\.in_proj_", "attention.packed."),
    (r"self_attn\.out_proj", "attention.out"),
    (r"\.fc1\.", ".network.0."),
    (r"\.fc2\.", ".network.3."),
    (r"layer_norms\.0", "attention_norm"),
    (r"layer_norms\.1", "network_norm"),
    (r"\.layer_norm\.", ".norm."),
    (r"^proj1", "head.0"),
    (r"^proj2", "head.3"),
    (r"^out_layer", "head.4"),
)


def official(name):
    """Return our parameter; there is none for the scorers that the official blocks own and never use."""
    return () if "attn_weight_affine" in name else _rename(name)


def build(case, **settings):
    legacy = settings.get("legacy_batch_lstm", False)
    with pytest.warns(UserWarning, match="reproduces a bug") if legacy else contextlib.nullcontext():
        method = LMRCBT(SPEC, config=LMRCBT.Config(**PLAIN | settings)).double()
    fill(method.network, case.table(), official)
    return method


def right_padded(values, lengths):
    """Move the real steps of left-padded values to the front."""
    moved = torch.zeros_like(values)
    for row, length in enumerate(lengths.tolist()):
        moved[row, :length] = values[row, values.shape[1] - length :]
    return moved


def golden_batch(case, rows=slice(None)):
    lengths = {name: case[f"inputs.{name}_lengths"][rows] for name in MODALITIES}
    values = {name: right_padded(case[f"inputs.{name}"][rows], lengths[name]) for name in MODALITIES}
    return batch_of(values, lengths, case["inputs.labels"][rows, 0])


def watch(network):
    """Return a dictionary that fills with the official names of what the network computes."""
    seen = {}

    def keep(key, rows, layout):
        seen[key] = layout.padded(rows)

    for key, name in (("X", "text"), ("local_audio", "audio"), ("local_vision", "vision")):
        network.local[name].register_forward_hook(lambda _, __, out, key=key: keep(key, *out))
    for name, encoder in network.encoders.items():
        watch_steps(encoder, lambda steps, name=name: seen.__setitem__(f"enc_{name}", steps))
    network.encoders["text"].register_forward_pre_hook(lambda _, args: keep("X_f", *args))
    for key, name in (("Z1", "vision"), ("Z2", "audio")):
        network.blocks[name].register_forward_hook(lambda _, args, out, key=key: keep(key, out, args[1]))
    return seen


CASES = [
    ("case", {"padding": "left", "legacy_batch_lstm": True}),
    ("case_fixed", {"padding": "left"}),
    ("case_fixed_full", {"padding": "left"}),
    ("case_fixed_full", {"padding": "masked"}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_official_numbers(name, settings):
    case = Case.load("lmr_cbt", name)
    method, batch = build(case, **settings).train(), golden_batch(case)
    seen = watch(method.network)
    output = method(batch)
    terms = method.objective(output, batch)
    assert set(terms) == {"task"}
    terms["task"].backward()

    states = output.named["states"]
    found = seen | {"prediction": output.prediction, "s": states}
    found |= {f"F_{short}": part for short, part in zip("fav", states.chunk(3, dim=1), strict=True)}
    stored = {key.removeprefix("outputs.") for key in case.arrays if key.startswith("outputs.")}
    assert stored - set(found) == {"prediction_eval", "leak"}  # which have a test of their own
    for key in stored & set(found):
        torch.testing.assert_close(found[key], case[f"outputs.{key}"], **OUTPUTS)
    torch.testing.assert_close(terms["task"], case["losses.total"], **OUTPUTS)
    torch.testing.assert_close(gradient_norms(method.network, case.table(), official), case["gradnorm"], **GRADIENTS)
    for modality, sequence in batch.inputs.items():
        expected = right_padded(case[f"gradinput.{modality}"], sequence.lengths)
        torch.testing.assert_close(sequence.values.grad, expected, **OUTPUTS)
    compare_statistics(method.network, case)


def compare_statistics(network, case):
    for short in "av":
        norm = network.local[LETTERS[short]].norm
        torch.testing.assert_close(norm.running_mean, case[f"state.bn_{short}.running_mean"], **OUTPUTS)
        torch.testing.assert_close(norm.running_variance, case[f"state.bn_{short}.running_var"], **OUTPUTS)


@pytest.mark.parametrize(("name", "settings"), CASES)
@torch.no_grad()
def test_official_evaluation_and_leak(name, settings):
    case = Case.load("lmr_cbt", name)
    method, batch = build(case, **settings).eval(), golden_batch(case)
    before = method(batch).prediction
    torch.testing.assert_close(before, case["outputs.prediction_eval"], **OUTPUTS)
    batch.inputs["text"].values[0] += 1.0
    moved = (method(batch).prediction - before).abs()[:, 0]
    torch.testing.assert_close(moved, case["outputs.leak"], **OUTPUTS)
    assert moved[0] > 1e-3
    assert (moved[1:] > 1e-6).all() == (name == "case")
    if name != "case":
        assert moved[1:].max() < 1e-12


@pytest.mark.parametrize("padding", ["left", "masked"])
def test_official_training_steps(padding):
    case = Case.load("lmr_cbt", "case_trajectory")
    table = case.table()
    method = LMRCBT(SPEC, config=LMRCBT.Config(**PLAIN, padding=padding)).double().train()
    network = method.network
    fill(network, table, official)
    (optimizer,) = method.configure_optimizers()
    losses, norms = [], []
    for step in range(3):
        batch = golden_batch(case, slice(5 * step, 5 * step + 5))
        before = snapshot(network)
        loss = sum(method.objective(method(batch), batch).values())
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(method.parameters(), method.config.gradient_clip))
        optimizer.step()
        losses.append(loss.detach())
        changed = parameter_norms(network, table, official, since=before)
        torch.testing.assert_close(changed, case[f"state.delta_norm_step{step + 1}"], **LOOP)
    torch.testing.assert_close(torch.stack(losses), case["losses.total_per_batch"], **LOOP)
    torch.testing.assert_close(torch.stack(norms), case["state.grad_norm_before_clip"], **LOOP)
    unused = torch.tensor(["attn_weight_affine" in name for name, _, _ in table])
    assert not case["state.delta_norm_step3"][unused].any()
    expected = case["state.param_norm_end"]
    torch.testing.assert_close(parameter_norms(network, table, official)[~unused], expected[~unused], **LOOP)
    ours = dict(network.named_parameters())
    for key in (key for key in case.arrays if key.startswith("state.end.")):
        torch.testing.assert_close(ours[official(key.removeprefix("state.end."))].detach(), case[key], **LOOP)
    compare_statistics(network, case)


def test_official_parameter_count_less_what_is_never_used():
    case = Case.load("lmr_cbt")
    ours = count(build(case).network)
    assert ours == case.info["parameter_count"] - 2 * 41
