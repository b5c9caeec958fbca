"""Selection by a text, and convolutions on the selected sites, against arithmetic site by site."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from mmbench.methods.mesm.sparse import CrossModalAttention, SparseBlock, SparseTower, halved, legacy_reordered, nucleus
from mmbench.methods.mesm.vgg import dense_tower
from tests.golden.cases import Case

CASE = Case.load("mesm")
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def scores_of(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.rand(shape, dtype=torch.float64).flatten(1).softmax(1).view(shape)


def everywhere(maps):
    return torch.ones_like(maps, dtype=torch.bool)


# Selection


@pytest.mark.parametrize("mass", [0.05, 0.50, 0.80, 0.95])
def test_selection_is_the_official_one(mass):
    scores = CASE["inputs.select_scores"]
    kept = nucleus(scores, mass, everywhere(scores))
    assert torch.equal(kept.to(torch.uint8), CASE[f"outputs.select_p{round(100 * mass):03d}"])


def test_selection_of_the_example():
    scores = torch.tensor([[[0.5, 0.3, 0.15, 0.05]]])
    assert nucleus(scores, 0.75, everywhere(scores)).tolist() == [[[True, True, False, False]]]
    assert nucleus(scores, 0.85, everywhere(scores)).tolist() == [[[True, True, True, False]]]
    official = torch.cat([nucleus(scores, mass, everywhere(scores)) for mass in (0.75, 0.85)])
    assert torch.equal(official[:, 0].double(), CASE["outputs.select_card_example"].double())


@pytest.mark.parametrize("mass", [0.1, 0.37, 0.8, 0.99])
def test_no_kept_site_can_be_spared(mass):
    scores = scores_of(20, 5, 6)
    kept = nucleus(scores, mass, everywhere(scores))
    inside = (scores * kept).flatten(1).sum(1)
    assert (inside >= mass).all()
    least = scores.masked_fill(~kept, 2.0).flatten(1).amin(1)
    assert (inside - least < mass).all()
    assert (least >= scores.masked_fill(kept, 0.0).flatten(1).amax(1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_whole_mass_keeps_every_active_site(dtype):
    torch.manual_seed(3)
    active = torch.rand(200, 24, 24) < 0.7
    energies = torch.randn(200, 24, 24, dtype=torch.float64)
    scores = energies.masked_fill(~active, -torch.inf).flatten(1).softmax(1).view_as(energies).to(dtype)
    assert torch.equal(nucleus(scores, 1.0, active), active)


def test_no_mass_keeps_the_best_site_alone():
    scores = scores_of(9, 4, 4)
    kept = nucleus(scores, 0.0, everywhere(scores))
    assert torch.equal(kept.flatten(1).long().argmax(1), scores.flatten(1).argmax(1))
    assert (kept.sum((1, 2)) == 1).all()


def test_what_is_not_active_is_never_kept():
    scores, active = scores_of(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.bool)
    active[1, 2, 3] = True
    kept = nucleus(scores.masked_fill(~active, 0.0), 0.9, active)
    assert torch.equal(kept, active)


def test_more_mass_keeps_more():
    scores = scores_of(8, 6, 6)
    kept = [nucleus(scores, mass, everywhere(scores)) for mass in torch.linspace(0, 1, 21).tolist()]
    assert all((fewer <= more).all() for fewer, more in itertools.pairwise(kept))


# Attention


@torch.no_grad()
def test_attention_is_that_of_the_equation():
    torch.manual_seed(0)
    attention = CrossModalAttention(4, 7).double()
    maps, active = torch.randn(3, 4, 2, 5).double(), torch.rand(3, 2, 5) < 0.6
    text, rows = torch.randn(2, 7).double(), torch.tensor([0, 0, 1])
    found = attention(maps, active, text, rows)
    for n in range(3):
        energies = {}
        for y, x in active[n].nonzero().tolist():
            place = attention.place.weight @ maps[n, :, y, x] + attention.place.bias
            hidden = torch.tanh(place + attention.text.weight @ text[rows[n]])
            energies[y, x] = attention.score(hidden).item()
        total = sum(torch.tensor(list(energies.values())).double().exp())
        for y, x in itertools.product(range(2), range(5)):
            expected = torch.tensor(energies[y, x]).double().exp() / total if (y, x) in energies else torch.tensor(0.0)
            assert float(found[n, y, x]) == pytest.approx(float(expected), abs=1e-7)


# Convolution


def naive(block, maps, sites):
    """Return what a block makes of a map, site by site; sites are a dictionary from place to vector."""
    at = [{(y, x): maps[n, :, y, x] for y, x in mask.nonzero().tolist()} for n, mask in enumerate(sites)]
    for layer, norm in zip(block.convolutions, block.norms, strict=True):
        convolved = [
            {
                (y, x): sum(
                    layer.weight[:, :, dy + 1, dx + 1] @ here[y + dy, x + dx]
                    for dy, dx in itertools.product((-1, 0, 1), repeat=2)
                    if (y + dy, x + dx) in here
                )
                for y, x in here
            }
            for here in at
        ]
        rows = torch.stack([vector for here in convolved for vector in here.values()])
        mean, variance = rows.mean(0), rows.var(0, correction=0)
        at = [
            {
                place: F.relu((vector - mean) / (variance + 1e-4).sqrt() * norm.weight + norm.bias)
                for place, vector in here.items()
            }
            for here in convolved
        ]
    height, width = sites.shape[1:]
    pooled = maps.new_zeros(len(maps), len(block.norms[1].weight), height // 2, width // 2)
    for n, here in enumerate(at):
        for y, x in itertools.product(range(height // 2), range(width // 2)):
            window = [
                here[2 * y + dy, 2 * x + dx] for dy in (0, 1) for dx in (0, 1) if (2 * y + dy, 2 * x + dx) in here
            ]
            if window:
                pooled[n, :, y, x] = torch.stack(window).amax(0)
    return pooled


def block_case(seed=0, **settings):
    torch.manual_seed(seed)
    block = SparseBlock(3, 6, **settings).double().train()
    for norm in block.norms:
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
    sites = torch.rand(4, 6, 5) < 0.4
    return block, torch.randn(4, 3, 6, 5).double() * sites.unsqueeze(1), sites


def test_a_block_convolves_and_normalises_over_its_sites_alone():
    block, maps, sites = block_case()
    expected = naive(block, maps, sites)
    found, left = block(maps, sites)
    torch.testing.assert_close(found, expected, **EXACT)
    assert torch.equal(left, torch.stack([sites[:, a:6:2, b:4:2] for a in (0, 1) for b in (0, 1)]).any(0))
    probe = torch.randn_like(expected)
    ours = torch.autograd.grad((found * probe).sum(), list(block.parameters()))
    theirs = torch.autograd.grad((expected * probe).sum(), list(block.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **EXACT)


@pytest.mark.parametrize(("settings", "part"), [({}, 0.01), ({"momentum": 0.2}, 0.2)])
def test_running_statistics_take_their_part_of_a_batch(settings, part):
    block, maps, sites = block_case(**settings)
    block(maps, sites)
    convolved = block.convolutions[0](maps).permute(0, 2, 3, 1)[sites]
    norm = block.norms[0]
    torch.testing.assert_close(norm.running_mean, part * convolved.mean(0), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(norm.running_variance, 1 - part + part * convolved.var(0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gate", ["none", "prob", "straight_through"])
def test_what_lies_outside_the_kept_sites_changes_nothing_and_gets_nothing(gate):
    block, maps, sites = block_case()
    tower, scores = tower_of(gate), scores_of(4, 6, 5)
    seen = []
    for norm in block.norms:
        norm.register_forward_hook(lambda module, taken, given: seen.append(given))
    torch.manual_seed(5)
    other = maps + torch.randn_like(maps) * (~sites).unsqueeze(1)
    before, after = (block(tower.gated(version, scores, sites), sites)[0] for version in (maps, other))
    assert torch.equal(before, after)
    assert all((given[~sites] == 0).all() for given in seen)
    assert (before.permute(0, 2, 3, 1)[~halved(sites)] == 0).all()


# The tower


def tower_of(gate="prob", mass=0.8, order=False, seed=0):
    torch.manual_seed(seed)
    return SparseTower(3, 4, 7, mass, gate, order).double()


def pictures_of(seed=0, count=3):
    torch.manual_seed(seed)
    return torch.randn(count, 3, 16, 32).double(), torch.randn(2, 7).double(), torch.tensor([0, 0, 1])[:count]


def trace(tower, *inputs):
    """Return the sites that enter every block and those that leave it."""
    seen = []
    hooks = [
        block.register_forward_hook(lambda _, taken, given: seen.append((taken[1], given[1]))) for block in tower.blocks
    ]
    tower(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_all_mass_without_gate_is_the_dense_tower():
    sparse, dense = tower_of("none", 1.0), dense_tower(3, 4).double()
    dense[0].load_state_dict(sparse.low.state_dict())
    for number, block in enumerate(sparse.blocks):
        pair = dense[1 + 2 * number]
        for place, (layer, norm) in enumerate(zip(block.convolutions, block.norms, strict=True)):
            pair[3 * place].weight.data.copy_(layer.weight)
            pair[3 * place].bias.data.zero_()
            pair[3 * place + 1].eps = norm.epsilon
    pictures, text, rows = pictures_of()
    found = sparse(pictures, text, rows)
    torch.testing.assert_close(found.maps, dense(pictures), **EXACT)
    assert found.maps.shape == (3, 32, 1, 2)
    assert found.flops.tolist() == [found.dense_flops] * 3


def test_sites_only_ever_get_fewer():
    for (entered, left), (following, _) in itertools.pairwise(trace(tower_of(), *pictures_of())):
        assert torch.equal(left, halved(entered))
        assert (following <= left).all()
        assert following.any((1, 2)).all()


def test_cost_is_counted_site_by_site():
    tower, inputs = tower_of(), pictures_of()
    found = tower(*inputs)
    expected, dense = torch.zeros(3), 0
    for number, (sites, _) in enumerate(trace(tower, *inputs)):
        c_in, c_out = 4 << number, 8 << number
        per_site = 2 * 9 * c_in * c_out + 2 * 9 * c_out * c_out
        expected += per_site * sites.sum((1, 2))
        dense += per_site * (8 >> number) * (16 >> number)
    torch.testing.assert_close(found.flops, expected)
    assert found.dense_flops == dense
    assert (found.flops < dense).all()


def test_no_mass_leaves_one_site_per_picture():
    for sites, left in trace(tower_of(mass=0.0), *pictures_of()):
        assert (sites.sum((1, 2)) == 1).all()
        assert (left.sum((1, 2)) == 1).all()


def gradients(gate):
    tower, (pictures, text, rows) = tower_of(gate), pictures_of()
    text.requires_grad_()
    found = tower(pictures, text, rows).maps
    found.square().sum().backward()
    return found.detach(), text.grad, {name: p.grad for name, p in tower.named_parameters() if "attentions" in name}


def test_only_a_gate_teaches_the_attention():
    _, text, attention = gradients("none")
    assert text is None
    assert all(gradient is None for gradient in attention.values())
    for gate in ("prob", "straight_through"):
        _, text, attention = gradients(gate)
        assert (text.abs().sum(1) > 0).all()
        shifts = {name for name in attention if name.endswith("score.bias")}  # a softmax does not see them
        assert all(attention[name].abs().max() > 1e-12 for name in attention.keys() - shifts)


def test_straight_through_sees_what_no_gate_sees():
    none, straight, gated = (gradients(gate)[0] for gate in ("none", "straight_through", "prob"))
    torch.testing.assert_close(none, straight, **EXACT)
    assert (gated - none).abs().max() > 1e-3


def test_gate_keeps_the_size_of_a_site_of_average_score():
    tower, maps = tower_of(), torch.randn(2, 4, 3, 3).double()
    kept = torch.tensor([[True] * 9, [True] * 3 + [False] * 6]).view(2, 3, 3)
    even = kept / kept.sum((1, 2), keepdim=True)
    torch.testing.assert_close(tower.gated(maps, even, kept), maps * kept.unsqueeze(1))


def test_the_official_order_moves_vectors_between_maps():
    maps = torch.arange(1, 19).view(2, 1, 3, 3)
    sites = torch.tensor([[[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[0, 1, 1], [0, 0, 0], [1, 0, 0]]], dtype=torch.bool)
    # In the order (map, row, column) the values are 1 3 5 | 11 12 16, the places (row, column, map)
    # are 000 | 011 | 020 021 | 110 | 201.
    expected = torch.tensor([[[1, 0, 5], [0, 12, 0], [0, 0, 0]], [[0, 3, 11], [0, 0, 0], [16, 0, 0]]])
    assert torch.equal(legacy_reordered(maps, sites)[:, 0], expected)
    assert torch.equal(legacy_reordered(maps[:1], sites[:1]), maps[:1] * sites[:1, None])


def test_a_picture_whose_last_site_is_pooled_away_stays_finite():
    """Odd sides lose a row; a picture whose kept sites lie there has none left."""
    tower = tower_of(mass=0.0)
    torch.manual_seed(1)
    found = tower(torch.randn(40, 3, 22, 22).double(), torch.randn(1, 7).double(), torch.zeros(40, dtype=torch.long))
    assert found.maps.isfinite().all()
    assert (found.maps.flatten(1) == 0).all(1).any()
