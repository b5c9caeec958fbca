"""MulT: masked padding, and what the design of its paper implies."""

import time

import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import Batch, PaddedSequence, TargetSpec
from data_modules.toy import TARGETS
from mmbench.methods import ConfigError
from mmbench.methods.mult import MulT
from mmbench.methods.mult.network import MulTNetwork
from mmbench.nn.steps import Layout
from tests.methods.forms import assert_forms_agree, padded_form, watch_steps
from tests.methods.parts import count, spec_of
from tests.methods.training import assert_samples_stand_alone

EMOTIONS = TargetSpec("binary", ("neutral", "happy", "sad", "angry"))
DIMS = {"text": 12, "audio": 5, "vision": 7}


def watch(network):
    """Return dictionaries that fill with the input of layer 0 and the output of every crossmodal encoder, padded.

    The input is the target, and keys and values of the source.
    """
    first, outputs = {}, {}
    for key, encoder in network.crossmodal.items():

        def enter(_, args, key=key):
            x, plan, *sides = args
            first[key] = plan.queries.padded(x), *map(plan.keys.padded, sides)

        def leave(_, args, out, key=key):
            outputs[key] = args[1].padded(out)

        encoder.register_forward_hook(leave)
        encoder.layers[0].register_forward_pre_hook(enter)
    return first, outputs


@pytest.mark.parametrize(
    ("dims", "outputs", "settings", "expected"),
    [
        ((300, 74, 35), 1, {}, 1_073_731),
        ((300, 74, 47), 1, {}, 1_074_091),
        ((300, 5, 20), 1, {}, 1_071_211),
        ((300, 74, 35), 8, {}, 1_074_998),
        ((300, 74, 35), 1, {"dim": 40, "layers": 4, "heads": 8}, 1_540_601),
    ],
)
def test_published_parameter_counts(dims, outputs, settings, expected):
    network = MulTNetwork(dict(zip(DIMS, dims, strict=True)), outputs, MulT.Config(**settings))
    assert count(network) == expected
    if not settings:
        assert {count(encoder) for encoder in network.crossmodal.values()} == {56_010}
        assert {count(encoder) for encoder in network.memory.values()} == {220_020}
        assert [count(network.head.network[i]) for i in (0, 3)] == [32_580, 32_580]


def data_spec(dims=None, target=TARGETS["regression"], lengths=(9, 17, 13)):
    dims = dims or DIMS
    return spec_of(dims, dict(zip(dims, lengths, strict=False)), target)


def random_inputs(lengths, dims=None, seed=0):
    generator, inputs = torch.Generator().manual_seed(seed), {}
    for name, dim in (dims or DIMS).items():
        sequence = PaddedSequence(torch.empty(len(lengths[name]), max(lengths[name]), dim), torch.tensor(lengths[name]))
        values = torch.randn(sequence.values.shape, generator=generator, dtype=torch.float64)
        inputs[name] = PaddedSequence(values * sequence.mask[..., None], sequence.lengths)
    return inputs


LENGTHS = {"text": [9, 4, 6, 5], "audio": [7, 17, 3, 4], "vision": [2, 13, 13, 0]}  # the last sample has no vision


def tiny(dims=None, outputs=1, **settings):
    torch.manual_seed(0)
    settings = {"dim": 8, "heads": 2, "layers": 3, **settings}
    return MulTNetwork(dims or DIMS, outputs, MulT.Config(**settings)).double().eval()


VARIANTS = [
    {},
    {"pooling": "mean"},
    {"causal_mask": False},
    {"kernel_text": 3, "kernel_vision": 5},
    {"only": "audio"},
]


@pytest.mark.parametrize("settings", VARIANTS)
def test_samples_do_not_depend_on_padding_or_on_their_neighbours(settings):
    assert_samples_stand_alone(tiny(**settings), random_inputs(LENGTHS))


@pytest.mark.parametrize("padding", ["masked", "left"])
def test_batch_order_does_not_matter(padding):
    network, inputs, order = tiny(padding=padding), random_inputs(LENGTHS), torch.tensor([2, 0, 3, 1])
    shuffled = {name: PaddedSequence(x.values[order], x.lengths[order]) for name, x in inputs.items()}
    torch.testing.assert_close(network(shuffled)[0], network(inputs)[0][order])


def test_left_padding_goes_to_the_longest_sample_of_the_data():
    spec, config = data_spec(lengths=(20, 20, 20)), MulT.Config(padding="left", layers=1)
    method = MulT(spec, config=config).double().eval()
    lengths = {"text": [5, 3], "audio": [4, 8], "vision": [6, 6]}
    batch = Batch(random_inputs(lengths), torch.zeros(2), torch.arange(2))
    one = {name: PaddedSequence(x.values[:1, : x.lengths[0]], x.lengths[:1]) for name, x in batch.inputs.items()}
    alone = Batch(one, torch.zeros(1), torch.arange(1))
    torch.testing.assert_close(method(alone).prediction, method(batch).prediction[:1])


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pooling_reads_real_steps(pooling):
    network, states = tiny(pooling=pooling), {}
    for name, encoder in network.memory.items():
        watch_steps(encoder, lambda steps, name=name: states.__setitem__(name, steps))
    _, summary = network(random_inputs(LENGTHS))
    for row in range(3):
        rows = [states[name][row, : LENGTHS[name][row]] for name in DIMS]
        expected = torch.cat([real[-1] if pooling == "last" else real.mean(0) for real in rows])
        torch.testing.assert_close(summary[row], expected)


@pytest.mark.parametrize("settings", VARIANTS)
def test_both_forms_give_the_same(settings):
    network, inputs = tiny(**settings), random_inputs(LENGTHS)
    assert_forms_agree(network, lambda: torch.cat(network(inputs), -1))


def test_no_padding_reaches_a_feed_forward_network():
    network, counts = tiny(), {}
    for key, encoder in (*network.crossmodal.items(), *network.memory.items()):
        for layer in encoder.layers:
            layer.network.register_forward_pre_hook(
                lambda _, args, key=key: counts.setdefault(key, []).append(len(args[0]))
            )
    network(random_inputs(LENGTHS))
    steps = {name: sum(max(length, 1) for length in LENGTHS[name]) for name in DIMS}
    for key, found in counts.items():
        real = steps[key.split("_to_")[-1]]
        assert found == ([real] * 3 if "_to_" in key else [real, real, 4]), key  # 4: the last step of each sample


def test_crossmodal_encoders_see_their_pair_only():
    network, inputs = tiny(), random_inputs(LENGTHS)
    _, outputs = watch(network)
    for sequence in inputs.values():
        sequence.values.requires_grad_()
    network(inputs)
    for key, output in outputs.items():
        source, target = key.split("_to_")
        grads = torch.autograd.grad(
            output.square().sum(), [x.values for x in inputs.values()], retain_graph=True, allow_unused=True
        )
        for name, grad in zip(inputs, grads, strict=True):
            assert (grad is None or not grad.any()) == (name not in (source, target)), (key, name)


def test_a_target_is_remembered_before_the_next_one_reads():
    # Dropout draws in this order, so that seeded trainings depend on it.
    network, order = tiny(), []
    for name, encoder in (*network.crossmodal.items(), *network.memory.items()):
        encoder.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
    network(random_inputs(LENGTHS))
    assert order == [
        *("audio_to_text", "vision_to_text", "text"),
        *("text_to_audio", "vision_to_audio", "audio"),
        *("text_to_vision", "audio_to_vision", "vision"),
    ]


def test_the_future_mask_follows_real_lengths():
    # Text of 4 steps reads audio of 6: query i sees keys up to i + 2. Audio steps 5 and 6 reach only queries 3, 4.
    network = tiny(layers=1, dims={"text": 12, "audio": 5})
    _, outputs = watch(network)
    inputs = random_inputs({"text": [4, 7], "audio": [6, 9]}, {"text": 12, "audio": 5})
    network(inputs)
    before = outputs["audio_to_text"][0].clone()
    inputs["audio"].values[0, 4] += 1.0
    network(inputs)
    changed = (outputs["audio_to_text"][0] != before).any(-1)
    assert changed[:4].tolist() == [False, False, True, True]


def test_position_counts_from_the_first_real_step():
    network, inputs = tiny(layers=1), random_inputs(LENGTHS)
    first, _ = watch(network)
    network(inputs)
    alone = {name: PaddedSequence(x.values[:1, : x.lengths[0]], x.lengths[:1]) for name, x in inputs.items()}
    kept = first["vision_to_text"][0][0, :9].clone()
    network(alone)
    torch.testing.assert_close(first["vision_to_text"][0][0], kept)


def test_dropout_on_attention_is_that_of_the_source():
    config = MulT.Config(attention_dropout=0.3, attention_dropout_audio=0.1, attention_dropout_vision=0.2)
    network = MulTNetwork(DIMS, 1, config)
    expected = {"text": 0.3, "audio": 0.1, "vision": 0.2}
    for key, encoder in network.crossmodal.items():
        assert {layer.attention.dropout for layer in encoder.layers} == {expected[key.split("_to_")[0]]}
    for encoder in network.memory.values():
        assert {layer.attention.dropout for layer in encoder.layers} == {0.3}


def test_every_dropout_reaches_its_place():
    config = MulT.Config(embed_dropout=0.1, residual_dropout=0.2, relu_dropout=0.3, output_dropout=0.4)
    network = MulTNetwork(DIMS, 1, config)
    assert (network.text_dropout.p, network.head.network[2].p) == (0.1, 0.4)
    for encoder in (*network.crossmodal.values(), *network.memory.values()):
        assert encoder.dropout.p == 0.1
        assert {(layer.dropout.p, layer.network[2].p) for layer in encoder.layers} == {(0.2, 0.3)}


def test_raw_features_drop_in_text_only(monkeypatch):
    network, seen, convolve = tiny(embed_dropout=0.5).train(), {}, Layout.convolve
    names = {module: name for name, module in network.project.items()}

    def watched(layout, rows, convolution):
        seen[names[convolution]] = layout.padded(rows)
        return convolve(layout, rows, convolution)

    monkeypatch.setattr(Layout, "convolve", watched)
    inputs = random_inputs(LENGTHS)
    network(inputs)
    assert torch.equal(seen["audio"], inputs["audio"].values)
    assert torch.equal(seen["vision"], inputs["vision"].values)
    kept = seen["text"] != 0
    assert 0.3 < kept[inputs["text"].mask].double().mean() < 0.7
    torch.testing.assert_close(seen["text"][kept], 2 * inputs["text"].values[kept])


@pytest.mark.parametrize("names", [("text", "audio"), ("audio", "vision"), ("text", "vision")])
@pytest.mark.parametrize("only", [False, True])
def test_two_modalities(names, only):
    dims = {name: DIMS[name] for name in names}
    network = tiny(dims, outputs=3, only=names[1] if only else "")
    assert len(network.crossmodal) == (1 if only else 2)
    prediction, states = network(random_inputs(LENGTHS, dims))
    assert prediction.shape == (4, 3)
    assert states.shape == (4, 8 if only else 16)
    prediction.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_utterance_vectors_and_absent_modalities_are_finite():
    network = tiny().train()
    prediction, _ = network(random_inputs({"text": [1, 1], "audio": [0, 1], "vision": [1, 0]}))
    prediction.sum().backward()
    assert prediction.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_binary_emotions_have_two_logits_each():
    method = MulT(data_spec(target=EMOTIONS), config=MulT.Config(layers=1)).double().eval()
    batch = Batch(
        random_inputs(LENGTHS), torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]), torch.arange(4)
    )
    output = method(batch)
    assert output.prediction.shape == (4, 8)
    terms = method.objective(output, batch)
    pairs = output.prediction.view(16, 2)
    chosen = pairs.gather(1, batch.target.view(16, 1))[:, 0]
    torch.testing.assert_close(sum(terms.values()), (pairs.exp().sum(1).log() - chosen).mean())


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="'heads' is 4; it must divide dim, 30"):
        MulT.Config(heads=4)
    with pytest.raises(ConfigError, match="'kernel_audio' is 2; it must be odd"):
        MulT.Config(kernel_audio=2)
    with pytest.raises(ConfigError, match="padding"):
        MulT.Config(padding="right")
    spec = data_spec()
    with pytest.raises(ConfigError, match="'only' is 'vision'; made_up/random/standard has text, audio"):
        MulT(spec.select(("text", "audio")), config=MulT.Config(only="vision"))
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        MulT(spec.select(("text",)))


def explicit(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """Attention with its whole matrix in memory, as the official code computes it."""
    scores = query @ key.transpose(-1, -2) * scale
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype).triu(1)
    weights = (scores if attn_mask is None else scores + attn_mask).softmax(-1)
    return F.dropout(weights, dropout_p) @ value


def unaligned_batch(size):
    """Return a batch with the dimensions and lengths of unaligned MOSI: few samples are as long as the longest."""
    dims, longest = {"text": 300, "audio": 5, "vision": 20}, (50, 375, 500)
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(size, generator=generator) * 0.6 + 0.1  # utterances are short; words and frames go together
    share[0] = 1.0
    lengths = {name: (share * steps).ceil().int().tolist() for name, steps in zip(dims, longest, strict=True)}
    return dims, {name: PaddedSequence(x.values.float(), x.lengths) for name, x in random_inputs(lengths, dims).items()}


@torch.no_grad()
def test_long_sequences_equal_explicit_attention_over_padding(monkeypatch):
    dims, inputs = unaligned_batch(2)
    network = MulTNetwork(dims, 1, MulT.Config()).eval()
    ours = network(inputs)[0]
    monkeypatch.setattr(F, "scaled_dot_product_attention", explicit)
    with padded_form():
        torch.testing.assert_close(ours, network(inputs)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_long_sequences_are_twice_as_fast_as_explicit_attention_over_padding(monkeypatch):
    dims, inputs = unaligned_batch(8)
    network = MulTNetwork(dims, 1, MulT.Config()).eval()

    def seconds():
        network(inputs)
        start = time.perf_counter()
        network(inputs)
        return time.perf_counter() - start

    ours = seconds()
    monkeypatch.setattr(F, "scaled_dot_product_attention", explicit)
    with padded_form():
        assert seconds() > 2 * ours
