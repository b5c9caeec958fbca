"""Two processes that compare the samples of both have the gradients of one process with the whole batch.

All that needs two processes happens in one start of them; their results are files that the tests compare with what one
process computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data_modules.schema import Batch, PaddedSequence, TargetKind
from mmbench.methods import FusionMethod, method, methods
from mmbench.methods.cmc import CMC
from mmbench.methods.config import ComparingConfig
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.gathering import agreed, gather_statistics, gathered, own, summed
from mmbench.nn.norms import BatchNorm
from mmbench.testing.builders import make_batch, make_spec

PROCESSES, SIZE, STEPS = 2, 16, 4
CLOSE = {"rtol": 1e-7, "atol": 1e-11, "equal_nan": True}  # losses of no period are NaN

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Case:
    """A method with settings that make it compare all that it can compare, and let memories be used soon."""

    key: str
    kind: TargetKind = "regression"
    settings: dict[str, Any] = field(default_factory=dict)
    corrupted: bool = False

    @property
    def name(self) -> str:
        return f"{self.key}-{self.kind}"

    def method(self, gather: bool, batch_size: int) -> FusionMethod:
        cls = method(self.key)
        dropouts = {item.name: 0.0 for item in fields(cls.Config) if "dropout" in item.name}
        config = {**dropouts, **self.settings, "batch_size": batch_size, "gather_negatives": gather}
        torch.manual_seed(0)
        made = cls(make_spec(self.kind), config=cls.Config.parse(config)).double()
        for name, parameter in made.named_parameters():
            # Heads drawn near zero have gradients that say little, and vectors of zeros no direction to compare.
            if "head" in name or name.endswith("bias"):
                nn.init.normal_(parameter, std=0.3)
        return made


MVCL = {"dim": 8, "heads": 2, "layers": 1, "unimodal_layers": 1}
VSD = {"width": 8, "bottleneck_1": 8, "bottleneck_2": 6, "z_dim": 6, "fusion_dim": 8}
VLAD = {"width": 8, "heads": 2, "top_layers": 1, "vectors": 3, "scales": [1, 3]}
SMALL: dict[str, dict[str, Any]] = {
    "mmim": {"out": 4, "hidden": 4, "fusion_dim": 8, "add_va": True, "memory": 2},
    "cmc": {"dim": 8, "heads": 2, "layers": 1, "levels": 3, "discard": 0.2},
    "mmmie": {"dim": 8, "heads": 2, "code": 4, "hidden": 4, "layers": 1, "warmup": 0, "clamp": False},
    "emt_dlfr": {"dim": 8, "heads": 2, "layers": 1, "head": 8},
    "scalevlad": {
        **VLAD,
        "clustering_start": 0,
        "clusters": 3,
        "memory": 24,
        "refresh": 2,
    },
    "vsd": {**VSD, "rank_weight": 0.5, "cml_weight": 0.5},
}
CASES = (
    *(Case(key, kind, SMALL[key]) for key in ("mmim", "cmc", "vsd") for kind in ("regression", "multiclass")),
    Case("mvcl", "regression", MVCL),
    Case("mvcl", "multiclass", {**MVCL, "mode": "joint"}),
    Case("mmmie", settings=SMALL["mmmie"]),
    Case("emt_dlfr", settings=SMALL["emt_dlfr"], corrupted=True),
    Case("scalevlad", settings=SMALL["scalevlad"]),
    Case("mv2d", "regression", {**VSD, "ramp_epochs": 0}),
    Case("mv2d", "multiclass", {**VSD, "ramp_epochs": 0, "subset_weights": "confidence", "branch": "points"}),
)


def share(batch: Batch, rank: int, count: int) -> Batch:
    """Return in double precision what the loader gives a process: its rows, padded to the longest of them."""

    def part(inputs: dict[str, PaddedSequence]) -> dict[str, PaddedSequence]:
        found = {}
        for name, item in inputs.items():
            lengths = item.lengths[rank::count]
            found[name] = PaddedSequence(item.values[rank::count, : lengths.max()].double(), lengths)
        return found

    inputs = part(batch.inputs)
    kept = batch.kept and {m: rows[rank::count, : inputs[m].values.shape[1]] for m, rows in batch.kept.items()}
    return replace(
        batch,
        inputs=inputs,
        target=batch.target[rank::count],
        index=batch.index[rank::count].contiguous(),
        complete=batch.complete and part(batch.complete),
        kept=kept,
    )


class Terms(nn.Module):
    """The terms of the loss of a batch, as DDP wants them: the result of a forward pass."""

    def __init__(self, trained: FusionMethod) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        output = self.trained(batch)
        terms = self.trained.objective(output, batch)
        self.trained.observe(output, batch)
        return terms


def remember(trained: CMC) -> None:
    """Cache vectors of most samples, as where the pre-training of CMC ends, and feed more than the easiest pairs."""
    values = torch.randn(12, 3, trained.config.dim, generator=torch.Generator().manual_seed(1)).double()
    trained.scorer.remember(trained.network.predictors, torch.arange(12), values)
    trained.level.fill_(2)


def trained_state(trained: FusionMethod) -> dict[str, torch.Tensor]:
    """Return parameters, buffers and counters."""
    state = {**trained.state_dict(), **dict(trained.named_buffers())}
    if isinstance(trained, CMC):
        state["fed"] = trained._fed
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def training(case: Case, gather: bool, rank: int = 0, count: int = 1) -> dict[str, Any]:
    """Return terms and gradients of a few steps of every phase, and the state that they lead to."""
    trained = case.method(gather, SIZE // count)
    module: nn.Module = Terms(trained)
    if count > 1:
        module = DistributedDataParallel(module, find_unused_parameters=True)
    module.train()
    terms, gradients = {}, {}
    for phase in trained.phases:
        if isinstance(trained, CMC) and phase.name == "main":
            remember(trained)
        for step in range(STEPS):
            batch = make_batch(make_spec(case.kind), SIZE, seed=step, corrupted=case.corrupted)
            torch.manual_seed(step + 100 * rank)  # processes draw different numbers
            trained.zero_grad()
            found = module(replace(share(batch, rank, count), phase=phase.name))
            torch.stack(list(found.values())).sum().backward()
            at = f"{phase.name}{step}"
            terms |= {f"{at} {name}": value.detach().clone() for name, value in found.items()}
            gradients |= {
                f"{at} {name}": parameter.grad.clone()
                for name, parameter in trained.named_parameters()
                if parameter.grad is not None
            }
    return {"terms": terms, "gradients": gradients, "state": trained_state(trained)}


def gathering(rank: int, count: int) -> dict[str, torch.Tensor]:
    """Return what the functions themselves make of the rows of a process."""
    rows = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    mine = rows[rank::count].clone().requires_grad_()
    whole = gathered(mine)
    # The loss of process r is (r + 1) times the sum of (k + 1) x_k^2 / 2 over all rows k.
    ((rank + 1) * (torch.arange(1, 7)[:, None] * whole.square() / 2).sum()).backward()
    half = torch.arange(6).bfloat16()[rank::count].requires_grad_()
    (gathered(half) * torch.arange(6)).sum().backward()
    norms = {"batch": BatchNorm(2).double(), "feature": FeatureNorm(2).double()}
    normed = {}
    for name, norm in norms.items():
        gather_statistics(norm)
        normed[name] = norm(rows[rank::count] ** 2).detach()
        normed |= {f"{name} {key}": value for key, value in norm.named_buffers()}
        norm.eval()
        normed[f"{name} evaluated"] = norm(rows[rank : rank + 1 + rank])  # batches of different sizes: nothing is asked
    return {
        **normed,
        "whole": whole.detach(),
        "own": own(whole).detach(),
        "gradient": mine.grad,
        "integers": gathered(torch.arange(6)[rank::count]),
        "bools": gathered(torch.arange(6)[rank::count] % 3 == 0),
        "transposed": gathered(torch.arange(24).reshape(2, 6, 2).transpose(0, 1)[rank::count]),
        "half": gathered(half).detach(),
        "half gradient": half.grad,
        "summed": summed(torch.tensor(1 + rank)),
        "agreed": agreed(torch.full((2, 3), rank)),
    }


def process(rank: int, folder: Path) -> None:
    """Do what needs two processes, and write down what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    found: dict[str, Any] = {"functions": gathering(rank, PROCESSES)}
    for case in CASES:
        for gather in (True, False):
            found[f"{case.name} {gather}"] = training(case, gather, rank, PROCESSES)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("gathering")
    mp.start_processes(process, (folder,), nprocs=PROCESSES, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def test_all_methods_that_gather_are_here() -> None:
    assert {key for key, cls in methods().items() if issubclass(cls.Config, ComparingConfig)} == {c.key for c in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_are_one(both: list[dict[str, Any]], case: Case) -> None:
    """Terms and gradients (their mean over processes, which is what DDP leaves), memories, statistics, counters."""
    whole = training(case, gather=True)
    first, second = (found[f"{case.name} True"] for found in both)
    for process_ in (first, second):
        torch.testing.assert_close(process_["gradients"], whole["gradients"], **CLOSE)
        torch.testing.assert_close(process_["state"], whole["state"], **CLOSE)
    means = {name: (term + second["terms"][name]) / 2 for name, term in first["terms"].items()}
    torch.testing.assert_close(means, whole["terms"], **CLOSE)
    assert all(any(f" {name}" in term and value.abs() > 1e-6 for term, value in means.items()) for name in terms(means))


def terms(named: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(" ")[1] for name in named}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_the_setting_they_differ(both: list[dict[str, Any]], case: Case) -> None:
    """And one process has, to the last bit, the same with the setting as without."""
    alone = training(case, gather=False)
    found = both[0][f"{case.name} False"]["gradients"]
    assert found.keys() == alone["gradients"].keys()
    apart = {name: (found[name] - value).norm() / value.norm() for name, value in alone["gradients"].items()}
    assert max(apart.values()) > 1e-3
    torch.testing.assert_close(training(case, gather=True), alone, rtol=0, atol=0, equal_nan=True)


def test_rows_come_in_the_order_of_one_process(both: list[dict[str, Any]]) -> None:
    alone = gathering(0, 1)
    for rank, found in enumerate(item["functions"] for item in both):
        for name in ("whole", "integers", "bools", "transposed", "half"):
            torch.testing.assert_close(found[name], alone[name], rtol=0, atol=0)
        assert torch.equal(found["own"], alone["own"][rank::PROCESSES])
        assert found["summed"] == 3
        assert torch.equal(found["agreed"], torch.zeros(2, 3, dtype=torch.long))


def test_gradients_of_all_processes_are_added_up(both: list[dict[str, Any]]) -> None:
    """Weights 1 and 2 of the two losses: three times ``(k + 1) x_k``."""
    rows = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    expected = 3 * torch.arange(1, 7)[:, None] * rows
    for rank, found in enumerate(both):
        torch.testing.assert_close(found["functions"]["gradient"], expected[rank::PROCESSES])
        assert torch.equal(found["functions"]["half gradient"], 2 * torch.arange(6).bfloat16()[rank::PROCESSES])


def test_norms_see_the_rows_of_all_processes(both: list[dict[str, Any]]) -> None:
    alone = gathering(0, 1)
    for rank, found in enumerate(item["functions"] for item in both):
        for name in ("batch", "feature"):
            torch.testing.assert_close(found[name], alone[name][rank::PROCESSES])
        running = [name for name in found if "running" in name]
        assert len(running) == 4
        for name in running:
            torch.testing.assert_close(found[name], alone[name])


def test_one_process_has_its_own_rows() -> None:
    x = torch.randn(3, 2)
    assert gathered(x) is x
    assert own(x) is x
    assert agreed(x) is x
    assert torch.equal(summed(x), x)
