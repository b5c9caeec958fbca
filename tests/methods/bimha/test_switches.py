"""BIMHA with each part switched off."""

import pytest
import torch

from data_modules.schema import Batch, PaddedSequence
from mmbench.testing.builders import make_batch, make_spec
from tests.methods.bimha.parts import PAIRS, batch_of, build, count, naive_attention, normalised, watch


def test_the_head_reads_pairs_and_modalities():
    network, batch = build().network, batch_of()
    seen = watch(network)
    network(batch.inputs)
    expected = torch.cat([seen["made"][0].flatten(1), *(seen["vectors"][n] for n in ("text", "audio", "vision"))], 1)
    assert torch.equal(seen["joined"], expected)
    assert expected.shape == (4, 3 * 8 + 3 * 6)


def test_without_unimodal_path_the_head_reads_the_pairs_alone():
    network, batch = build(keep_unimodal=False).network, batch_of()
    seen = watch(network)
    network(batch.inputs)
    assert torch.equal(seen["joined"], seen["made"][0].flatten(1))


def compared(**settings):
    """Return what a network of the same weights sees with other settings, and without."""
    batch, found = batch_of(), []
    for chosen in (settings, {}):
        network = build(**chosen).network
        network.load_state_dict(build().network.state_dict(), strict="pair_embedding" not in chosen)
        seen = watch(network)
        network(batch.inputs)
        found.append((network, seen))
    return found


def test_without_attention_every_pair_counts_the_same():
    (network, seen), (_, before) = compared(attention=False)
    assert torch.equal(seen["read"][0], before["read"][0])
    assert (seen["made"][1] == 1 / 3).all()
    for row in range(4):
        out, _ = naive_attention(network.layers[0], *(part[row] for part in seen["read"]), weighted=False)
        torch.testing.assert_close(seen["made"][0][row], normalised(seen["read"][0][row] + out))
    assert (before["made"][1] - 1 / 3).abs().max() > 1e-3


def test_without_residual_the_pairs_are_what_they_read():
    (network, seen), (_, before) = compared(residual=False)
    assert torch.equal(seen["read"][0], before["read"][0])
    assert torch.equal(seen["made"][1], before["made"][1])
    for row in range(4):
        out, _ = naive_attention(network.layers[0], *(part[row] for part in seen["read"]))
        torch.testing.assert_close(seen["made"][0][row], normalised(out))


def test_without_pair_vectors_the_tokens_are_read_as_they_are():
    (network, seen), (whole, before) = compared(pair_embedding=False)
    assert network.embedding is None
    assert torch.equal(seen["read"][0], torch.stack([seen[name] for name in PAIRS], 1))
    torch.testing.assert_close(seen["read"][0] + whole.embedding, before["read"][0])


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_can_be_left_out(pair):
    network, batch = build(**{f"pair_{pair}": False}).network, batch_of()
    assert set(network.pairs) == set(PAIRS) - {pair}
    output = network(batch.inputs)
    assert {name for name in output.named if name.startswith("weight_")} == {f"weight_{p}" for p in network.pairs}
    assert set(network.subnetworks.parts) == {"text", "audio", "vision"}


def test_a_modality_without_pair_and_path_has_no_say():
    alone = {"pair_audio_vision": False, "pair_text_audio": False, "keep_unimodal": False}
    batch = batch_of(grad=True)
    model = build(**alone)
    model(batch).prediction.sum().backward()
    assert batch.inputs["audio"].values.grad is None
    assert batch.inputs["text"].values.grad.any()
    assert batch.inputs["vision"].values.grad.any()
    assert set(model.network.subnetworks.parts) == {"text", "vision"}
    for path in ({"keep_unimodal": True}, {"queries": "unimodal"}):
        kept = batch_of(grad=True)
        build(**alone | path)(kept).prediction.sum().backward()
        assert kept.inputs["audio"].values.grad.any()


@pytest.mark.parametrize("operation", ["lowrank", "hadamard", "concat"])
def test_other_operations_train_on_two_modalities(operation):
    spec = make_spec("multiclass", ("audio", "vision"))
    model = build(spec, pair_op=operation, **({"rank": 3} if operation == "lowrank" else {})).train()
    fusion = model.network.tokens["audio_vision"].fusion
    sizes = {"lowrank": 3 * 2 * 7 * 8 + 3 + 8, "hadamard": 6 * 8 + 8, "concat": 12 * 8 + 8}
    assert count(fusion) == sizes[operation]
    batch = make_batch(spec)
    double = {name: PaddedSequence(x.values.double(), x.lengths) for name, x in batch.inputs.items()}
    batch = Batch(double, batch.target, batch.index)
    output = model(batch)
    assert tuple(model.network.pairs) == ("audio_vision",)
    assert (output.named["weight_audio_vision"] == 1).all()
    sum(model.objective(output, batch).values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
