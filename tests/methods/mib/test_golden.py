"""MIB against numbers of the official code; see ``tests/golden/mib/README.md``."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES
from mmbench.methods.mib import MIB
from mmbench.methods.mib.network import MIBNetwork
from tests.golden import cases
from tests.golden.cases import Case, batch_of, fill, gradient_norms, parameter_norms, renamed, snapshot
from tests.methods.forms import watch_steps
from tests.methods.parts import count, spec_of

CASE = Case.load("mib")
UPDATE = {"rtol": 1e-6, "atol": 1e-13}
close = partial(cases.close, rtol=1e-9, atol=1e-11)
LETTERS = {"l": "text", "a": "audio", "v": "vision", "f": "fused"}
VARIANTS = {"early": "e", "late": "l", "complete": "c"}
STEPS = CASE.info["config"]["T"]
SPEC = spec_of({name: CASE.info["config"][f"{name}_dim"] for name in MODALITIES}, STEPS)
PLAIN = dict.fromkeys(
    ("embed_dropout", "attention_dropout", "relu_dropout", "residual_dropout", "tensor_dropout"), 0.0
) | {"hidden": 1024, "text_transformer": False}
OFFICIAL = PLAIN | {"main_weight": 2.0, "legacy_padding": True, "eval_noise": True}

to_ours = renamed(
    (r"^bert\.proj_l\.", "encoders.text.convolution."),
    *((rf"^proj_{short}\.", rf"encoders.{LETTERS[short]}.convolution.") for short in "av"),
    *((rf"^trans{short}\.", rf"encoders.{LETTERS[short]}.transformer.") for short in "av"),
    (r"self_attn\.in_proj_", "attention.packed."),
    (r"self_attn\.out_proj", "attention.out"),
    (r"\.fc1\.", ".network.0."),
    (r"\.fc2\.", ".network.3."),
    (r"layer_norms\.0", "attention_norm"),
    (r"layer_norms\.1", "network_norm"),
    (r"\.layer_norm\.", ".norm."),
    (r"^fusion\.(\w+?)(_[lav])?\.(0\.)?(weight|bias)$", r"fusion.\1\2.\3\4"),
    *((rf"^fusion\.(encoder|fc_mu|fc_std|decoder)_{short}\.", rf"{LETTERS[short]}.\1.") for short in "lav"),
    (r"^fusion\.(encoder|fc_mu|fc_std|decoder)\.", r"fused.\1."),
    (r"^(\w+)\.encoder\.", r"bottlenecks.\1.hidden."),
    (r"^(\w+)\.fc_mu\.", r"bottlenecks.\1.mean."),
    (r"^(\w+)\.fc_std\.", r"bottlenecks.\1.deviation."),
    (r"^(\w+)\.decoder\.", r"decoders.\1."),
)
OF_FUSIONS = {
    "concat": renamed((r"^fusion\.fusion1\.linear_1\.", "fusion.layers.0.")),
    "tensor": renamed(
        *((rf"^fusion\.fusion1\.post_fusion_layer_{n}\.", f"fusion.layers.{2 * n - 1}.") for n in (1, 2, 3))
    ),
    "low_rank": renamed(
        (r"^fusion\.fusion1\.(audio|text)_factor", r"fusion.factors.\1"),
        (r"^fusion\.fusion1\.video_factor", "fusion.factors.vision"),
        (r"^fusion\.fusion1\.fusion_", "fusion."),
    ),
    "graph": renamed(
        (r"^fusion\.fusion1\.graph_fusion\.", "fusion.levels.0."),
        (r"^fusion\.fusion1\.graph_fusion2\.", "fusion.levels.1."),
        (r"^fusion\.fusion1\.attention\.", "fusion.weight."),
        *((rf"^fusion\.fusion1\.linear_{n}\.", f"fusion.out.{2 * n - 2}.") for n in (1, 2, 3)),
    ),
}


def name_map(module, fusion):
    """Return the map to the parameters of a module; what the official files build and never use has no place in it."""
    ours = dict(module.named_parameters())

    def names(official):
        found = OF_FUSIONS.get(fusion, lambda name: name)(to_ours(official))
        return next((name for name in (found, f"network.{found}", found.removeprefix("fusion.")) if name in ours), ())

    return names


@torch.no_grad()
def reorder(fusion):
    """Bring official weights to our order: their constant 1 comes first, their tensor goes audio, vision, text."""
    for name, weight in fusion.named_parameters():
        if name == "layers.1.weight" and weight.shape[1] == 51**3:
            weight.copy_(weight.view(50, 51, 51, 51).permute(0, 3, 1, 2).roll((-1, -1, -1), (1, 2, 3)).reshape(50, -1))
        if name.startswith("factors."):
            weight.copy_(weight.roll(-1, 1))


def build(sub, **settings):
    """Return method, parameter table and name map of a sub-case, weights filled."""
    variant, fusion = sub.split("_")[0], "tensor" if "tensor" in sub else "concat"
    config = MIB.Config(**{**OFFICIAL, "variant": VARIANTS[variant], "fusion": fusion, **settings})
    method = MIB(SPEC, config=config).double().train()
    method.text_encoder = nn.Identity()  # the case starts at the hidden states of one
    table = CASE.table("parameters_late_tensor") if fusion == "tensor" else CASE.table(sub=variant)
    names = name_map(method, fusion)
    fill(method, table, names)
    reorder(method.network.fusion)
    return method, table, names


def golden_batch(number):
    values = {name: CASE[f"inputs.{number}.{name}"] for name in MODALITIES}
    lengths = dict.fromkeys(MODALITIES, CASE[f"inputs.{number}.lengths"])
    lengths["text"] = torch.full_like(lengths["text"], STEPS)  # the official model reads what stands beyond as well
    return batch_of(values, lengths, CASE[f"inputs.{number}.label"], learned=("text",))


@pytest.fixture
def draws(monkeypatch):
    """Return a function that prescribes the coming draws: those of a batch, in the official order, or zeros."""

    def prescribe(method, number, zero=False):
        order = [short for short in "lavf" if LETTERS[short] in method.network.coded]
        values = iter([CASE[f"inputs.{number}.eps_{short}"] for short in order])
        monkeypatch.setattr(torch, "randn_like", lambda like: next(values) * (not zero))

    return prescribe


def compare(sub, output, terms, config):
    """Compare every stored output and loss term of a sub-case."""
    stored = [key.removeprefix(f"{sub}.") for key in CASE.arrays if key.startswith((f"{sub}.outputs", f"{sub}.losses"))]
    parts = {"mu": "mean", "std": "std", "z": "z", "yhat": "prediction"}
    ours = {"outputs.prediction": output.prediction, "outputs.fused": output.named["fused"]}
    ours |= {
        f"outputs.{theirs}_{short}": output.named[f"{part}_{name}"]
        for theirs, part in parts.items()
        for short, name in LETTERS.items()
        if f"{part}_{name}" in output.named
    }
    ours |= {
        f"losses.kl_{s}": terms[f"kl_{name}"] / config.beta for s, name in LETTERS.items() if f"kl_{name}" in terms
    }
    ours |= {f"losses.task_{s}": terms[f"task_{name}"] for s, name in LETTERS.items() if f"task_{name}" in terms}
    ours["losses.task"] = ours["losses.task_f"] = terms["task"] / config.main_weight
    ours["losses.total"] = torch.stack(list(terms.values())).sum()
    assert stored
    for key in stored:
        close(ours[key], CASE[f"{sub}.{key}"])


SUBCASES = [
    *((f"{variant}_{kind}", {}) for variant in VARIANTS for kind in ("noise", "mean", "full_length_mean")),
    # Where nothing is padded, masking it changes nothing; and the mean is what evaluation takes without noise.
    *((f"{variant}_full_length_mean", {"legacy_padding": False, "eval_noise": False}) for variant in VARIANTS),
    ("late_tensor_noise", {}),
    ("complete_single_main_noise", {"main_weight": 1.0}),
    ("complete_paper_loss_noise", {"main_weight": 1.0, "kl": "sum"}),
]


@pytest.mark.parametrize(("sub", "settings"), SUBCASES, ids=lambda item: item if isinstance(item, str) else "")
def test_official_numbers(sub, settings, draws):
    method, table, names = build(sub, **settings)
    number = 3 if "full_length" in sub else 0
    batch = golden_batch(number)
    method.train(method.config.eval_noise)
    draws(method, number, zero="mean" in sub and method.training)
    output = method(batch)
    terms = method.objective(output, batch)
    compare(sub, output, terms, method.config)
    torch.stack(list(terms.values())).sum().backward()
    close(gradient_norms(method, table, names), CASE[f"{sub}.gradnorm"])
    close(batch.inputs["text"].values.grad.norm(), CASE[f"{sub}.gradnorm_inputs.text"])
    without = {name for name, _, _ in table if not names(name)}
    if sub in ("early_noise", "late_noise", "complete_noise"):
        assert without == set(CASE.info["gradnorm_none"][sub.split("_")[0]])
    counts = CASE.info["parameter_count_used"]
    used = count(method)
    assert used == counts["late_tensor" if "tensor" in sub else sub.split("_")[0]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_official_training_steps(variant, draws):
    method, table, names = build(f"{variant}_steps", lr=2e-5)
    start = snapshot(method)
    (optimizer,) = method.configure_optimizers()
    losses = []
    for number in range(3):
        batch = golden_batch(number)
        draws(method, number)
        output = method(batch)
        loss = torch.stack(list(method.objective(output, batch).values())).sum()
        close(output.prediction, CASE[f"{variant}_steps.outputs.prediction_{number}"])
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    close(torch.stack(losses), CASE[f"{variant}_steps.losses.total"])
    close(parameter_norms(method, table, names, since=start), CASE[f"{variant}_steps.update_norm"], **UPDATE)
    method.eval()
    draws(method, 3)
    close(method(golden_batch(3)).prediction, CASE[f"{variant}_steps.after.prediction_noise"])
    method.network.eval_noise = False
    close(method(golden_batch(3)).prediction, CASE[f"{variant}_steps.after.prediction_mean"])


@pytest.mark.parametrize(
    ("sub", "number", "legacy"),
    [("encoders", 0, True), ("encoders_full_length", 3, True), ("encoders_full_length", 3, False)],
)
def test_official_encoders(sub, number, legacy):
    network = build("complete_mean", legacy_padding=legacy)[0].network
    seen = {}
    for short in "av":
        transformer = network.encoders[LETTERS[short]].transformer
        transformer.register_forward_pre_hook(
            lambda _, args, s=short: seen.update({f"proj_{s}": args[1].padded(args[0])})
        )
        watch_steps(transformer, lambda states, s=short: seen.update({f"trans_{s}": states}))
    layer = network.encoders["audio"].transformer.layers[0]
    layer.register_forward_pre_hook(lambda _, args: seen.update(layer=args[1].queries.padded(args[0])))
    seen |= {
        f"x_{name[0] if name != 'text' else 'l'}": network.encoders[name](golden_batch(number).inputs[name])
        for name in MODALITIES
    }
    query = layer.attention_norm(seen.pop("layer"))
    q, k, _ = (part.transpose(1, 2) for part in layer.attention.project(query, query, query))
    seen["attention_a_layer0"] = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).mean(1)
    stored = [key.removeprefix(f"{sub}.") for key in CASE.arrays if key.startswith(f"{sub}.")]
    assert len(stored) == (8 if sub == "encoders" else 5)
    for key in stored:
        close(seen[key], CASE[f"{sub}.{key}"])


@pytest.mark.parametrize(
    ("sub", "settings"),
    [
        ("concat", {}),
        ("addition", {}),
        ("multiplication", {}),
        ("tensor_complete", {"fusion": "tensor", "variant": "c"}),
        ("tensor_early_late", {"fusion": "tensor", "variant": "e"}),
        ("tensor_early_late", {"fusion": "tensor", "variant": "l"}),
        ("low_rank", {}),
        ("graph", {}),
    ],
)
def test_official_fusions(sub, settings):
    config = MIB.Config(**{**PLAIN, "fusion": sub, **settings})
    fusion = MIBNetwork(dict.fromkeys(MODALITIES, 1), 1, config).fusion.double()
    table, names = CASE.table("parameters_fusions", sub), name_map(fusion, config.fusion)
    fill(fusion, table, names)
    reorder(fusion)
    inputs = {LETTERS[short]: CASE[f"inputs.fusions.{short}"].requires_grad_() for short in "lav"}
    output = fusion(inputs)
    (output * CASE["inputs.fusions.probe"]).sum().backward()
    close(output, CASE[f"fusions.{sub}.output"])
    close(gradient_norms(fusion, table, names), CASE[f"fusions.{sub}.gradnorm"])
    got = torch.stack([vector.grad.norm() for vector in inputs.values()])
    close(got, CASE[f"fusions.{sub}.gradnorm_inputs"])


def test_official_optimisers():
    method, table, names = build("complete_steps")
    ours = {id(parameter): name for name, parameter in method.named_parameters()}
    rest, text = method.parameter_groups()["main"]
    assert [ours[id(parameter)] for parameter in text["params"]] == ["network.encoders.text.convolution.weight"]
    assert {ours[id(p)] for p in rest["params"]} == {names(n) for n, _, _ in table if not n.startswith("bert.")}
    lr_text, lr_rest = (group["lr"] for group in CASE.info["optimiser"]["groups"])
    assert text["lr"] == MIB.Config().text_lr == lr_text
    assert "lr" not in rest
    assert lr_rest == 2e-5  # goes with fine-tuned BERT; see the settings of the benchmarks


def test_defaults_are_those_of_the_official_code():
    official, ours = CASE.info["config"], MIB.Config()
    for name, theirs in {"dim": "d", "beta": "beta", "layers": "trans_layers", "heads": "heads"}.items():
        assert getattr(ours, name) == official[theirs], name
    # The case has no dropout; these are the values of the official files.
    assert (ours.embed_dropout, ours.attention_dropout, ours.relu_dropout, ours.residual_dropout) == (
        0.2,
        0.5,
        0.3,
        0.3,
    )
    assert (ours.tensor_dropout, ours.rank, ours.batch_size, ours.weight_decay) == (0.5, 5, 32, 0.0)
