import pytest
import torch

from mmbench.methods.scalevlad.vlad import MultiScale, SharedVLAD, window_means
from mmbench.nn.steps import Layout
from tests.methods.parts import count

SCALES = (1, 2, 3, 10, 0)


def sequence(lengths, steps, dim=4):
    torch.manual_seed(0)
    values = torch.randn(len(lengths), steps, dim, dtype=torch.float64)
    return values, torch.arange(steps) < torch.tensor(lengths)[:, None]


# Windows


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 7, 10])
def test_windows_are_means_of_their_real_steps(window, packed):
    lengths = [7, 4, 0, 1]
    values, _ = sequence(lengths, 7)
    layout = Layout(torch.tensor(lengths), 7, values.device, packed)
    means, windows = window_means(layout.rows(values), layout, torch.tensor(lengths), window)
    found = windows.padded(means)
    assert found.shape[1] == -(-7 // window)
    real = torch.zeros(found.shape[:2], dtype=torch.bool)
    for b, length in enumerate(lengths):
        for w, start in enumerate(range(0, length, window)):
            real[b, w] = True
            torch.testing.assert_close(found[b, w], values[b, start : min(length, start + window)].mean(0))
    assert torch.equal(windows.padded(windows.positions > 0), real)
    assert not found[~real].any()


def test_order_inside_a_window_does_not_matter():
    values, mask = sequence([6, 6], 6)
    torch.manual_seed(0)
    scales = MultiScale(4, (3, 0)).double()
    inside, across = values[:, [2, 0, 1, 4, 5, 3]], values[:, [3, 0, 1, 2, 4, 5]]
    for other, same in ((inside, [True, True, True]), (across, [False, False, True])):  # two windows, then the whole
        before, after = scales(values, mask)[0], scales(other, mask)[0]
        assert [torch.allclose(before[:, n], after[:, n]) for n in range(3)] == same


def test_each_scale_has_its_own_layer():
    values, mask = sequence([1, 1], 1)  # one step: every scale sees the same
    torch.manual_seed(0)
    found, valid = MultiScale(4, SCALES).double()(values, mask)
    assert valid.all()
    assert len({tuple(row) for row in found[0].tolist()}) == len(SCALES)


# Vectors


def test_sums_of_residuals_are_those_of_the_definition():
    values, mask = sequence([5, 2], 5)
    torch.manual_seed(1)
    vlad = SharedVLAD(4, 3).double().requires_grad_(False)
    found, assignment = vlad(values, mask)
    for b in range(2):
        for k in range(3):
            expected = torch.zeros(4, dtype=torch.float64)
            for n in range(5):
                if mask[b, n]:
                    scores = [float(vlad.assign.weight[j] @ values[b, n] + vlad.assign.bias[j]) for j in range(3)]
                    share = torch.tensor(scores, dtype=torch.float64).exp()
                    share = share[k] / share.sum()
                    assert assignment[b, n, k].item() == pytest.approx(share.item())
                    expected += share * (values[b, n] - vlad.centres[k])
            torch.testing.assert_close(found[b, k], expected)
    assert not assignment[~mask].any()


@pytest.mark.parametrize("lengths", [[7, 4, 1, 6], [7, 0, 3, 2]])
def test_both_forms_give_the_same_descriptors(monkeypatch, lengths):
    torch.manual_seed(0)
    scales, found = MultiScale(4, SCALES).double(), []
    values, mask = sequence(lengths, 7)
    for packed in (True, False):
        monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
        found.append(scales(values, mask))
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)
    assert not found[0][0][~found[0][1]].any()


def test_descriptors_at_the_only_vector_leave_nothing():
    vlad = SharedVLAD(4, 1).double()
    found, _ = vlad(vlad.centres.expand(2, 6, 4), torch.ones(2, 6, dtype=torch.bool))
    torch.testing.assert_close(found, torch.zeros(2, 1, 4).double())


def test_at_first_a_descriptor_belongs_to_the_nearest_vector():
    torch.manual_seed(0)
    vlad, descriptors = SharedVLAD(4, 5), 3 * torch.randn(1, 50, 4)
    _, assignment = vlad(descriptors, torch.ones(1, 50, dtype=torch.bool))
    distance = torch.cdist(descriptors[0], vlad.centres).square()
    torch.testing.assert_close(assignment[0], (-distance).softmax(-1))


def test_every_real_window_has_the_mass_of_one():
    total = 0.0
    torch.manual_seed(0)
    scales, vlad = MultiScale(4, SCALES).double(), SharedVLAD(4, 8).double()
    for length, steps in ((12, 15), (50, 50), (33, 40)):
        total += float(vlad(*scales(*sequence([length], steps)))[1].detach().sum())
    assert total == pytest.approx(189)  # 25 + 98 + 66 windows


@pytest.mark.parametrize(("dim", "size"), [(128, 85_896), (64, 22_472)])
def test_sizes_follow_the_formula(dim, size):
    found = count(MultiScale(dim, SCALES)) + count(SharedVLAD(dim, 8))
    assert found == size == 5 * (dim**2 + 3 * dim) + 2 * 8 * dim + 8
