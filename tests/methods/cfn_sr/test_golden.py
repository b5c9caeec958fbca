"""CFN-SR at its published width against numbers measured with the official network.

Training is compared in double precision, evaluation and the steps of the optimiser in single, which is four times as
fast; the tests marked slow repeat the latter in double.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.cfn_sr import CFNSR
from mmbench.methods.cfn_sr.network import CFNSRNetwork, VisionMap
from mmbench.nn.norms import BatchNorm
from tests.golden.cases import Case, fill, gradient_norms, parameter_norms, renamed

CASE = Case.load("cfn_sr")
STILL = CFNSR.Config(
    **dict.fromkeys(
        ("attention_dropout", "relu_dropout", "residual_dropout", "embed_dropout", "audio_dropout", "flat_dropout"), 0.0
    )
)
AUDIO = ModalitySpec("audio", 13, 212)
VISION = ModalitySpec("vision", 3, 17, "frames", size=(64, 64))
EMOTIONS = TargetSpec("multiclass", tuple("12345678"))
SPEC = DataSpec("ravdess", "golden", "cfnsr5", {"audio": AUDIO, "vision": VISION}, EMOTIONS)
DOUBLE = {"rtol": 1e-6, "atol": 1e-8}
SINGLE = {"rtol": 1e-3, "atol": 1e-3}
INSIDE = {"rtol": 5e-3, "atol": 5e-3}
"""Single elements of the maps in single precision: batch statistics over few positions amplify rounding."""
PASSES = {
    ("train", False): ("official_train", "fixed_train"),
    ("train", True): ("fixed_relu_train",),
    ("eval", False): ("official_eval", "fixed_eval"),
    ("eval", True): ("fixed_relu_eval",),
}
"""The variants that share a pass through both networks, by mode and by whether the stem has its ReLU."""

attention = (
    (r"\baudio_attention\.", "encoder."),
    (r"self_attn\.in_proj_", "attention.packed."),
    (r"self_attn\.out_proj", "attention.out"),
    (r"\.fc1\.", ".network.0."),
    (r"\.fc2\.", ".network.3."),
    (r"layer_norms\.0", "attention_norm"),
    (r"layer_norms\.1", "network_norm"),
    (r"\.layer_norm\.", ".norm."),
    (r"\bchannel_affine", "vision"),
    (r"\by_affine", "audio"),
    (r"\battn_weight_affine", "score"),
)
residual = ((r"\.bn(\d)", r".norm\1"), (r"\.downsample\.", ".shortcut."))
official = renamed(
    (r"^video_model_blocks\.0\.0\.", "vision.conv."),
    (r"^video_model_blocks\.0\.1\.", "vision.norm."),
    *((rf"^video_model_blocks\.0\.{number + 3}\.", rf"vision.stages.{number}.") for number in range(4)),
    *residual,
    (r"^audio_model_blocks\.0\.", "audio."),
    (r"^fc\.", "head."),
    *attention,
    (r"^msaf\.0\.", "block."),
)
TABLE = CASE.table("table")


def drawn():
    """Return the clips, the columns and the classes of the case."""
    random = np.random.RandomState(1101)
    clips = torch.from_numpy(random.standard_normal((3, 3, 17, 64, 64)).astype(np.float32))
    torch.testing.assert_close(clips.flatten()[:8].double(), CASE["inputs.video_first8"], rtol=0, atol=0)
    torch.testing.assert_close(clips.double().flatten(1).norm(dim=1), CASE["inputs.video_norm"])
    return clips, CASE["inputs.mfcc"].mT.contiguous(), CASE["inputs.labels"]


CLIPS, COLUMNS, LABELS = drawn()


def sequence(columns):
    """Return the audio with the zeros that pad the second clip as if they were sound, for their gradient is known."""
    return PaddedSequence(columns, torch.full((len(columns),), 212))


def build(double=False):
    network = CFNSRNetwork(SPEC.modalities, 8, STILL)
    fill(network, TABLE, official)
    return network.double() if double else network


@pytest.fixture(scope="module")
def single():
    return build()


@pytest.fixture(scope="module")
def double():
    return build(double=True)


def fresh(network, mode):
    """Return the network in a mode, with the running statistics of the start and no gradient."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.reset_running_stats()
    network.zero_grad(set_to_none=True)
    return network.train(mode == "train")


def encode(network, relu, rows=slice(None), grad=False):
    """Return inputs and both maps."""
    dtype = network.head.weight.dtype
    clips, columns = (item[rows].to(dtype).requires_grad_(grad) for item in (CLIPS, COLUMNS))
    vision = VisionMap(network.vision(clips, relu).flatten(3))
    return (clips, columns), vision, network.hear(sequence(columns))


def assert_outputs(network, variant, vision, audio, close):
    """Compare every stored output of a variant, and return the loss."""
    network.block.batch_sum = variant.startswith("official")
    seen = {}
    hooks = [
        network.block.audio.register_forward_hook(lambda _, args, out: seen.update(a=args[0], q=out)),
        network.block.score.register_forward_hook(lambda _, args, out: seen.update(e=out[..., 0])),
        network.block.register_forward_hook(lambda _, args, out: seen.update(Vp=out[0].values)),
    ]
    output = network.fuse(vision, audio)
    for hook in hooks:
        hook.remove()
    seen |= {"alpha": output.named["alpha"], "z": output.named["summary"], "logits": output.prediction}
    seen |= {"V": vision.values, "A": audio}
    steps = {"V": (64, "channel"), "Vp": (64, "channel"), "A": (4, "channel"), "z": (32, "")}
    compared = 0
    for name, value in seen.items():
        found = {f"outputs.{variant}.{name}": value.reshape(CASE[f"outputs.{variant}.e"].shape)} if name in "e" else {}
        if name in steps:
            step, what = steps[name]
            ending = "th" if step != 32 else "nd"
            found[f"outputs.{variant}.{name}_every{step}{ending}{'_' * bool(what)}{what}"] = value[:, ::step]
            found[f"outputs.{variant}.{name}_norm"] = value.flatten(1).norm(dim=1)
        elif name != "e":
            found[f"outputs.{variant}.{name}"] = value
        for key, item in found.items():
            if key in CASE:
                torch.testing.assert_close(item.double().flatten(), CASE[key].flatten(), **close)
                compared += 1
    stored = [key for key in CASE.arrays if key.startswith(f"outputs.{variant}.") and not key.endswith("_f32")]
    assert compared == len(stored)
    torch.testing.assert_close(output.prediction.double(), CASE[f"outputs.{variant}.logits"], **SINGLE)
    loss = F.cross_entropy(output.prediction, LABELS)
    torch.testing.assert_close(loss.double(), CASE[f"losses.{variant}.ce"], **SINGLE if close is INSIDE else DOUBLE)
    return loss


def statistics_norms(network):
    """Return the L2 norms of the running statistics, in the order of the case."""
    ours = dict(network.named_buffers())
    return torch.stack([ours[official(name)].double().norm() for name in CASE.info["bn_buffers"]])


def assert_pass(network, mode, relu, outputs_close, gradients_close):
    inputs, vision, audio = encode(fresh(network, mode), relu, grad=True)
    for number, variant in enumerate(PASSES[mode, relu]):
        network.zero_grad(set_to_none=True)
        for item in inputs:
            item.grad = None
        loss = assert_outputs(network, variant, vision, audio, outputs_close)
        loss.backward(retain_graph=number + 1 < len(PASSES[mode, relu]))
        found, expected = gradient_norms(network, TABLE, official), CASE[f"gradnorm.{variant}"]
        zero = [name in CASE.info["zero_gradient_by_construction"][variant] for name, *_ in TABLE]
        torch.testing.assert_close(found, expected, **gradients_close)
        if variant == "fixed_eval":  # what the official code does to one clip at a time
            torch.testing.assert_close(found, CASE["gradnorm.official_eval_batch_of_one"], **gradients_close)
        assert (found[torch.tensor(zero)] < 1e-6).all()
        assert (found[~torch.tensor(zero)] > 0).all()
        if mode == "train":
            got = torch.stack([item.grad.double().norm() for item in inputs])
            torch.testing.assert_close(got, CASE[f"gradnorm_inputs.{variant}"], **gradients_close)
            torch.testing.assert_close(statistics_norms(network), CASE[f"buffers_norm.{variant}"], **outputs_close)


@pytest.mark.parametrize(
    ("mode", "relu"),
    [case if case[0] == "train" else pytest.param(*case, marks=pytest.mark.slow) for case in PASSES],
    ids=["-".join(names) for names in PASSES.values()],
)
def test_official_numbers_and_gradients_of_all_parameters(double, mode, relu):
    assert len(TABLE) == 240
    assert_pass(double, mode, relu, DOUBLE, DOUBLE)


@pytest.mark.parametrize("relu", [False, True], ids=["official_eval-fixed_eval", "fixed_relu_eval"])
def test_official_numbers_and_gradients_in_single_precision(single, relu):
    assert_pass(single, "eval", relu, INSIDE, {"rtol": 5e-3, "atol": 1e-5})


@torch.no_grad()
def test_one_clip_at_a_time_the_official_code_weights_every_clip_by_its_own_map(single):
    single = fresh(single, "eval")
    single.block.batch_sum = True
    rows = [[0], [1], [2]]
    found = torch.cat([single.fuse(*encode(single, False, row)[1:]).prediction for row in rows]).double()
    torch.testing.assert_close(found, CASE["outputs.official_eval_batch_of_one.logits"], **SINGLE)
    torch.testing.assert_close(found, CASE["outputs.fixed_eval.logits"], **SINGLE)


@torch.no_grad()
def test_official_ablations(single):
    _, vision, audio = encode(fresh(single, "eval"), False)
    single.block.residual = False
    try:
        for batch_sum, variant in ((True, "official"), (False, "fixed")):
            single.block.batch_sum = batch_sum
            found = single.fuse(vision, audio).prediction.double()
            torch.testing.assert_close(found, CASE[f"outputs.ablation_no_residual_{variant}_eval.logits"], **SINGLE)
    finally:
        single.block.residual = True
    alone = CFNSRNetwork(SPEC.modalities, 8, replace(STILL, attention=False)).eval()
    assert sum(parameter.numel() for parameter in alone.parameters()) == CASE.info["parameter_count"]["no_block"]
    alone.load_state_dict({name: value for name, value in single.state_dict().items() if not name.startswith("block.")})
    found = alone.fuse(vision, audio).prediction.double()
    torch.testing.assert_close(found, CASE["outputs.ablation_no_block_eval.logits"], **SINGLE)


def assert_steps(variant, dtype, losses_close, state_close):
    method = CFNSR(SPEC, config=replace(STILL, pretrain_epochs=0, legacy_batch_sum=variant == "official_train"))
    network = method.network.to(dtype)
    fill(network, TABLE, official)
    (optimizer,) = method.configure_optimizers()
    losses = []
    for rows in ([0, 1, 2], [2, 0], [1, 2, 0]):
        _, vision, audio = encode(network.train(), False, rows)
        optimizer.zero_grad()
        batch = Batch({}, LABELS[rows], torch.tensor(rows))
        loss = sum(method.objective(network.fuse(vision, audio), batch).values())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().double())
    torch.testing.assert_close(torch.stack(losses), CASE[f"losses.{variant}.three_adam_steps"], **losses_close)
    norms, statistics = parameter_norms(network, TABLE, official), statistics_norms(network)
    torch.testing.assert_close(norms, CASE[f"state.{variant}.param_norm_after_three_steps"], **state_close)
    torch.testing.assert_close(statistics, CASE[f"state.{variant}.buffers_norm_after_three_steps"], **state_close)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["official_train", "fixed_train"])
def test_official_training_steps_in_double_precision(variant):
    assert_steps(variant, torch.float64, {"rtol": 0, "atol": 1e-5}, {"rtol": 1e-5, "atol": 1e-6})


def test_official_training_steps():
    """The third loss shows whether the second step was right; rounding is amplified where gradients are almost zero."""
    assert_steps("fixed_train", torch.float32, {"rtol": 0, "atol": 5e-3}, {"rtol": 5e-3, "atol": 5e-3})
