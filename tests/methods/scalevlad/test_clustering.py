import math

import pytest
import torch
import torch.nn.functional as F

from mmbench.methods.scalevlad.clustering import (
    MemoryQueue,
    ShiftedClustering,
    balanced_assignment,
    first_centres,
    spherical_kmeans,
)


def units(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def blobs(size, dim=6, spread=0.2):
    """Return samples around two opposite directions, one half each."""
    centre = torch.zeros(size, dim)
    centre[: size // 2, 0], centre[size // 2 :, 0] = 1.0, -1.0
    return centre + spread * torch.randn(size, dim, generator=torch.Generator().manual_seed(3))


# The memory


def test_the_oldest_rows_are_overwritten_first():
    queue, rows = MemoryQueue(5, 2), torch.arange(16.0).view(8, 2)
    assert len(queue) == 0
    queue.push(rows[:3])
    assert torch.equal(queue.rows(), rows[:3])
    queue.push(rows[3:6])
    queue.push(rows[6:])
    assert sorted(queue.rows()[:, 0].tolist()) == rows[3:, 0].tolist()
    assert len(queue) == 5


def test_more_rows_than_fit_leave_the_last_ones():
    queue, rows = MemoryQueue(3, 2), torch.arange(16.0).view(8, 2)
    queue.push(rows)
    assert sorted(queue.rows()[:, 0].tolist()) == rows[5:, 0].tolist()
    queue.push(rows[:1])
    assert sorted(queue.rows()[:, 0].tolist()) == sorted([*rows[6:, 0].tolist(), 0.0])


def test_the_memory_is_part_of_the_state_and_holds_unit_vectors_without_gradient():
    clustering = ShiftedClustering(4, 2, 8).train()
    clustering((3 * units(6, 4)).requires_grad_())
    assert not clustering.queue.memory.requires_grad
    torch.testing.assert_close(clustering.queue.rows(), units(6, 4))
    assert {"queue.memory", "queue._extra_state", "centres", "_extra_state"} == set(clustering.state_dict())


# Clusters


def test_lloyds_algorithm_moves_centres_to_the_mean_direction_of_their_rows():
    rows, centres = units(30, 4), units(3, 4, seed=1)
    expected = centres.clone()
    for _ in range(4):
        nearest = [max(range(3), key=lambda p, row=row: float(row @ expected[p])) for row in rows]
        for p in range(3):
            own = [row for row, cluster in zip(rows, nearest, strict=True) if cluster == p]
            if own:
                expected[p] = sum(own) / sum(own).norm()
    torch.testing.assert_close(spherical_kmeans(rows, centres, 4), expected)


def test_a_cluster_without_rows_keeps_its_centre():
    rows = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1]]), dim=1)
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert torch.equal(spherical_kmeans(rows, centres, 3)[1], centres[1])


def test_first_centres_are_different_rows_far_apart_and_the_same_every_time():
    rows = F.normalize(blobs(40, spread=0.01), dim=1)
    for _ in range(2):
        torch.manual_seed(torch.randint(100, ()).item())
        state = torch.get_rng_state()
        found = first_centres(rows, 2)
        assert torch.equal(torch.get_rng_state(), state)  # dropout draws the same with and without clusters
        assert (found[0] @ found[1]).item() == pytest.approx(-1, abs=0.01)
        assert torch.equal(found, first_centres(rows, 2))
    same = first_centres(units(1, 3).expand(5, 3), 4)  # nothing is far from anything
    assert same.shape == (4, 3)


def test_balance_gives_every_cluster_its_share():
    """All rows prefer the first cluster; in balance the half that does so least goes to the second."""
    preference = torch.linspace(0.01, 0.2, 20)
    similarity = torch.stack([preference, torch.zeros(20)], dim=1)
    assert similarity.argmax(1).sum() == 0
    found = balanced_assignment(similarity, iterations=50)
    assert found.tolist() == [1] * 10 + [0] * 10


def test_the_share_of_clusters_is_counted_over_the_memory_too():
    """One sample: alone it could go anywhere, in balance with the memory it belongs to its own cluster."""
    clustering = ready()
    sample = clustering.centres[1:2]
    assert clustering.targets(sample @ clustering.centres.T).item() == 1


# The loss


def ready(momentum=0.9, refresh=50, **settings):
    """Return a clustering of two blobs that has its centres."""
    clustering = ShiftedClustering(6, 2, 40, 0.5, momentum, refresh, **settings).train()
    clustering(blobs(40), active=False)
    clustering._loss(F.normalize(blobs(2), dim=1))
    return clustering


def test_there_is_no_loss_before_the_memory_is_half_full():
    clustering = ShiftedClustering(6, 2, 40, temperature=0.5).train()
    samples = blobs(10).requires_grad_()
    for fill in (0, 10):
        assert len(clustering.queue) == fill
        loss = clustering(samples)
        assert loss == 0
        assert not torch.autograd.grad(loss, samples)[0].any()
    assert len(clustering.queue) == 20
    assert not clustering.centres.any()
    assert clustering(samples) > 0
    assert clustering.centres.any()


def test_the_loss_is_the_cross_entropy_of_a_samples_own_cluster():
    clustering = ready(balanced=False)
    samples, centres = blobs(5), clustering.centres
    expected = 0.0
    for sample in samples:
        scores = [float(sample @ centre / sample.norm()) / 0.5 for centre in centres]
        expected += math.log(sum(math.exp(score) for score in scores)) - max(scores)
    clustering.eval()
    assert clustering(samples).item() == pytest.approx(expected / 5, rel=1e-4)
    clustering.temperature = 1e6
    assert clustering(samples).item() == pytest.approx(math.log(2), rel=1e-4)


def test_samples_are_remembered_after_the_loss_and_in_training_alone():
    one, two = ready(), ready()
    one.queue.push(F.normalize(blobs(4), dim=1))
    assert torch.equal(one.eval()(blobs(4)), one(blobs(4)))
    before = two.queue.memory.clone()
    two.eval()(blobs(4))
    assert torch.equal(two.queue.memory, before)
    two.train()(blobs(4))
    assert torch.equal(two.queue.memory, one.queue.memory)
    assert not torch.equal(two.queue.memory, before)


def test_inactive_clustering_only_remembers():
    clustering = ready()
    state = {name: value.clone() for name, value in clustering.state_dict().items()}
    samples = blobs(4).requires_grad_()
    loss = clustering(samples, active=False)
    assert loss == 0
    assert not torch.autograd.grad(loss, samples)[0].any()
    changed = {name for name, value in clustering.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == {"queue.memory", "queue._extra_state"}


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_centres_drift_by_momentum(momentum):
    clustering = ready(momentum, refresh=3)
    with torch.no_grad():
        clustering.centres.copy_(F.normalize(clustering.centres + 0.5 * units(2, 6), dim=1))
    old = clustering.centres.clone()
    for step in (2, 3):  # the first was taken when the centres were made
        assert int(clustering.steps) == step
        assert torch.equal(clustering.centres, old)
        memory = clustering.queue.rows().clone()
        clustering(blobs(4))
    new = spherical_kmeans(memory, old, 5)
    assert not torch.allclose(new, old, atol=1e-3)
    torch.testing.assert_close(clustering.centres, F.normalize(momentum * old + (1 - momentum) * new, dim=1))


def test_a_step_does_not_wait_for_the_device():
    """Where numbers have no values, one that the CPU asks for is an error."""
    clustering = ready(refresh=2).to("meta")
    for _ in range(2):  # in one of them the centres move
        rows = torch.empty(4, 6, device="meta")
        clustering._loss(rows)
        clustering.queue.push(rows)
    assert (clustering.steps, clustering.queue.pushed) == (4, 48)


def test_counters_are_restored():
    clustering, again = ready(), ShiftedClustering(6, 2, 40)
    again.load_state_dict(clustering.state_dict())
    assert (again.steps, again.queue.pushed) == (clustering.steps, clustering.queue.pushed) == (2, 40)


def test_half_precision_leaves_memory_and_loss_alone():
    clustering = ready()
    with torch.autocast("cpu", torch.bfloat16):
        loss = clustering(blobs(4).bfloat16())
    assert loss.dtype == clustering.queue.memory.dtype == clustering.centres.dtype == torch.float32


def test_samples_of_two_groups_are_told_apart():
    """Moved by this loss alone, samples find their clusters, and balance keeps several of them alive."""
    torch.manual_seed(0)
    samples = torch.nn.Parameter(blobs(64, spread=0.6))
    optimizer = torch.optim.Adam([samples], lr=0.02)
    clustering = ShiftedClustering(6, 4, 128, refresh=10).train()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = clustering(samples)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == 0  # no memory yet
    assert losses[-1] < 0.5 * losses[2] < math.log(4)
    directions = F.normalize(samples.detach(), dim=1)
    assert len((directions @ clustering.centres.T).argmax(1).unique()) >= 2
    cosine = directions[:32] @ directions[32:].T
    assert cosine.mean() < 0
