"""Contrastive losses against naive loops and closed forms, and what they are in two processes."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmbench.nn.contrastive import Projector, info_nce, pair_contrastive, supervised_contrastive


def units(count, dim=5, seed=0, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=random, dtype=dtype), dim=1)


def naive_supervised(vectors, labels, temperature):
    """The double loop over anchors and their positives."""
    losses = []
    for i in range(len(vectors)):
        others = [k for k in range(len(vectors)) if k != i]
        total = sum(math.exp(vectors[i] @ vectors[k] / temperature) for k in others)
        logs = [
            math.log(math.exp(vectors[i] @ vectors[p] / temperature) / total) for p in others if labels[p] == labels[i]
        ]
        if logs:
            losses.append(-sum(logs) / len(logs))
    return sum(losses) / len(losses) if losses else 0.0


def naive_pair(first, second, temperature):
    vectors, size = torch.cat([first, second]), len(first)
    losses = []
    for i in range(2 * size):
        scores = {k: math.exp(vectors[i] @ vectors[k] / temperature) for k in range(2 * size) if k != i}
        losses.append(-math.log(scores[(i + size) % (2 * size)] / sum(scores.values())))
    return sum(losses) / len(losses)


def naive_info_nce(first, second, temperature):
    losses = []
    for rows, columns in ((first, second), (second, first)):
        for i, row in enumerate(rows):
            scores = [math.exp(row @ column / temperature) for column in columns]
            losses.append(-math.log(scores[i] / sum(scores)))
    return sum(losses) / len(losses)


# Supervised


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [0, 1, 2, 3, 4, 0], [7, 7, 7, 7, 7, 7], [0, 1, 2, 3, 4, 5]])
def test_supervised_is_the_double_loop(labels, temperature):
    vectors = units(6)
    loss = supervised_contrastive(vectors, torch.tensor(labels), temperature)
    assert loss.item() == pytest.approx(naive_supervised(vectors, labels, temperature), rel=1e-10)


def test_supervised_compares_whole_rows_of_labels():
    vectors, rows = units(5), torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1], [1, 1]])
    loss = supervised_contrastive(vectors, rows)
    assert loss.item() == pytest.approx(naive_supervised(vectors, [0, 1, 0, 2, 2], 0.07), rel=1e-10)


def test_without_positives_there_is_no_loss_and_a_gradient_of_zero():
    for size in (1, 5):
        vectors = units(size).requires_grad_()
        loss = supervised_contrastive(vectors, torch.arange(size))
        loss.backward()
        assert loss == 0
        assert not vectors.grad.any()


@pytest.mark.parametrize("size", [2, 3, 9])
def test_identical_vectors_of_one_class_cost_the_choice_among_the_others(size):
    vectors = units(1).expand(size, -1)
    loss = supervised_contrastive(vectors, torch.zeros(size))
    assert loss.item() == pytest.approx(math.log(size - 1), abs=1e-12)


def test_supervised_falls_when_a_class_moves_together():
    vectors, labels = units(6), torch.tensor([0, 0, 0, 1, 1, 1])
    centres = torch.stack([vectors[labels == label].mean(0) for label in (0, 1)])[labels]
    losses = [supervised_contrastive(F.normalize(vectors + w * centres, dim=1), labels) for w in (0.0, 1.0, 5.0)]
    assert losses[0] > losses[1] > losses[2]


# Pairs of views


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_pairs_are_the_double_loop(temperature):
    first, second = units(4, seed=1), units(4, seed=2)
    loss = pair_contrastive(first, second, temperature)
    assert loss.item() == pytest.approx(naive_pair(first, second, temperature), rel=1e-10)
    torch.testing.assert_close(pair_contrastive(second, first, temperature), loss)


@pytest.mark.parametrize("temperature", [0.05, 0.3])
def test_identical_views_of_orthogonal_samples(temperature):
    views = torch.eye(4, 6, dtype=torch.float64)
    expected = math.log(1 + (2 * 4 - 2) * math.exp(-1 / temperature))
    assert pair_contrastive(views, views, temperature).item() == pytest.approx(expected, rel=1e-6)


def test_pairs_fall_when_the_views_move_together():
    first, second = units(6, seed=1), units(6, seed=2)
    losses = [pair_contrastive(first, F.normalize(second + w * first, dim=1)) for w in (0.0, 1.0, 5.0)]
    assert losses[0] > losses[1] > losses[2]


# Two modalities


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_is_the_double_loop_in_both_directions(temperature):
    first, second = units(4, seed=1), units(4, seed=2)
    loss = info_nce(first, second, temperature)
    assert loss.item() == pytest.approx(naive_info_nce(first, second, temperature), rel=1e-10)
    torch.testing.assert_close(info_nce(second, first, temperature), loss)


def test_info_nce_vanishes_for_equal_orthonormal_rows_and_little_temperature():
    rows = torch.eye(5, dtype=torch.float64)
    assert info_nce(rows, rows, 0.01).item() == pytest.approx(0.0, abs=1e-12)
    assert info_nce(rows, rows, 0.5).item() == pytest.approx(math.log(1 + 4 * math.exp(-2)), rel=1e-10)


def test_info_nce_of_independent_rows_is_about_the_logarithm_of_their_number():
    losses = [info_nce(units(64, 200, seed=2 * i), units(64, 200, seed=2 * i + 1), 1.0) for i in range(5)]
    assert torch.stack(losses).mean().item() == pytest.approx(math.log(64), abs=0.02)
    rows = units(64, 200)
    assert info_nce(rows, rows, 0.1) < info_nce(rows, rows.roll(1, 0), 0.1)  # matched against shuffled


@pytest.mark.parametrize("loss", [pair_contrastive, info_nce])
def test_a_batch_of_one_has_no_negatives(loss):
    first, second = (units(1, seed=seed).requires_grad_() for seed in (1, 2))
    value = loss(first, second)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert not first.grad.abs().max() > 1e-12


LOSSES = {
    "supervised": lambda x: supervised_contrastive(x, torch.arange(len(x)) % 2),
    "pair": lambda x: pair_contrastive(x, x.roll(1, 1)),
    "info_nce": lambda x: info_nce(x, x.roll(1, 1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_scores_in_single(name):
    vectors = units(8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = LOSSES[name](vectors)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, LOSSES[name](vectors))
    assert LOSSES[name](vectors.bfloat16()).dtype == torch.float32


def test_projector_gives_unit_vectors_through_its_two_layers():
    torch.manual_seed(0)
    projector, x = Projector(6), torch.randn(4, 6)
    first, second = projector.net[0], projector.net[2]
    assert first.bias is None
    assert sum(p.numel() for p in projector.parameters()) == 2 * 6 * 6 + 6
    raw = (x @ first.weight.T).relu() @ second.weight.T + second.bias
    torch.testing.assert_close(projector(x), raw / raw.norm(dim=1, keepdim=True))
    torch.testing.assert_close(projector(x).norm(dim=1), torch.ones(4))


# Two processes


def _inputs():
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(5))


def _model():
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def _gradient(model, name, rows):
    model.zero_grad()
    LOSSES[name](F.normalize(model(rows), dim=1)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).clone()


def _process(rank, folder):
    """Train on one half of the rows; both processes write the gradient that they end with."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = DistributedDataParallel(_model())
    found = {name: _gradient(model, name, _inputs().chunk(2)[rank]) for name in LOSSES}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_thread")
def test_two_processes_average_losses_over_their_own_rows(tmp_path):
    """Negatives are local: the gradient is the mean of two half batches', and not that of the whole batch."""
    mp.start_processes(_process, (tmp_path,), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name in LOSSES:
        halves = [_gradient(_model(), name, rows) for rows in _inputs().chunk(2)]
        torch.testing.assert_close(first[name], (halves[0] + halves[1]) / 2)
        torch.testing.assert_close(first[name], second[name])
        whole = _gradient(_model(), name, _inputs())
        assert (first[name] - whole).abs().max() > 1e-3, name
