"""FE2E and MESM against numbers of the official code; see ``tests/golden/mesm/README.md``."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.mesm import MESM, rarity
from mmbench.methods.mesm.vgg import Pictures
from tests.golden.cases import Case, Piece, fill, gradient_norms, parameter_norms, renamed, snapshot

CASE = Case.load("mesm")
EXACT = {"rtol": 1e-6, "atol": 1e-9}
FRAMES, PIECES = [CASE.info["config"][f"{name}_per_utterance"] for name in ("frames", "pieces")]
LETTERS = {"text": "t", "audio": "a", "vision": "v"}

_plain = renamed(
    *((rf"^{letter.upper()}\.", f"encoders.{name}.tower.") for name, letter in LETTERS.items()),
    *((rf"^{letter}_flatten\.0", f"encoders.{name}.project.1") for name, letter in LETTERS.items()),
    *((rf"^{letter}_flatten\.2", f"encoders.{name}.project.3") for name, letter in LETTERS.items()),
    *((rf"^{letter}_transformer\.encoder", f"states.{name}.layers") for name, letter in LETTERS.items()),
    *((rf"^{letter}_transformer\.cls_emb\.weight", f"states.{name}.start") for name, letter in LETTERS.items()),
    *((rf"^{letter}_out", f"heads.{name}") for name, letter in LETTERS.items()),
    (r"tower\.([0145])\.", r"tower.0.\1."),
    *((rf"tower\.{theirs}\.", f"tower.{ours}.") for theirs, ours in ((6, 1), (8, 3), (10, 5))),
    (r"tower\.low_level", "tower.low"),
    *((rf"\.{theirs}\.", f".{ours}.") for theirs, ours in (("conv1", 0), ("bn1", 1), ("conv2", 3), ("bn2", 4))),
    (r"sparse_layers\.(\d)\.0\.0", r"blocks.\1.convolutions.0"),
    (r"sparse_layers\.(\d)\.0\.1", r"blocks.\1.norms.0"),
    (r"sparse_layers\.(\d)\.0\.2", r"blocks.\1.convolutions.1"),
    (r"sparse_layers\.(\d)\.0\.3", r"blocks.\1.norms.1"),
    (r"(norms\.\d\.running_var)$", r"\1iance"),
    (r"attn_layers", "attentions"),
    (r"channel_affine", "place"),
    (r"y_affine", "text"),
    (r"attn_weight_affine", "score"),
)


def official(modalities=("text", "vision", "audio")):
    """Return the map of names; the official fusion has its modalities in this order, ours in another."""
    ours = [name for name in LETTERS if name in modalities]

    def names(name):
        if name == "weighted_fusion.weight":
            places = [ours.index(modality) for modality in modalities]
            return [Piece("fusion.weight", lambda weight, place=place: weight[:, place]) for place in places]
        found = _plain(name)
        if ".convolutions." in found:
            return (Piece(found, lambda weight: weight.permute(2, 3, 1, 0)),)
        return found

    return names


# The prescribed inputs, checked against what is stored of them.


def _inputs():
    random = np.random.RandomState(3358)
    faces = random.randint(0, 256, (6, 3, 48, 48)).astype(np.uint8)
    pieces = (random.standard_normal((6, 1, 128, 32)) ** 2).astype(np.float32)
    pieces[-1, :, :, 20:] = 0
    hidden = random.standard_normal((3, 2, 768)).astype(np.float32)
    random.random_sample((3, 6))
    labels = random.random_sample((40, 6)) < np.linspace(0.15, 0.5, 6)
    return (*map(torch.from_numpy, (faces, pieces, hidden)), labels)


FACES, SPECTROGRAM, HIDDEN, LABEL_TABLE = _inputs()


def sequence(items, lengths):
    """Return items that lie one after the other as a padded batch; what pads is no zero."""
    values = items.new_full((len(lengths), max(lengths), *items.shape[1:]), 7)
    for row, part in enumerate(items.split(lengths)):
        values[row, : len(part)] = part
    return PaddedSequence(values, torch.tensor(lengths))


class Given(nn.Module):
    """Stands for pieces that are cut already."""

    channels, shape = 1, (128, 32)

    def forward(self, pieces):
        return Pictures.of(pieces)


class States(nn.Module):
    """Stands for the text encoder: tokens are rows of the given hidden states."""

    dim = 768

    def __init__(self, name, frozen=False):
        super().__init__()
        self.register_buffer("like", torch.zeros(0))  # has the precision of the method
        self.hidden = HIDDEN.double().flatten(0, 1).requires_grad_()

    def forward(self, tokens):
        return PaddedSequence(self.hidden[tokens.values].to(self.like.dtype), tokens.lengths)


SPEC = DataSpec(
    "golden",
    "raw",
    "standard",
    {
        "text": ModalitySpec("text", 6, 2, "tokens"),
        "audio": ModalitySpec("audio", 1, 17600, "waveform", rate=16000.0),
        "vision": ModalitySpec("vision", 3, 3, "frames", rate=2.0, size=(48, 48)),
    },
    TargetSpec("multilabel", ("ang", "exc", "fru", "hap", "neu", "sad")),
)
BATCH = Batch(
    {
        "text": PaddedSequence(torch.arange(6).view(3, 2), torch.tensor([2, 2, 2])),
        "audio": sequence(SPECTROGRAM.double(), PIECES),
        "vision": sequence(FACES, FRAMES),
    },
    CASE["inputs.labels"],
    torch.arange(3),
)

SINGLE = replace(BATCH, inputs={**BATCH.inputs, "audio": sequence(SPECTROGRAM, PIECES)})


def build(table, modalities=("text", "vision", "audio"), **settings):
    """Return the method with the prescribed weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmbench.methods.base.PretrainedText", States)
        spec = SPEC.select(modalities)
        method = MESM(spec, config=MESM.Config(text_encoder="states", dropout=0.0, **settings)).double()
    if "audio" in modalities:
        method.network.encoders["audio"].source = Given()
    fill(method.network, table, official(modalities))
    method.positive_weight.copy_(rarity(torch.from_numpy(LABEL_TABLE)))
    return method


def watch(network):
    """Note what the parts of the network take and give."""
    seen = {}

    def note(key):
        def hook(_, taken, given):
            seen[key] = taken, given

        return hook

    for name, letter in (("vision", "v"), ("audio", "a")):
        encoder = network.encoders[name]
        encoder.tower.register_forward_hook(note(f"{letter}_tower"))
        encoder.project.register_forward_hook(note(f"{letter}_items"))
        for part in ("low", "attentions", "blocks"):
            module = getattr(encoder.tower, part, None)
            for number, item in enumerate([module] if part == "low" else module or [], start=1):
                if item is not None:
                    item.register_forward_hook(note(f"{letter}_{part}{number}"))
    return seen


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def per_frame(maps):
    return maps.flatten(1).norm(dim=1)


def parts(output, seen):
    """Return what the case names of one pass."""
    found = {"logits": output.prediction}
    for name, letter in LETTERS.items():
        found[f"l_{letter}"] = output.named[f"logits_{name}"]
        if name == "text":
            continue
        found[f"{letter}_cls"] = output.named[f"state_{name}"]
        found[f"{letter}_items"] = seen[f"{letter}_items"][1]
        maps = seen[f"{letter}_tower"][1]
        maps = maps if torch.is_tensor(maps) else maps.maps
        found[f"{letter}_map_norm"] = per_frame(maps)
        found[f"{letter}_map_every64th_channel"] = maps[:, ::64]
        if f"{letter}_low1" not in seen:
            continue
        found[f"{letter}_low_norm"] = per_frame(seen[f"{letter}_low1"][1])
        for block in (1, 2, 3):
            (_, active, *_), scores = seen[f"{letter}_attentions{block}"]
            (entering, kept), (leaving, _) = seen[f"{letter}_blocks{block}"]
            found[f"{letter}_s{block}"] = scores
            found[f"{letter}_n{block}"] = kept.to(torch.uint8)
            found[f"{letter}_active{block}"] = active.sum((1, 2))
            found[f"{letter}_in{block}_norm"] = per_frame(entering)
            if block < 3:
                found[f"{letter}_blk{block}_norm"] = per_frame(leaving)
    return {name: value.detach() for name, value in found.items()}


def assert_parts(found, variant):
    """Compare everything that the case has of a variant."""
    prefix = f"outputs.{variant}."
    stored = [key.removeprefix(prefix) for key in CASE.arrays if key.startswith(prefix) and not key.endswith("_f32")]
    assert stored
    for name in stored:
        expected = CASE[prefix + name]
        # Attention of the first block is stored in single precision.
        close = {"rtol": 1e-6, "atol": 1e-8} if CASE.arrays[prefix + name].dtype == np.float32 else EXACT
        torch.testing.assert_close(found[name], expected, **close, msg=lambda text, name=name: f"{name}: {text}")


def loss_of(method, output, batch=BATCH):
    return torch.stack(list(method.objective(output, batch).values())).sum()


def buffer_norms(network, names):
    buffers = dict(network.named_buffers())
    return torch.stack([buffers[official()(name)].norm() for name in names])


def forget(network, buffers):
    """Bring running statistics and gradients back to their start."""
    network.zero_grad(set_to_none=True)
    network.load_state_dict(buffers, strict=False)


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
