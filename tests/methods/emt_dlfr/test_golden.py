"""EMT-DLFR against numbers of the official code; see ``tests/golden/emt_dlfr/README.md``."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from data_modules.schema import MODALITIES, Batch, PaddedSequence
from mmbench.methods.emt_dlfr import EMTDLFR
from tests.golden import cases
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, snapshot
from tests.methods.emt_dlfr.parts import name_map
from tests.methods.parts import count, spec_of, terms_of

# The trajectory trains on prescribed batches and has no validation.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

CASE, TRAJECTORY = (Case.load("emt_dlfr", name) for name in ("case", "case_trajectory"))
DIMS = dict(zip(MODALITIES, CASE.info["config"]["feature_dims"], strict=True))
SPEC = spec_of(DIMS, 13)
SHORT = {"context": "gmc_tokens", "text": "text", "audio": "audio", "vision": "vision"}

names = name_map()
close = partial(cases.close, rtol=1e-9, atol=1e-10)


class Observed(EMTDLFR):
    """EMT-DLFR that notes what the trajectory has stored."""

    def __init__(self, config):
        super().__init__(SPEC, config=config)
        self.losses, self.after = [], []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(outputs)
        self.after.append(snapshot(self))


def golden_method(**settings):
    c = CASE.info["config"]
    config = {
        "text_states": "bert",
        "hidden_audio": c["a_lstm_hidden_size"],
        "out_audio": c["audio_out"],
        "hidden_vision": c["v_lstm_hidden_size"],
        "out_vision": c["video_out"],
        "dim": c["d_model"],
        "heads": c["heads"],
        "layers": c["fusion_layers"],
        "head": c["post_fusion_dim"],
        "bottleneck_context": c["gmc_tokens_pred_dim"],
        "bottleneck_text": c["text_pred_dim"],
        "attention_dropout": 0.0,
        "network_dropout": 0.0,
        "head_dropout": 0.0,
    }
    method = Observed(EMTDLFR.Config(**(config | settings))).double()
    fill(method, CASE.table(), names)
    return method


def golden_batch(case=CASE, rows=slice(None), grad=False):
    """Return samples as the loader would: cut to the longest of them."""
    lengths = {name: case[f"inputs.{name}_lengths"][rows] for name in ("audio", "vision")}
    lengths["text"] = case["inputs.text_mask"][rows].sum(1)
    views = {}
    for suffix in ("", "_m"):
        keys = {"text": f"inputs.text_hidden{suffix}"} | {m: f"inputs.{m}{suffix}" for m in ("audio", "vision")}
        views[suffix] = {
            name: PaddedSequence(case[keys[name]][rows][:, : lengths[name].max()].requires_grad_(grad), lengths[name])
            for name in MODALITIES
        }
    kept = {name: case[f"inputs.{name}_kept"][rows].bool()[:, : lengths[name].max()] for name in MODALITIES}
    label = case["inputs.labels"][rows]
    return Batch(views["_m"], label, torch.arange(len(label)), complete=views[""], kept=kept)


def grouped(terms):
    """Return the loss as the official code adds it up."""
    return {
        "task": terms["task"],
        "attra": sum(term for name, term in terms.items() if name.startswith("attraction")) + terms["complete"],
        "recon": sum(term for name, term in terms.items() if name.startswith("restoration")),
    }


# One training step


def test_golden_parameter_table_is_complete():
    assert count(golden_method()) == CASE.info["parameter_count"]


def test_golden_terms():
    terms = terms_of(golden_method().train(), golden_batch())
    close(terms["task"], CASE["losses.pred_m"])
    close(terms["complete"], CASE["losses.pred"])
    for name in MODALITIES:
        close(terms[f"attraction_{name}"], CASE[f"losses.attra_{name}"])
        close(terms[f"restoration_{name}"], CASE[f"losses.recon_{name}"])
    close(terms["attraction_context"], CASE["losses.attra_gmc"])
    close(grouped(terms)["attra"], CASE["losses.attra"])
    close(grouped(terms)["recon"], CASE["losses.recon"])
    close(sum(terms.values()), CASE["losses.total"])


@pytest.mark.parametrize("part", ["total", "task", "attra", "recon"])
def test_golden_gradients(part):
    method = golden_method().train()
    terms = terms_of(method, golden_batch())
    (sum(terms.values()) if part == "total" else grouped(terms)[part]).backward()
    stored = CASE["gradnorm" if part == "total" else f"gradnorm_{part}"]
    close(gradient_norms(method, CASE.table(), names), stored)


def test_golden_gradients_of_the_text_states():
    method, batch = golden_method().train(), golden_batch(grad=True)
    sum(terms_of(method, batch).values()).backward()
    close(batch.complete["text"].values.grad, CASE["gradinput.text_hidden"])
    close(batch.inputs["text"].values.grad, CASE["gradinput.text_hidden_m"])


@pytest.mark.parametrize("suffix", ["", "_m"])
def test_golden_outputs(suffix):
    method, batch = golden_method().train(), golden_batch()
    contexts = []
    method.network.fusion.register_forward_pre_hook(lambda module, inputs: contexts.append(inputs[0]))
    view = method.network(batch.inputs if suffix else batch.complete, local=True)
    close(view.prediction, CASE[f"outputs.pred{suffix}"])
    close(contexts[0], CASE[f"outputs.G_0{suffix}"])
    close(view.h["context"].view_as(contexts[0]), CASE[f"outputs.G_L{suffix}"])
    for name in ("audio", "vision"):
        close(view.h[name], CASE[f"outputs.h_{name}{suffix}"])
    for name in MODALITIES:
        valid = CASE[f"outputs.valid_{name}"].unsqueeze(-1)
        steps = view.steps[name][:, : valid.shape[1]]  # our text has one more step, for texts without words
        close(steps * valid, CASE[f"outputs.H_{name}{suffix}"])
        if suffix:
            close(method.restorers[name](steps) * valid, CASE[f"outputs.{name}_recon"])
    for name, simsiam in method.attractions.items():
        projected = simsiam.projector(view.h[name])
        close(projected, CASE[f"outputs.z_{SHORT[name]}{suffix}"])
        close(simsiam.predictor(projected), CASE[f"outputs.p_{SHORT[name]}{suffix}"])


def buffers_of(method):
    """Yield the running statistics with the names of the case."""
    for name, buffer in method.named_buffers():
        match = re.fullmatch(r"attractions\.(\w+)\.(projector|predictor)\.1\.(.*)", name)
        if match:
            yield f"state.{SHORT[match[1]].replace('vision', 'video')}_{match[2]}.net.1.{match[3]}", buffer


def test_golden_running_statistics():
    method = golden_method().train()
    terms_of(method, golden_batch())
    found = dict(buffers_of(method))
    assert set(found) == {key for key in CASE.arrays if key.startswith("state.")}
    for key, buffer in found.items():
        close(buffer, CASE[key])


def test_golden_loss_with_running_statistics():
    method, batch = golden_method().eval(), golden_batch()
    method.training = True  # the intact view is looked at in training alone; its parts are in evaluation mode
    terms = terms_of(method, batch)
    close(sum(terms.values()), CASE["losses.eval_total"])
    close(terms["task"], CASE["losses.eval_pred_m"])


def test_golden_in_single_precision():
    method = golden_method().train().float()
    batch = golden_batch()

    def single(view):
        return {name: PaddedSequence(item.values.float(), item.lengths) for name, item in view.items()}

    batch = replace(batch, inputs=single(batch.inputs), complete=single(batch.complete), target=batch.target.float())
    total = sum(terms_of(method, batch).values())
    total.backward()
    close(total.double(), CASE["losses.total"], rtol=1e-4, atol=2e-5)
    close(gradient_norms(method, CASE.table(), names), CASE["gradnorm"], rtol=1e-3, atol=1e-5)


# One epoch


def test_golden_epoch():
    """Nine batches, a step after every four; the official loop throws the ninth away, where ours takes a step."""
    size, count = TRAJECTORY.info["config"]["traj_B"], TRAJECTORY.info["config"]["traj_batches"]
    batches = [golden_batch(TRAJECTORY, slice(k * size, (k + 1) * size)) for k in range(count)]
    method = golden_method(accumulate=4)
    start = snapshot(method)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, train_dataloaders=DataLoader(batches, batch_size=None))
    loop = {"rtol": 1e-5, "atol": 1e-7}
    close([float(loss["loss"]) for loss in method.losses], TRAJECTORY["losses.total_per_batch"], **loop)
    table = CASE.table()
    assert table == TRAJECTORY.table()
    first, second, last = method.after[3], method.after[7], method.after[8]
    for index in (0, 1, 2):
        assert all(torch.equal(method.after[index][name], value) for name, value in start.items())
    for before, after, key in ((start, first, "state.delta_norm_step1"), (first, second, "state.delta_norm_step2")):
        changed = golden_method()
        changed.load_state_dict(after, strict=False)
        close(parameter_norms(changed, table, names, since=before), TRAJECTORY[key], **loop)
    close(parameter_norms(changed, table, names), TRAJECTORY["state.param_norm_end"], **loop)
    whole = [key for key in TRAJECTORY.arrays if key.startswith("state.end.")]
    assert len(whole) == 4
    for key in whole:
        close(second[names(key.removeprefix("state.end."))], TRAJECTORY[key], **loop)
    for key, buffer in buffers_of(method):
        close(buffer, TRAJECTORY[key], **loop)
    assert not any(torch.equal(last[name], value) for name, value in second.items())


def test_golden_optimiser_groups():
    class Encoder(nn.Module):
        """A text encoder that has the parameters of the case."""

        def __init__(self, found):
            super().__init__()
            self.found = nn.ParameterDict(
                {
                    name.replace(".", "/"): nn.Parameter(
                        torch.zeros((2,) if "LayerNorm" in name or "bias" in name else (2, 2))
                    )
                    for name in found
                }
            )

    official = CASE.info["optimiser_groups"]["groups"]
    text = [name for group in official[:2] for name in group["params"]]
    method = golden_method()
    method.text_encoder = Encoder(text)
    where = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = method.parameter_groups()["main"]
    assert len(groups) == len(official)
    for ours, theirs in zip(groups, official, strict=True):
        assert ours.get("lr", method.config.lr) == theirs["lr"]
        assert ours.get("weight_decay", method.config.weight_decay) == theirs["weight_decay"]
        expected = set()
        for name in theirs["params"]:
            found = names(name)
            if name in text:
                expected.add(f"text_encoder.found.{name.replace('.', '/')}")
            else:
                expected |= {found} if isinstance(found, str) else {piece.name for piece in found}
        assert {where[id(parameter)] for parameter in ours["params"]} == expected
