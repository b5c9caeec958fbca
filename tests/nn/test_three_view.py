from __future__ import annotations

from contextlib import nullcontext
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from data_modules.schema import MODALITIES, ModalitySpec, PaddedSequence
from mmbench.nn.three_view import (
    ModalityVector,
    ModalityVectors,
    ThreeViewDecomposition,
    Views,
    modality_variance,
    moment_discrepancy,
    orthogonality,
    overlap,
    pairwise_discrepancy,
    view_orthogonality,
)
from tests.methods.forms import assert_forms_agree, padded_form

READERS = ("mean", "lstm", "gru")


def sequence(lengths=(5, 2, 3), dim=4, seed=0):
    made = PaddedSequence(
        torch.randn(len(lengths), max(lengths), dim, generator=torch.Generator().manual_seed(seed)), None
    )
    return PaddedSequence(made.values, torch.tensor(lengths))


def vectors(modalities=MODALITIES, size=12, width=6):
    torch.manual_seed(1)
    return {name: torch.randn(size, width, dtype=torch.float64) for name in modalities}


def decomposition(**settings):
    torch.manual_seed(0)
    return ThreeViewDecomposition(MODALITIES, 6, nn.Sigmoid, **settings).double()


# What is decomposed


def read_alone(part, steps):
    """Return what a reader makes of one unpadded sequence ``(T, dim)``, before the linear layer, without our code.

    Untrained running statistics of the normalisation are 0 and 1.
    """
    steps = steps / (1 + 1e-5) ** 0.5
    if part.lstm is not None:
        steps = part.lstm.rnn(steps[None])[0][0]
    if part.gru is not None:
        steps = part.gru(part.project(steps)[None])[0][0]
    return steps.mean(0)


@pytest.mark.parametrize("form", [nullcontext, padded_form])
@pytest.mark.parametrize("reader", READERS)
def test_a_vector_is_what_each_sequence_alone_gives(reader, form):
    torch.manual_seed(0)
    part, steps = ModalityVector(4, 6, reader, 3).eval(), sequence()
    with form():
        vectors = part(steps)
    for row, length in enumerate(steps.lengths):
        alone = part.linear(read_alone(part, steps.values[row, :length]))
        expected = (alone - alone.mean()) / (alone.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(vectors[row], expected)


@pytest.mark.parametrize(("reader", "width"), [("mean", 4), ("lstm", 6), ("gru", 3)])
def test_a_reader_has_its_width(reader, width):
    part = ModalityVector(4, 6, reader, 3)
    assert part.linear.in_features == width
    assert [part.lstm is not None, part.gru is not None] == [reader == "lstm", reader == "gru"]


@pytest.mark.parametrize("reader", READERS)
def test_both_forms_of_a_batch_give_the_same_vectors_and_gradients(reader):
    torch.manual_seed(0)
    part, steps = ModalityVector(4, 6, reader, 3).double().train(), sequence((5, 0, 2, 3))
    steps.values = steps.values.double()
    assert_forms_agree(part, lambda: part(steps))


@pytest.mark.parametrize("reader", READERS)
def test_sequences_without_a_step_and_of_one_step_train(reader):
    part = ModalityVector(4, 6, reader, 3, dropout=0.1).train()
    part(PaddedSequence(torch.randn(3, 2, 4), torch.tensor([0, 1, 2]))).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in part.parameters())
    empty = part.eval()(PaddedSequence(torch.full((1, 2, 4), 1e3), torch.tensor([0])))
    assert empty.isfinite().all()


def test_dropout_comes_after_the_mean():
    part = ModalityVector(4, 6, "mean", 3, dropout=1.0).train()
    torch.testing.assert_close(part(sequence()), part.norm(part.linear.bias).expand(3, -1))


def test_text_has_its_own_reader_and_single_steps_need_none():
    spec = {m: ModalitySpec(m, 4, steps) for m, steps in {"text": 5, "audio": 5, "vision": 1}.items()}
    parts = ModalityVectors(spec, dict.fromkeys(spec, 4), 6, "lstm", "gru", 3).parts
    assert {m: (part.lstm is not None, part.gru is not None) for m, part in parts.items()} == {
        "text": (False, True),
        "audio": (True, False),
        "vision": (False, False),
    }


# The decomposition


def test_there_are_one_full_one_shared_and_three_specific_views():
    views = decomposition()(vectors())
    assert len(views.joint) == 2
    assert list(views.specific) == list(views.shared) == list(MODALITIES)
    assert {tensor.shape for tensor in views.named().values()} == {(12, 6)}
    torch.testing.assert_close(
        views.common, (views.shared["text"] + views.shared["audio"] + views.shared["vision"]) / 3
    )


def test_the_shared_map_is_one_and_the_specific_maps_are_several():
    module, given = decomposition(), vectors()
    same = module(dict.fromkeys(MODALITIES, given["text"]))
    for x, y in combinations(MODALITIES, 2):
        assert torch.equal(same.shared[x], same.shared[y])
        assert not torch.allclose(same.specific[x], same.specific[y])
    assert {name: p.numel() for name, p in module.shared.named_parameters()} == {"0.weight": 36, "0.bias": 6}
    assert sum(p.numel() for p in module.specific.parameters()) == 3 * 42


def test_every_view_is_its_equation():
    module, u = decomposition(), vectors()
    views = module(u)
    first, second = module.full[0], module.full[3]
    hidden = (torch.cat([u["text"], u["audio"], u["vision"]], 1) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(views.full, hidden @ second.weight.T + second.bias)
    for name in MODALITIES:
        for found, part in ((views.shared, module.shared), (views.specific, module.specific[name])):
            expected = 1 / (1 + (-(u[name] @ part[0].weight.T + part[0].bias)).exp())
            torch.testing.assert_close(found[name], expected)


def test_the_full_view_may_have_one_layer():
    module, u = decomposition(full_layers=1), vectors()
    joint = torch.cat([u["text"], u["audio"], u["vision"]], 1) @ module.full[0].weight.T + module.full[0].bias
    torch.testing.assert_close(module(u).full, joint * (1 + torch.erf(joint / 2**0.5)) / 2)
    torch.testing.assert_close(torch.stack(list(module.parts_of_full(u).values())).sum(0), joint)


def test_a_part_of_the_full_view_is_that_of_one_modality():
    module, u = decomposition(full_layers=1), vectors()
    before, after = module.parts_of_full(u), module.parts_of_full({**u, "audio": u["audio"] + 1})
    assert [torch.equal(before[name], after[name]) for name in MODALITIES] == [True, False, True]


def test_the_full_view_drops_out_inside():
    module = decomposition(dropout=1.0).train()
    torch.testing.assert_close(module(vectors()).full, module.full[3].bias.expand(12, -1))


@pytest.mark.parametrize("left_out", ["full", "shared", "specific"])
def test_a_view_can_be_left_out(left_out):
    kept = [view for view in ("full", "shared", "specific") if view != left_out]
    module, whole = decomposition(views=kept), decomposition()
    views = module(vectors())
    assert {name.partition(".")[0] for name, _ in module.named_parameters()} == set(kept)
    assert [views.full is None, views.common is None, not views.specific] == [
        left_out == view for view in ("full", "shared", "specific")
    ]
    own = {"shared": "common"}.get(left_out, left_out)
    names = whole(vectors()).named()
    assert set(views.named()) == {n for n in names if n != own and not n.startswith(f"{left_out}_")}
    assert bool(module.parts_of_full(vectors())) is (left_out != "full")


# Terms of the loss


def test_moment_discrepancy_is_its_formula():
    """Mean, then the central moments from the second to the fifth, entry by entry."""
    x, y = torch.rand(9, 3, dtype=torch.float64), torch.rand(7, 3, dtype=torch.float64) ** 2
    expected = 0.0
    for order in range(1, 6):
        squares = 0.0
        for entry in range(3):
            moments = []
            for rows in (x[:, entry].tolist(), y[:, entry].tolist()):
                mean = sum(rows) / len(rows)
                centred = [value - mean for value in rows]
                moments.append(mean if order == 1 else sum(value**order for value in centred) / len(rows))
            squares += (moments[0] - moments[1]) ** 2
        expected += squares**0.5
    assert moment_discrepancy(x, y).item() == pytest.approx(expected)


def test_moment_discrepancy_has_as_many_moments_as_asked():
    """Two distributions of equal mean and variance differ in the third moment only."""
    x = torch.tensor([[2.0], [-1.0], [-1.0], [0.0]], dtype=torch.float64)
    assert moment_discrepancy(x, -x, orders=2).item() == 0
    assert moment_discrepancy(x, -x, orders=4).item() == pytest.approx(2 * (8 - 2) / 4)


def test_equal_shared_vectors_have_no_discrepancy_and_a_finite_gradient():
    one = torch.rand(9, 4, requires_grad=True)
    loss = pairwise_discrepancy(dict.fromkeys(MODALITIES, one))
    loss.backward()
    assert loss == 0
    assert one.grad.isfinite().all()


def test_discrepancy_is_the_mean_over_the_pairs():
    shared = {name: vector.sigmoid() for name, vector in vectors().items()}
    each = [moment_discrepancy(shared[x], shared[y]) for x, y in combinations(MODALITIES, 2)]
    assert min(each) > 0
    torch.testing.assert_close(pairwise_discrepancy(shared), sum(each) / 3)


def test_orthogonality_is_its_formula():
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    total = 0.0
    a, b = ([row / row.norm() for row in rows - rows.mean(0)] for rows in (x, y))
    for i in range(3):
        for j in range(4):
            total += sum(a[n][i] * b[n][j] for n in range(7)) ** 2
    torch.testing.assert_close(orthogonality(x, y), total / 12)


def test_orthogonality_is_zero_for_orthogonal_columns_only():
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    x, y = signs[:, :1] * torch.tensor([3.0, 0, 0]), signs[:, 1:] * torch.tensor([0, 2.0, 0])
    assert orthogonality(x, y) == 0
    assert orthogonality(x, x) > 0
    assert orthogonality(x, x + 5) == orthogonality(x, x)


def test_orthogonality_turns_rows_and_does_not_shrink_them():
    x, y = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), torch.randn(7, 3, dtype=torch.float64)
    orthogonality(x, y).backward()
    centred = (x - x.mean(0)).detach()
    along = (x.grad * centred).sum()  # the loss stays what it is when all of x grows
    assert along.abs() < 1e-12 < x.grad.abs().min()


def test_one_sample_is_orthogonal_to_everything_with_a_finite_gradient():
    x = torch.rand(1, 4, requires_grad=True)
    loss = orthogonality(x, x)
    loss.backward()
    assert loss == 0
    assert torch.equal(x.grad, torch.zeros(1, 4))


def test_specific_views_are_kept_apart_from_the_shared_ones_and_each_other():
    s, p = vectors(), vectors(width=5)
    views = Views(None, s, p)
    apart = sum(orthogonality(p[name], s[name]) for name in MODALITIES)
    each_other = sum(orthogonality(p[x], p[y]) for x, y in combinations(MODALITIES, 2))
    torch.testing.assert_close(view_orthogonality(views), apart + each_other)
    torch.testing.assert_close(view_orthogonality(Views(None, {}, p)), each_other)


@pytest.mark.parametrize(
    "term",
    [
        moment_discrepancy,
        orthogonality,
        lambda x, y: modality_variance({"text": x, "audio": y}),
        lambda x, y: overlap(Views(None, {"text": x}, {"text": y})),
    ],
    ids=["moments", "orthogonality", "spread", "overlap"],
)
def test_half_precision_is_left_behind(term):
    """Neither numbers of half precision nor a region that computes with them changes the digits of the result."""
    x, y = torch.rand(9, 4).bfloat16(), torch.rand(9, 4).bfloat16()
    exact = term(x.float(), y.float())
    assert torch.equal(term(x, y), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(term(x, y), exact)


def test_spread_is_the_squared_distance_from_the_mean():
    shared = vectors()
    mean = sum(shared.values()) / 3
    expected = sum(((shared[name] - mean) ** 2).sum() for name in MODALITIES) / (3 * 12 * 6)
    torch.testing.assert_close(modality_variance(shared), expected)
    assert modality_variance(dict.fromkeys(MODALITIES, torch.randint(9, (4, 3)).float())) == 0


def test_overlap_is_a_squared_cosine():
    s, p = vectors(), {name: vector.flip(0) for name, vector in vectors().items()}
    each = [
        [(s[name][row] @ p[name][row] / (s[name][row].norm() * p[name][row].norm())) ** 2 for row in range(12)]
        for name in MODALITIES
    ]
    torch.testing.assert_close(overlap(Views(None, s, p)), torch.tensor(each, dtype=torch.float64).mean())
    assert overlap(Views(None, s, {name: -3 * vector for name, vector in s.items()})).item() == pytest.approx(1)
    halves = F.pad(torch.ones(2, 3), (0, 3)), F.pad(torch.ones(2, 3), (3, 0))
    assert overlap(Views(None, {"text": halves[0]}, {"text": halves[1]})) == 0


def test_overlap_of_dead_units_has_a_finite_gradient():
    zero = torch.zeros(2, 3, requires_grad=True)
    loss = overlap(Views(None, {"text": zero}, {"text": torch.ones(2, 3)}))
    loss.backward()
    assert loss == 0
    assert zero.grad.isfinite().all()
