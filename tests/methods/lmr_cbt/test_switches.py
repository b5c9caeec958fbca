"""LMR-CBT with each part switched off, and with other modalities in front."""

import pytest
import torch

from mmbench.methods.lmr_cbt import LMRCBT
from tests.methods.forms import watch_steps
from tests.methods.lmr_cbt.parts import batch_of, data_spec, random_inputs, tiny, watch


def test_without_blocks_the_vectors_meet_in_the_head():
    network, inputs = tiny(), random_inputs()
    plain = tiny(cross_modal=False)
    lost = plain.load_state_dict(network.state_dict(), strict=False)
    assert {name.split(".")[0] for name in lost.unexpected_keys} == {"blocks"}
    assert lost.missing_keys == []
    local, read, _ = watch(plain)
    states, before = plain(inputs)[1], network(inputs)[1]
    assert torch.equal(read["text"], local["text"].rows)
    assert torch.equal(states[:, 16:], before[:, 16:])
    assert (states[:, :16] - before[:, :16]).abs().min(1).values.max() > 1e-6


def same_weights(**settings):
    network = tiny(**settings)
    network.load_state_dict(tiny().state_dict())
    return network


def test_without_residual_the_encoder_reads_the_blocks_alone():
    network, inputs = same_weights(residual=False), random_inputs()
    _, read, made = watch(network)
    states = network(inputs)[1]
    assert torch.equal(read["text"], made["audio"])
    assert torch.equal(states[:, 16:], tiny()(inputs)[1][:, 16:])


def test_audio_may_enter_first():
    network, inputs = same_weights(first="audio"), random_inputs()
    local, read, _ = watch(network)
    states = network(inputs)[1]
    z1 = network.blocks["audio"](*local["text"], states[:, 16:32])
    z2 = network.blocks["vision"](z1, local["text"].layout, states[:, 32:])
    torch.testing.assert_close(read["text"], z2 + local["text"].rows)
    assert (states[:, :16] - tiny()(inputs)[1][:, :16]).abs().max() > 1e-6


def test_softmax_over_time_changes_the_blocks_alone():
    network, inputs = same_weights(softmax="time"), random_inputs()
    local, _, made = watch(network)
    states = network(inputs)[1]
    total = local["text"].layout.padded(made["vision"]).sum(1)
    torch.testing.assert_close(total, torch.ones(4, 16).double())
    assert torch.equal(states[:, 16:], tiny()(inputs)[1][:, 16:])


@pytest.mark.parametrize("causal", [True, False])
def test_the_future_is_hidden_unless_asked_for(causal):
    network, inputs = tiny(causal_mask=causal), random_inputs()
    outputs = {}
    watch_steps(network.encoders["audio"], lambda states: outputs.__setitem__("audio", states))
    inputs["audio"].values.requires_grad_()
    network(inputs)
    (reached,) = torch.autograd.grad(outputs["audio"][1, 4].square().sum(), inputs["audio"].values)
    steps = reached[1].abs().sum(-1).gt(0).tolist()
    assert steps == ([True] * 7 + [False] * 10 if causal else [True] * 17)  # step 4 is a convolution of steps 4 to 6


@pytest.mark.parametrize(
    ("names", "settings", "main", "blocks"),
    [
        (("text", "audio"), {}, "text", ["audio"]),
        (("audio", "vision"), {}, "vision", ["audio"]),
        (("audio", "vision"), {"main": "audio"}, "audio", ["vision"]),
        (("text", "audio", "vision"), {"main": "audio"}, "audio", ["vision", "text"]),
        (("text", "audio", "vision"), {"main": "audio", "first": "text"}, "audio", ["text", "vision"]),
    ],
)
def test_which_modality_is_entered(names, settings, main, blocks):
    network = tiny(names, outputs=3, **settings)
    assert (network.main, list(network.blocks)) == (main, blocks)
    local, read, made = watch(network)
    prediction, states = network(random_inputs(names=names))
    assert prediction.shape == (4, 3)
    assert states.shape == (4, 16 * len(names))
    torch.testing.assert_close(read[main], made[blocks[-1]] + local[main].rows)


def test_output_names_what_the_head_reads():
    method = LMRCBT(data_spec(), config=LMRCBT.Config(dim=16, layers=1)).double().eval()
    output = method(batch_of(random_inputs()))
    torch.testing.assert_close(method.network.head(output.named["states"]), output.prediction)
