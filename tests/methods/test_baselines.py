"""What is particular to the baselines that look at their input; what they share with all methods is in the matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from data_modules.schema import DataError, DataSpec
from mmbench.methods import ConfigError, FusionMethod, method
from mmbench.nn.encoders import AverageDNN, SequenceEncoder
from mmbench.nn.recurrent import LSTMVector
from mmbench.testing.builders import changed, make_batch, make_spec


def build(key: str, spec: DataSpec | None = None, **settings: object) -> FusionMethod:
    torch.manual_seed(0)
    cls = method(key)
    return cls(spec or make_spec(), config=cls.Config.parse(settings)).eval()


def vectors(model: FusionMethod) -> dict[str, Tensor]:
    return model.subnetworks(make_batch(make_spec()).inputs)


# Late fusion and unimodal


def test_late_fusion_adds_up_nothing_before_the_head():
    """A modality reaches the head through its own slice of the concatenation and nowhere else."""
    model, batch = build("late_fusion", width=8, heads=2), make_batch(make_spec())
    seen: list[Tensor] = []
    model.network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch)
        model(changed(batch, "audio", batch.inputs["audio"].values + 1))
    moved = (seen[0] - seen[1]).abs().amax(0) > 1e-6
    assert moved.tolist() == [False] * 8 + [True] * 8 + [False] * 8


def test_late_fusion_heads_divide_the_width():
    with pytest.raises(ConfigError, match="'heads' is 3; it must divide width, 64"):
        method("late_fusion").Config.parse({"heads": 3})


@pytest.mark.parametrize("name", ["text", "audio", "vision"])
def test_unimodal_is_late_fusion_on_one_modality(name):
    """The same weights give the same prediction as late fusion built for that modality alone."""
    unimodal = build("unimodal", modality=name)
    late_fusion = build("late_fusion", make_spec(modalities=(name,)))
    late_fusion.load_state_dict(unimodal.state_dict())
    batch = make_batch(make_spec())
    assert torch.equal(unimodal(batch).prediction, late_fusion(batch).prediction)
    assert list(unimodal.spec.modalities) == [name]
    assert [type(part) for part in unimodal.network.branches.values()] == [SequenceEncoder]


def test_unimodal_takes_the_first_modality_by_default():
    assert list(build("unimodal").spec.modalities) == ["text"]
    assert list(build("unimodal", make_spec(modalities=("audio", "vision"))).spec.modalities) == ["audio"]


def test_unimodal_has_a_variant_per_modality():
    spec = make_spec(modalities=("audio", "vision"))
    assert method("unimodal").variants(spec) == {"audio": {"modality": "audio"}, "vision": {"modality": "vision"}}


def test_unimodal_refuses_a_modality_that_is_not_there():
    with pytest.raises(DataError, match="has no modality text; it has: audio, vision"):
        build("unimodal", make_spec(modalities=("audio", "vision")), modality="text")


# LF-DNN, TFN, LMF


@pytest.mark.parametrize("key", ["lf_dnn", "tfn", "lmf"])
def test_text_is_read_by_an_lstm_and_the_rest_by_averages(key):
    parts = build(key, text_width=3, audio_width=4, vision_width=5).subnetworks
    assert {name: type(part) for name, part in parts.parts.items()} == {
        "text": LSTMVector,
        "audio": AverageDNN,
        "vision": AverageDNN,
    }
    assert parts.widths == {"text": 3, "audio": 4, "vision": 5}


def test_lf_dnn_concatenates():
    model = build("lf_dnn", text_width=3, audio_width=4, vision_width=5)
    parts = vectors(model)
    joined = torch.cat([parts["text"], parts["audio"], parts["vision"]], 1)
    assert joined.shape == (4, 12)
    torch.testing.assert_close(model(make_batch(make_spec())).prediction, model.head(joined))


@pytest.mark.parametrize(
    ("modalities", "width"), [(("text", "audio", "vision"), 4 * 5 * 6), (("text", "audio"), 4 * 5)]
)
def test_tfn_reads_the_outer_product(modalities, width):
    """The head's input is the Kronecker product of the vectors with a 1 appended."""
    spec = make_spec("multiclass", modalities)
    model, batch = build("tfn", spec, text_width=3, audio_width=4, vision_width=5), make_batch(spec)
    parts = model.subnetworks(batch.inputs)
    first = [torch.cat([parts[name][0], torch.ones(1)]) for name in modalities]
    product = first[0]
    for vector in first[1:]:
        product = torch.kron(product, vector)
    assert product.shape == (width,)
    torch.testing.assert_close(model(batch).prediction[0], model.head(product[None])[0])


def test_tfn_regression_stays_on_the_scale_of_the_target():
    """Six times a sigmoid minus three on [-3, 3], whatever the head says."""
    model, batch = build("tfn"), make_batch(make_spec())
    nn.init.constant_(model.head[-1].bias, 0.7)
    nn.init.zeros_(model.head[-1].weight)
    expected = 6 / (1 + torch.exp(torch.tensor(-0.7))) - 3
    torch.testing.assert_close(model(batch).prediction, expected.expand(4, 1))
    nn.init.constant_(model.head[-1].bias, 50.0)
    torch.testing.assert_close(model(batch).prediction, torch.full((4, 1), 3.0))


def test_tfn_regression_without_ends_is_linear():
    spec = make_spec()
    open_scale = replace(spec, target=replace(spec.target, low=None, high=None))
    model = build("tfn", open_scale)
    nn.init.constant_(model.head[-1].bias, 50.0)
    assert (model(make_batch(open_scale)).prediction > 40).all()


def test_lmf_steps_change_everything_that_fuses():
    """The official optimiser forgot the weights over the rank and the bias; here a step moves them all."""
    model, batch = build("lmf"), make_batch(make_spec())
    before = {name: parameter.detach().clone() for name, parameter in model.fusion.named_parameters()}
    (optimiser,) = model.configure_optimizers()
    model.objective(model(batch), batch)["task"].backward()
    optimiser.step()
    assert set(before) == {"factors.text", "factors.audio", "factors.vision", "weights", "bias"}
    assert [name for name, p in model.fusion.named_parameters() if torch.equal(p, before[name])] == []


def test_lmf_factors_have_their_own_rate():
    model = build("lmf", factor_lr=0.5, lr=0.25)
    (optimiser,) = model.configure_optimizers()
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    slow = {name for name, p in model.named_parameters() if rates[id(p)] == 0.25}
    assert {name for name, p in model.named_parameters() if rates[id(p)] == 0.5} == {
        "fusion.factors.text",
        "fusion.factors.audio",
        "fusion.factors.vision",
    }
    assert {"fusion.weights", "fusion.bias"} <= slow


@pytest.mark.parametrize("key", ["lf_dnn", "tfn", "lmf"])
def test_published_rows_are_complete_for_both_data_sets(key):
    rows: dict[str, dict[str, float]] = {}
    for result in method(key).card.published:
        rows.setdefault(result.track, {})[result.metric] = result.value
    assert set(rows) == {"mosi/unaligned_50/standard", "mosei/unaligned_50/standard"}
    for row in rows.values():
        assert set(row) == {"acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7", "mae", "corr"}
        assert row["acc2_has0"] < row["acc2_non0"]
        assert row["acc7"] < row["acc5"]


def test_a_published_number_is_a_fraction_of_what_is_printed():
    """MMSA prints 94.73 for TFN's MAE on MOSI, in hundredths."""
    values = {(r.track, r.metric): r.value for r in method("tfn").card.published}
    assert values["mosi/unaligned_50/standard", "mae"] == 0.9473
    assert values["mosei/unaligned_50/standard", "acc2_non0"] == 0.8189
