"""The parts of CFN-SR against numbers measured with the official code: the block alone, and the two networks alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_modules.schema import ModalitySpec
from mmbench.methods.cfn_sr import CFNSR
from mmbench.methods.cfn_sr.network import AudioGuidedBlock, AudioInput, VisionMap, audio_network
from mmbench.methods.cfn_sr.resnext3d import ResNeXt3D
from mmbench.runner.settings import shipped_settings
from tests.golden.cases import fill, gradient_norms, renamed
from tests.methods.cfn_sr.test_cepstrum import batch_of, golden_clips
from tests.methods.cfn_sr.test_golden import CASE, CLIPS, COLUMNS, DOUBLE, LABELS, SINGLE, STILL, attention, residual
from tests.methods.forms import watch_steps

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
BLOCK = CASE.table("table_block")


@pytest.mark.parametrize("variant", ["official", "fixed"])
def test_official_block(variant):
    random = np.random.RandomState(1102)
    shape = (3, 2048, 2, 2, 2)
    seen = torch.from_numpy(random.standard_normal(shape).astype(np.float32)).double()
    heard = torch.from_numpy(random.standard_normal((3, 64, 26)).astype(np.float32)).double()
    weights = torch.from_numpy(random.standard_normal(shape).astype(np.float32)).double()
    assert torch.equal(heard, CASE["inputs.block_A"])
    torch.testing.assert_close(seen.norm(), CASE["inputs.block_V_norm"])
    torch.testing.assert_close(weights.norm(), CASE["inputs.block_G_norm"])
    block = AudioGuidedBlock(2048, STILL)
    fill(block, BLOCK, renamed(*attention))
    block.double().batch_sum = variant == "official"
    got = {}
    watch_steps(block.encoder, lambda steps: got.update(h=steps))
    block.audio.register_forward_hook(lambda _, args, out: got.update(q=out))
    block.score.register_forward_hook(lambda _, args, out: got.update(e=out[..., 0]))
    seen.requires_grad_(), heard.requires_grad_()
    vision, got["alpha"] = block(VisionMap(seen.flatten(3)), heard)
    loss = (vision.values * weights.flatten(3)).sum() / 3
    loss.backward()
    got["h"] = got["h"] if variant == "official" else got["h"][:, -1]
    got["Vp_every64th_channel"], got["Vp_norm"] = vision.values[:, ::64], vision.values.flatten(1).norm(dim=1)
    stored = [key for key in CASE.arrays if key.startswith(f"outputs.block_{variant}.")]
    assert len(stored) == len(got)
    for name, value in got.items():
        expected = CASE[f"outputs.block_{variant}.{name}"]
        torch.testing.assert_close(value.reshape(expected.shape), expected, **DOUBLE)
    torch.testing.assert_close(loss, CASE[f"losses.block_{variant}"], **DOUBLE)
    norms = gradient_norms(block, BLOCK, renamed(*attention))
    torch.testing.assert_close(norms, CASE[f"gradnorm.block_{variant}"], **DOUBLE)
    inputs = torch.stack([seen.grad.norm(), heard.grad.norm()])
    torch.testing.assert_close(inputs, CASE[f"gradnorm_inputs.block_{variant}"], **DOUBLE)
    torch.testing.assert_close(heard.grad[:, :, 0], CASE[f"grad.block_{variant}.A_step0"], **DOUBLE)
    assert heard.grad[:, :, 0].abs().min() > 0  # the last step reads the first


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole"])
def test_official_columns_by_the_settings_of_ravdess(cut):
    """The defaults are the official recipe, whether clips are whole or were cut to 2.45 s when they were stored."""
    clips = golden_clips() if cut else [torch.cat([torch.randn(22_050), clip]) for clip in golden_clips()]
    longest = 108_045 if cut else 3 * 44_100
    settings = CFNSR.Config(**shipped_settings(BENCHMARKS, "cfn_sr", "ravdess", "any", "any"))
    heard = AudioInput(ModalitySpec("audio", 1, longest, "waveform", rate=44_100), settings)(batch_of(clips))
    assert heard.shape == (3, 212, 13)
    for number, columns in enumerate(heard):
        expected = CASE[f"mfcc.clip{number}_librosa081"].float().mT
        torch.testing.assert_close(columns[: len(expected)], expected, rtol=0, atol=2e-3)
        assert not columns[len(expected) :].any()


class Alone(nn.Module):
    """A network of the preparation with its head."""

    def __init__(self, network, width):
        super().__init__()
        self.network, self.head = network, nn.Linear(width, 8)


def assert_alone(model, read, name, names, close):
    """Compare a network of the preparation in evaluation and in training, and count it."""
    table = CASE.table(f"table_{name}")
    fill(model, table, names)
    assert sum(parameter.numel() for parameter in model.parameters()) == CASE.info["parameter_count"][name]
    with torch.no_grad():
        logits = model.head(read(model.eval().network))
    torch.testing.assert_close(logits.double(), CASE[f"outputs.unimodal_{name}_eval.logits"], **close)
    logits = model.head(read(model.train().network))
    torch.testing.assert_close(logits.double(), CASE[f"outputs.unimodal_{name}_train.logits"], **close)
    loss = F.cross_entropy(logits, LABELS)
    torch.testing.assert_close(loss.double(), CASE[f"losses.unimodal_{name}_train.ce"], **close)
    loss.backward()
    return gradient_norms(model, table, names), CASE[f"gradnorm.unimodal_{name}_train"]


def test_official_audio_network():
    layers = {"conv1": 0, "bn1": 2, "conv2": 3, "bn2": 6, "conv3": 8, "bn3": 10}
    names = renamed((r"^fc1\.", "head."), *((rf"^{name}\.", f"network.{at}.") for name, at in layers.items()))
    model = Alone(audio_network(13, 64, 0.0), 1664).double()
    found, expected = assert_alone(
        model, lambda network: network(COLUMNS.mT.double()).flatten(1), "audio", names, DOUBLE
    )
    torch.testing.assert_close(found, expected, **DOUBLE)


@pytest.mark.parametrize(
    ("dtype", "close", "gradients_close"),
    [
        (torch.float32, SINGLE, {"rtol": 5e-2, "atol": 1e-3}),
        pytest.param(torch.float64, DOUBLE, DOUBLE, marks=pytest.mark.slow),
    ],
    ids=["single", "double"],
)
def test_official_video_network(dtype, close, gradients_close):
    names = renamed(
        (r"^fc\.", "head."),
        (r"^conv1\.", "network.conv."),
        (r"^bn1\.", "network.norm."),
        *((rf"^layer{number + 1}\.", rf"network.stages.{number}.") for number in range(4)),
        *residual,
    )
    model = Alone(ResNeXt3D(), 2048).to(dtype)
    found, expected = assert_alone(
        model, lambda network: network(CLIPS.to(dtype)).mean((2, 3, 4)), "video", names, close
    )
    torch.testing.assert_close(found, expected, **gradients_close)
