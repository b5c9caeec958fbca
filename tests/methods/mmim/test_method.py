from dataclasses import replace
from functools import partial

import pytest
import torch

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import MODALITIES, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.mmim import MMIM
from mmbench.methods.mmim.network import MMIMNetwork
from mmbench.testing.builders import DIMS, make_batch, make_spec, write_toy_store
from tests.golden.cases import snapshot
from tests.methods.training import assert_resumes, fit, more_padding


def build(kind="regression", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return MMIM(make_spec(kind, modalities), config=MMIM.Config(**settings))


def sample(size=12, kind="regression", modalities=MODALITIES, seed=0, phase=""):
    return replace(make_batch(make_spec(kind, modalities), size, seed), phase=phase)


def terms_of(method, batch):
    return method.objective(method(batch), batch)


def total(terms):
    return torch.stack(list(terms.values())).sum()


# The network


@pytest.mark.parametrize(
    ("vision", "audio", "settings", "count"),
    [
        (47, 74, {}, 283_401),
        (20, 5, {}, 277_257),
        (35, 74, {}, 282_633),
        (47, 74, {"bidirectional": True}, 293_961),
        (47, 74, {"add_va": True}, 284_557),
    ],
)
def test_published_sizes(vision, audio, settings, count):
    network = MMIMNetwork({"text": 768, "audio": audio, "vision": vision}, 1, MMIM.Config(**settings))
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_weights_are_drawn_by_xavier():
    torch.manual_seed(0)
    network = MMIMNetwork({"text": 300, "audio": 74, "vision": 47}, 1, MMIM.Config())
    for weight in (network.encoders["audio"].encoder.rnn.weight_ih_l0, network.predictors["text"].net[0].weight):
        expected = (2 / sum(weight.shape)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
        assert weight.abs().max() > 3 * expected  # normal, not uniform


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_layer_of_the_encoders_learns(bidirectional):
    network = MMIMNetwork(DIMS, 1, MMIM.Config(layers=3, bidirectional=bidirectional))
    network(sample().inputs).prediction.sum().backward()
    assert all(parameter.grad.any() for parameter in network.encoders.parameters())


def test_encoders_drop_out_only_with_several_layers():
    inputs = sample().inputs
    for layers, varies in ((1, False), (2, True)):
        network = MMIMNetwork(DIMS, 1, MMIM.Config(layers=layers, encoder_dropout=0.5, dropout=0.0)).train()
        first, second = (network(inputs).named["h_audio"] for _ in range(2))
        assert torch.equal(first, second) is not varies


def test_fusion_drops_out_its_inputs():
    network = MMIMNetwork(DIMS, 1, MMIM.Config(dropout=1.0)).train()
    output = network(sample().inputs)
    assert not torch.equal(output.named["h_text"][0], output.named["h_text"][1])
    torch.testing.assert_close(output.named["z"], output.named["z"][:1].expand(12, -1))  # nothing came through


@pytest.mark.parametrize(
    ("modalities", "add_va", "pairs"),
    [
        (MODALITIES, False, [("text", "audio"), ("text", "vision")]),
        (MODALITIES, True, [("text", "audio"), ("text", "vision"), ("vision", "audio")]),
        (("text", "vision"), False, [("text", "vision")]),
        (("audio", "vision"), False, [("vision", "audio")]),
    ],
)
def test_pairs_follow_the_modalities(modalities, add_va, pairs):
    network = MMIMNetwork({name: DIMS[name] for name in modalities}, 1, MMIM.Config(add_va=add_va))
    assert list(network.pairs.values()) == pairs
    assert set(network.predictors) == set(modalities)


def test_text_vector_is_the_first_step_or_the_mean_of_real_ones():
    text = PaddedSequence(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([2]))
    vision = PaddedSequence(torch.zeros(1, 1, 5), torch.tensor([1]))
    for pooling, expected in {"first": 1.0, "mean": 2.0}.items():
        network = MMIMNetwork({"text": 1, "vision": 5}, 1, MMIM.Config(text_pooling=pooling))
        assert network({"text": text, "vision": vision}).named["h_text"].item() == expected


def test_padding_does_not_change_variants_either():
    method, batch = build(bidirectional=True, layers=2, text_pooling="mean").eval(), sample()
    padded = more_padding(batch.inputs, 5, 100.0)
    torch.testing.assert_close(method(replace(batch, inputs=padded)).prediction, method(batch).prediction)


# The phases of an epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four training batches of 12 samples."""
    path = write_toy_store(tmp_path_factory.mktemp("mmim") / "toy.h5", make_spec(), train=48)

    return partial(FusionDataModule, path, batch_size=12)


class Observed(MMIM):
    """MMIM that notes the terms and the parameters of every step."""

    def __init__(self, **settings):
        torch.manual_seed(0)
        super().__init__(make_spec(), config=MMIM.Config(**settings))
        self.steps = []

    def objective(self, output, batch):
        terms = super().objective(output, batch)
        if self.training:
            self.steps.append((batch.phase, set(terms), snapshot(self)))
        return terms


def test_each_pass_changes_its_own_parameters(data):
    method = Observed()
    fit(method, data)
    initial, final = method.steps[0][2], snapshot(method)
    between = next(parameters for phase, _, parameters in method.steps if phase == "main")
    for name in initial:
        gaussian, projector = ".gaussians." in name, ".entropy_projectors." in name
        assert torch.equal(initial[name], between[name]) is not gaussian, name
        assert torch.equal(between[name], final[name]) is (gaussian or projector), name


def test_the_first_pass_may_use_a_part_of_the_batches(data):
    method = Observed(estimate_fraction=0.5)
    fit(method, data, epochs=2)
    assert [phase for phase, _, _ in method.steps] == 2 * (2 * ["estimate"] + 4 * ["main"])


@pytest.mark.parametrize("slots", [1, 2])
def test_entropy_enters_one_step_after_the_memory_is_full_in_every_epoch(data, slots):
    method = Observed(memory=slots)
    fit(method, data, epochs=2)
    has = ["entropy" in terms for phase, terms, _ in method.steps if phase == "main"]
    assert has == 2 * ([False] * (slots + 1) + [True] * (3 - slots))


def test_a_resumed_run_ends_like_an_uninterrupted_one(data, tmp_path):
    assert_resumes(lambda: build(dropout=0.0), data, 2, tmp_path)


def test_the_memory_holds_detached_rows_of_nonzero_labels():
    method = build(memory=2).train()
    codes, signs = [], []
    for seed in range(3):
        batch = sample(13, seed=seed, phase="main")
        batch.target[::4] = 0.0
        output = method(batch)
        codes.append(output.named["code_text_audio"].detach())
        signs.append(batch.target.sign())
        method.objective(output, batch)
    memory = method.entropies["text_audio"]
    assert not memory.codes.requires_grad
    for group, sign in enumerate((-1, 1)):
        # The third batch took the place of the first one.
        torch.testing.assert_close(memory.rows(group), torch.cat([codes[i][signs[i] == sign] for i in (2, 1)]))
    assert len(memory.rows(0)) + len(memory.rows(1)) == 2 * 9
    method.on_train_epoch_start()
    assert len(memory.rows(0)) == len(memory.rows(1)) == 0


def test_evaluation_leaves_the_memory_alone():
    method = build().eval()
    terms_of(method, sample(phase="main"))
    assert method.entropies["text_audio"].pushed == 0


def test_the_first_pass_needs_no_labels():
    method, batch = build(dropout=0.0), sample(phase="estimate")
    loss = terms_of(method, batch)["estimate_lld"]
    assert loss == terms_of(method, replace(batch, target=-batch.target))["estimate_lld"]
    assert loss > 0


def label_of(kind, target):
    """Return the class of one target as the card has it: the sign, the class, or the only positive name; else -1."""
    if kind == "regression":
        return {-1: 0, 0: -1, 1: 1}[int(target.sign())]
    if kind == "multiclass":
        return int(target)
    positive = target.nonzero().flatten().tolist()
    return positive[0] if len(positive) == 1 else -1


@pytest.mark.parametrize(("kind", "classes"), [("regression", 2), ("multiclass", 3), ("multilabel", 3), ("binary", 2)])
def test_entropy_has_a_gaussian_per_class(kind, classes):
    method = build(kind, entropy_eps=0.0, dropout=0.0).double().train()
    outputs, labels = [], []
    for seed in range(3):
        batch = sample(40, kind, seed=seed, phase="main")
        batch.inputs = {name: PaddedSequence(item.values.double(), item.lengths) for name, item in batch.inputs.items()}
        outputs.append(method(batch))
        labels.append(torch.tensor([label_of(kind, target) for target in batch.target]))
        terms = method.objective(outputs[-1], batch)
    label = torch.cat(labels[1:])  # the memory of one batch and the current one
    count = torch.stack([(label == group).sum() for group in range(classes)])
    weight = torch.full((2,), 0.5) if kind == "regression" else count.double() / count.sum()
    expected = 0.0
    for pair in method.network.pairs:
        code = torch.cat([output.named[f"code_{pair}"] for output in outputs[1:]])
        assert (count > code.shape[1]).all()
        for group in range(classes):
            expected += weight[group] * code[label == group].T.cov(correction=0).logdet() / 2
    torch.testing.assert_close(terms["entropy"], -0.1 * expected)


def test_a_batch_of_one_has_no_negatives_and_no_entropy():
    method = build().train()
    for seed in range(3):
        terms = terms_of(method, sample(1, seed=seed, phase="main"))
        assert terms["nce"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["entropy"] == 0
    total(terms).backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


# Ablations


def third_step(**settings):
    """Return terms and gradients of the third main step of an epoch."""
    method = build(dropout=0.0, **settings).train()
    for seed in range(3):
        method.zero_grad()
        terms = terms_of(method, sample(24, seed=seed, phase=method.phases[-1].name))
        total(terms).backward()
    return terms, {name: parameter.grad for name, parameter in method.named_parameters()}


@pytest.fixture(scope="module")
def full():
    return third_step()


def test_all_terms_train_what_they_reach(full):
    terms, gradients = full
    assert set(terms) == {"task", "nce", "lld", "entropy"}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())


def test_half_precision_leaves_the_determinants_alone():
    method = build().train()
    with torch.autocast("cpu", torch.bfloat16):
        for seed in range(3):
            terms = terms_of(method, sample(24, seed=seed, phase="main"))
        total(terms).backward()
    assert terms["entropy"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())


def test_without_alpha_nothing_predicts_the_inputs_from_the_fusion(full):
    terms, gradients = third_step(alpha=0.0)
    assert terms["nce"] == 0
    assert not any(gradient.any() for name, gradient in gradients.items() if ".predictors." in name)
    assert any(gradient.any() for name, gradient in gradients.items() if ".gaussians." in name)
    assert not torch.allclose(gradients["network.fusion.0.weight"], full[1]["network.fusion.0.weight"])


def test_without_beta_there_is_no_first_pass_and_no_bound(full):
    terms, gradients = third_step(beta=0.0)
    assert [phase.name for phase in build(beta=0.0).phases] == ["main"]
    assert terms["lld"] == terms["entropy"] == 0
    assert not any(gradient.any() for name, gradient in gradients.items() if "gaussians" in name or "projector" in name)
    # The bound reaches the encoders and not the fusion.
    torch.testing.assert_close(gradients["network.fusion.0.weight"], full[1]["network.fusion.0.weight"])
    encoder = "network.encoders.audio.linear.weight"
    assert not torch.allclose(gradients[encoder], full[1][encoder])


def test_contrast_off_leaves_the_task_alone():
    method = build(contrast=False)
    assert set(third_step(contrast=False)[0]) == {"task"}
    assert [phase.name for phase in method.phases] == ["main"]
    encoders = 4 * 16 * (DIMS["audio"] + DIMS["vision"] + 2 * 16 + 2 * 2) + 2 * (16 * 16 + 16)
    fusion = (DIMS["text"] + 32) * 128 + 128 + 128 * 128 + 128 + 128 + 1
    assert sum(parameter.numel() for parameter in method.parameters()) == encoders + fusion
    assert not method.parameter_groups()["mi"]


def test_the_variance_term_is_a_switch(full):
    assert full[0]["lld"] > 0  # minus beta times a sum that is at most zero
    assert third_step(lld_include_logvar=True)[0]["lld"] != full[0]["lld"]


def test_one_modality_is_too_few():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        build(modalities=("text",))


def test_published_numbers_are_fractions():
    assert len(MMIM.card.published) == 14
    values = {(result.track, result.metric): result.value for result in MMIM.card.published}
    assert values["mosi/unaligned_50_tokens/standard", "acc2_non0"] == 0.8606
    assert values["mosei/unaligned_50_tokens/standard", "acc7"] == 0.5424
    assert values["mosei/unaligned_50_tokens/standard", "mae"] == 0.526
