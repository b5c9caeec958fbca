"""LMR-CBT: what a sample depends on, and that modalities meet in vectors only."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from data_modules.schema import PaddedSequence
from mmbench.methods.lmr_cbt import LMRCBT
from tests.methods.forms import assert_forms_agree, watch_steps
from tests.methods.lmr_cbt.parts import LENGTHS, NO_DROPOUT, batch_of, data_spec, random_inputs, tiny
from tests.methods.training import assert_samples_stand_alone


def test_vectors_are_the_last_real_steps():
    network, inputs = tiny(), random_inputs()
    outputs = {}
    for name, encoder in network.encoders.items():
        watch_steps(encoder, lambda steps, name=name: outputs.__setitem__(name, steps))
    states = network(inputs)[1]
    for row in range(4):
        last = {"text": LENGTHS["text"][row] - 1}
        last |= {name: max(LENGTHS[name][row] - 3, 0) for name in ("audio", "vision")}
        torch.testing.assert_close(states[row], torch.cat([outputs[name][row, step] for name, step in last.items()]))


VARIANTS = [
    {},
    {"causal_mask": False},
    {"softmax": "time"},
    {"main": "audio"},
    {"main": "vision", "first": "text"},
    {"cross_modal": False},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_samples_do_not_depend_on_padding_or_on_their_neighbours(settings):
    assert_samples_stand_alone(tiny(**settings), random_inputs())


@pytest.mark.parametrize("settings", [*VARIANTS, {"padding": "left"}], ids=str)
def test_real_steps_alone_give_the_numbers_of_all_steps(settings):
    network, inputs = tiny(**NO_DROPOUT | settings).train(), random_inputs()
    assert_forms_agree(network, lambda: network(inputs)[0])


def test_padding_does_not_enter_the_batch_statistics():
    network, inputs = tiny(**NO_DROPOUT).train(), random_inputs()
    prediction, _ = network(inputs)
    padded = {name: PaddedSequence(F.pad(x.values, (0, 0, 0, 6)), x.lengths) for name, x in inputs.items()}
    torch.testing.assert_close(network(padded)[0], prediction)


@pytest.mark.parametrize("padding", ["masked", "left"])
def test_batch_order_does_not_matter(padding):
    network, inputs, order = tiny(padding=padding), random_inputs(), torch.tensor([2, 0, 3, 1])
    shuffled = {name: PaddedSequence(x.values[order], x.lengths[order]) for name, x in inputs.items()}
    torch.testing.assert_close(network(shuffled)[0], network(inputs)[0][order])


def test_the_legacy_lstm_leaks_between_samples_and_says_so():
    config = LMRCBT.Config(dim=16, layers=1, padding="left", legacy_batch_lstm=True)
    with pytest.warns(UserWarning, match="depends on the other samples"):
        method = LMRCBT(data_spec(), config=config).double().eval()
    inputs, order = random_inputs(), torch.tensor([2, 0, 3, 1])
    shuffled = {name: PaddedSequence(x.values[order], x.lengths[order]) for name, x in inputs.items()}
    moved = method(batch_of(shuffled)).prediction - method(batch_of(inputs)).prediction[order]
    assert moved.abs().min() > 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LMRCBT(data_spec(), config=LMRCBT.Config(dim=16, layers=1, padding="left"))


def test_left_padding_goes_to_the_longest_sample_of_the_data():
    method = LMRCBT(data_spec(steps=(20, 20, 20)), config=LMRCBT.Config(dim=16, layers=1, padding="left"))
    method.double().eval()
    inputs = random_inputs({"text": [5, 3], "audio": [4, 8], "vision": [6, 6]})
    one = {name: PaddedSequence(x.values[:1, : x.lengths[0]], x.lengths[:1]) for name, x in inputs.items()}
    torch.testing.assert_close(method(batch_of(one)).prediction, method(batch_of(inputs)).prediction[:1])


def test_text_sees_audio_and_vision_through_their_vectors_only():
    inputs = random_inputs()
    for sequence in inputs.values():
        sequence.values.requires_grad_()
    others = [inputs["audio"].values, inputs["vision"].values]
    network = tiny()
    reached = torch.autograd.grad(network(inputs)[1][:, :16].square().sum(), others)
    assert all(gradient.any() for gradient in reached)
    for name in ("audio", "vision"):
        network.encoders[name].register_forward_hook(lambda _, __, out: out.detach())
    reached = torch.autograd.grad(network(inputs)[1][:, :16].square().sum(), others, allow_unused=True)
    assert reached == (None, None)


class Shapes(TorchDispatchMode):
    """Notes the shape of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else (result,):
            if isinstance(item, torch.Tensor):
                self.seen.add(tuple(item.shape))
        return result


def test_no_tensor_crosses_two_time_axes():
    steps = {"text": 11, "audio": 29, "vision": 23}
    inputs = random_inputs({name: [length, length] for name, length in steps.items()})
    with Shapes() as shapes:
        tiny(causal_mask=False, attention_dropout=0.1).train()(inputs)  # with dropout scores are a tensor of their own
    axes = [{count * size for count in counts for size in (1, 2)} for counts in ((11,), (29, 27), (23, 21))]
    crossed = [shape for shape in shapes.seen if sum(bool(axis & set(shape)) for axis in axes) > 1]
    assert crossed == []
    assert any(shape.count(11) == 2 for shape in shapes.seen)  # attention within text is seen
