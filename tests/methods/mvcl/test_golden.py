"""MVCL against numbers of the first author's rebuild; see ``tests/golden/mvcl/README.md``."""

import pytest
import torch
from torch import nn

from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.mvcl.encoders import TokenEncoder
from mmbench.nn.contrastive import pair_contrastive, supervised_contrastive
from mmbench.nn.steps import Steps
from tests.golden.cases import Case, fill, gradient_norms, renamed
from tests.methods.mvcl.golden_parts import (
    BLOCK,
    LETTERS,
    OFFICIAL,
    VIEWS,
    close,
    close_gradients,
    golden_batch,
    golden_method,
    view,
    watched,
)

CASES = {
    "case": {"legacy_no_mask": True},
    "case_full": {},
    "case_last_full": {"pairs": "last"},
    "case_trans_full": {"encoder": "transformer"},
}


@pytest.mark.parametrize("sub", CASES)
def test_official_terms_and_gradients(sub):
    """The joint objective of CMU-MOSI, where the rebuild has no unimodal contrast."""
    case = Case.load("mvcl", sub)
    method, names = golden_method(case, unimodal_weight=0.0, **CASES[sub])
    absent = {name: torch.Size(shape).numel() for name, shape, _ in case.table() if not names(name)}
    assert set(absent) == set(case.info["grad_none"])  # what the rebuild has and never trains
    count = sum(parameter.numel() for parameter in method.parameters())
    assert count == case.info["parameter_count"] - sum(absent.values())
    batch = golden_batch(case)
    output = method(batch)
    terms = method.objective(output, batch)
    assert list(terms) == ["task", "cross", "fused"]
    total = sum(terms.values())
    for ours, theirs in {"task": "task_M", "cross": "S", "fused": "F"}.items():
        close(case, terms[ours], f"losses.{theirs}")
    close(case, total, "losses.total")
    place = -1 if method.config.pairs == "last" else 0
    pairs = {one.split("_")[place]: (one, other) for one, other in method.pairs()}
    for letter, name in LETTERS.items():
        one, other = (output.named[f"projected_{item}"] for item in pairs[name])
        close(case, pair_contrastive(one, other), f"losses.pair_{letter}")
    close(case, output.prediction, "outputs.prediction")
    close(case, output.named["fused"], "outputs.h_F")
    suffixes = {"_S": terms["cross"], "_F": terms["fused"], "_task": terms["task"], "": total}
    close_gradients(case, method, names, suffixes, batch)


@pytest.mark.parametrize("sub", ["case", "case_full", "case_trans_full"])
def test_official_outputs(sub):
    case = Case.load("mvcl", sub)
    method, _ = golden_method(case, **CASES[sub])  # with the unimodal vectors, which the rebuild computes in vain
    seen, batch = watched(method), golden_batch(case)
    named = method(batch).named
    seen |= {f"third.{order}": named[f"view_{view(order)}"] for order in VIEWS}
    seen |= {f"projected.{order}": named[f"projected_{view(order)}"] for order in VIEWS}
    seen |= {"projected.fusion": named["projected_fused"], "h_F": named["fused"]}
    compared = [key for key in case.arrays if key.startswith("outputs.") and key != "outputs.prediction"]
    assert len(compared) >= 27
    for key in compared:
        ours, theirs = seen[key.removeprefix("outputs.")], case[key]
        if ours.dim() == 3:  # steps that the official tensor does not have are padding of ours
            ours = ours[:, : theirs.shape[1]]
        close(case, ours, key)


def test_official_unimodal_terms():
    """CH-SIMS: unimodal labels for the unimodal contrast and for unimodal predictions, which are built here only."""
    case = Case.load("mvcl", "case_sims_full")
    method, names = golden_method(case)
    network, batch, hidden = method.network, golden_batch(case), {}
    for name in MODALITIES:
        network.unimodal[name][2].register_forward_hook(lambda _, __, out, name=name: hidden.__setitem__(name, out))
    heads = nn.ModuleDict()
    for name in MODALITIES:
        width = OFFICIAL[f"post_{name}"]
        heads[name] = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)).double()
    head_name = renamed(*((rf"^post_{m}_layer_2", f"{m}.0") for m in MODALITIES), (r"^post_(\w+)_layer_3", r"\1.2"))
    in_heads = {f"post_{m}_layer_{n}.{part}" for m in MODALITIES for n in (2, 3) for part in ("weight", "bias")}
    fill(heads, [row for row in case.table() if row[0] in in_heads], head_name)

    output = method(batch)
    named, label = output.named, case["inputs.labels_M"]
    sup, task = {}, {"M": (output.prediction[:, 0] - label).abs().mean()}
    for name in MODALITIES:
        letter, own = name[0].upper(), case[f"inputs.labels_{name[0].upper()}"]
        prediction = heads[name](hidden[name])
        sup[letter] = supervised_contrastive(named[f"projected_{name}"], own)
        task[letter] = ((own - label).abs().tanh() * (prediction[:, 0] - own).abs()).mean()
        close(case, hidden[name], f"outputs.h_{letter}")
        close(case, named[f"projected_{name}"], f"outputs.projected.{name}")
        close(case, prediction, f"outputs.prediction_{letter}")
    for letter, loss in sup.items():
        close(case, loss, f"losses.sup_{letter}")
    for letter, loss in task.items():
        close(case, loss, f"losses.task_{letter}")
    terms = method.objective(output, batch)
    close(case, terms["cross"], "losses.S")
    close(case, terms["fused"], "losses.F")
    unimodal, tasks = sum(sup.values()), sum(task.values())
    total = unimodal + terms["cross"] + terms["fused"] + tasks
    close(case, unimodal, "losses.U")
    close(case, total, "losses.total")
    # With one label for all modalities ours is the sum of the three contrasts too.
    expected = sum(supervised_contrastive(named[f"projected_{name}"], label) for name in MODALITIES)
    torch.testing.assert_close(terms["unimodal"], expected)

    both = nn.ModuleDict({"method": method, "heads": heads})

    def all_names(name):
        if name in in_heads:
            return f"heads.{head_name(name)}"
        return f"method.{names(name)}" if names(name) else ()

    suffixes = {"_S": terms["cross"], "_F": terms["fused"], "_U": unimodal, "_task": tasks, "": total}
    close_gradients(case, both, all_names, suffixes, batch)
    assert {name for name, _, _ in case.table() if not all_names(name)} == set(case.info["grad_none"])


@pytest.mark.parametrize("use", ["cross", "unimodal"])
def test_official_block(use):
    case = Case.load("mvcl", "case_block")
    out = 10 if use == "unimodal" else 0
    block = TokenEncoder(16, 4, 2, project=out).double()
    to_ours = renamed(*BLOCK)

    def names(name):
        return () if name in case.info["grad_none"][use] else to_ours(name)

    table = case.table(sub=use)
    fill(block, table, names)
    values = {name: case[f"inputs.{name}"].requires_grad_() for name in ("q", "c")}
    q, c = (Steps.of(PaddedSequence(item, torch.full((3,), item.shape[1]))) for item in values.values())
    if use == "cross":
        q_c, c_q = block(q, c), block(c, q)
        found = {"X_q_c": q_c.padded(), "X_c_q": c_q.padded(), "pool_q_c": block.pool(q_c)}
        parts = zip(found.values(), ("q", "c", "pool"), strict=True)
    else:
        states = block(q, q)
        found = {"unimodal_tokens": states.padded(), "unimodal_pooled": block.pool(states)}
        parts = zip(found.values(), ("q", "uni"), strict=True)
    loss = sum((item * case[f"inputs.coef_{name}"]).sum() for item, name in parts)
    loss.backward()
    for key, item in found.items():
        close(case, item, f"outputs.{key}")
    close(case, loss, f"losses.{use}")
    close(case, gradient_norms(block, table, names), f"gradnorm_{use}")
    for name in ("q", "c") if use == "cross" else ("q",):
        close(case, values[name].grad, f"gradinput.{use}.{name}")


@pytest.mark.parametrize("sub", ["case_losses", "case_losses_fixed"])
def test_official_losses(sub):
    """The official losses; where they are NaN (an anchor without positive), those with such anchors left out."""
    case = Case.load("mvcl", sub)
    unit = {name: nn.functional.normalize(case[f"inputs.{name}"], dim=1) for name in ("z", "z1", "z2")}
    close_to = case.info["tolerances"]["float64"]
    undefined = 0
    for temperature in (0.07, 0.2):
        for labels in ("classes", "floats", "one_class", "some_alone", "all_alone"):
            key = f"supcon.{labels}.tau{temperature}"
            vectors = unit["z"].clone().requires_grad_()
            loss = supervised_contrastive(vectors, case[f"inputs.labels_{labels}"], temperature)
            loss.backward()
            assert loss.isfinite()
            assert vectors.grad.isfinite().all()
            if case[f"losses.{key}"].isnan():
                undefined += 1
                assert sub == "case_losses"
                assert labels.endswith("alone")
                continue
            torch.testing.assert_close(loss.detach(), case[f"losses.{key}"], **close_to)
            torch.testing.assert_close(vectors.grad, case[f"gradinput.{key}"], **close_to)
    assert undefined == (4 if sub == "case_losses" else 0)
    for temperature in (0.05, 0.2):
        first, second = (unit[name].clone().requires_grad_() for name in ("z1", "z2"))
        loss = pair_contrastive(first, second, temperature)
        loss.backward()
        key = f"paircon.tau{temperature}"
        torch.testing.assert_close(loss.detach(), case[f"losses.{key}"], **close_to)
        for name, vectors in (("z1", first), ("z2", second)):
            theirs = case[f"gradinput.paircon.{name}.tau{temperature}"]
            torch.testing.assert_close(vectors.grad, theirs, **close_to)
        for key, pair in {"identical": (unit["z1"], unit["z1"]), "single": (unit["z1"][:1], unit["z2"][:1])}.items():
            theirs = case[f"losses.paircon.{key}.tau{temperature}"]
            torch.testing.assert_close(pair_contrastive(*pair, temperature), theirs, **close_to)
    four = torch.eye(6, dtype=torch.float64)[:4]
    theirs = case["losses.paircon.orthogonal4.tau0.05"]
    torch.testing.assert_close(pair_contrastive(four, four, 0.05), theirs, **close_to)


class Named(nn.Module):
    """A tree of modules with one scalar parameter per given name."""

    def __init__(self, names):
        super().__init__()
        for head in dict.fromkeys(name.partition(".")[0] for name in names):
            rest = [name.partition(".")[2] for name in names if name.partition(".")[0] == head]
            if rest == [""]:
                self.register_parameter(head, nn.Parameter(torch.zeros(())))
            else:
                self.add_module(head, Named(rest))


@pytest.mark.parametrize("sub", ["case", "case_trans_full"])
def test_official_optimiser_groups(sub):
    case = Case.load("mvcl", sub)
    official = case.info["optimiser_groups"]["groups"]
    # The pooler of the text encoder never gets a gradient and is left out of ours.
    bert = [name for group in official for name in group["params"] if "bert" in name and ".pooler." not in name]
    method, names = golden_method(case, unimodal_weight=0.0, **CASES[sub])
    method.text_encoder = Named([name.removeprefix("text_bert_encoder.") for name in bert])

    def ours_of(name):
        return name.replace("text_bert_encoder.", "text_encoder.") if name in bert else names(name)

    expected = {}
    for group in official:
        members = {ours_of(name) for name in group["params"] if ".model.pooler." not in name} - {()}
        key = group["lr"], group["weight_decay"]
        expected[key] = expected.get(key, set()) | members
    name_of, found = {id(parameter): name for name, parameter in method.named_parameters()}, {}
    for group in method.parameter_groups()["main"]:
        key = group["lr"], group["weight_decay"]
        found.setdefault(key, set()).update(name_of[id(parameter)] for parameter in group["params"])
    assert found == expected
