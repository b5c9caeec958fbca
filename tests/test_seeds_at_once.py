"""Several seeds in one pass: ``torch.func`` computes of stacked weights what each seed computes of its own alone.

In the two forms of a batch, for they read sequences by other operations: *packed* as on a CPU, *padded* as on other
devices (see :mod:`mmbench.nn.steps`), here computed by a CPU as well.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import debug_unwrap, functional_call, grad, stack_module_state, vmap

import mmbench
from data_modules.schema import Batch
from mmbench.methods import FusionMethod, method, methods
from mmbench.methods.cmc import CMC
from mmbench.methods.cmc.curriculum import PairSampler
from mmbench.nn.dropout import FEW, dropout
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout
from mmbench.testing.builders import doubled
from mmbench.testing.cases import BENCHMARKS, Case, cases
from tests.methods.forms import padded_form

# Where torch has no rule for several seeds, as for attention on a CPU, it takes one after the other, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

SEEDS, SIZE, EARLIER = 2, 6, 2
CLOSE = {"rtol": 1e-7, "atol": 1e-12}
DRAW = 7
"""The seed of what a step itself draws: pairs, noise, negatives. It is the same for all, alone and at once."""
FORMS = {"packed": nullcontext, "padded": padded_form}
SETTINGS: dict[str, dict[str, Any]] = {
    "mmim": {"memory": 1},
    "mmmie": {"warmup": 0},
    "scalevlad": {"clustering_start": 0, "clusters": 3, "memory": 2 * EARLIER * SIZE},
    "mv2d": {"ramp_epochs": 0},
}
"""Settings under which a memory is used, or a term counts, at once."""
OF_MEDIA: dict[str, dict[str, Any]] = {"mesm": {"sparse": True}}
"""Settings of methods where they read media."""


@dataclass(frozen=True)
class Apart:
    """Why seeds have to be computed one by one.

    Attributes:
        place: The function of ours that asks torch for what it cannot do.
        reason: What that is.
    """

    place: str
    reason: str


GRU = Apart("gru", "on a CPU the gradient of a GRU is written out for autograd, not for torch.func")
BOTH_WAYS = Apart("read", "LSTMs that read both ways use torch's packed sequences")
DRAWN = Apart("first_centres", "which samples the clusters begin with is drawn by the values of a seed")
ROUNDS = Apart("sinkhorn_distance", "a seed takes as many rounds as its values ask for")
APART = {
    "packed": {**dict.fromkeys(("cold_fusion", "effmulti", "mv2d", "vsd"), GRU), "scalevlad": DRAWN},
    "padded": {**dict.fromkeys(("cmga", "intermulti", "lmr_cbt", "mmmie"), BOTH_WAYS), "scalevlad": DRAWN},
}
"""By form the methods whose seeds cannot be computed at once; one that can has no place here."""


class Step(nn.Module):
    """The loss of a batch, and what the method says of it."""

    def __init__(self, trained: FusionMethod) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.trained(batch)
        terms = self.trained.objective(output, batch)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        return loss, {"prediction": output.prediction, **output.named}


def in_double(batch: Batch) -> Batch:
    complete = batch.complete and doubled(replace(batch, inputs=batch.complete)).inputs
    return replace(doubled(batch), complete=complete)


def batch_of(case: Case, phase: str, seed: int = 0) -> Batch:
    return in_double(case.batch(SIZE, seed, corrupted=not case.media, phase=phase))


def built(case: Case, seed: int, **settings: Any) -> Step:
    """Return a step of a method in training that drops nothing, with weights of a seed."""
    cls = method(case.key)
    dropouts = {item.name: 0.0 for item in fields(cls.Config) if "dropout" in item.name}
    small = {**case.settings, **dropouts, **SETTINGS.get(case.key, {})}
    config = {**small, **(OF_MEDIA.get(case.key, {}) if case.media else {}), **settings}
    torch.manual_seed(seed)
    step = Step(cls(case.spec, config=cls.Config.parse(config))).double()
    for name, parameter in step.named_parameters():
        # Heads drawn near zero have gradients that say little of what lies before them.
        if "head" in name or name.endswith("bias"):
            nn.init.normal_(parameter, std=0.3)
    return step.train()


@torch.no_grad()
def seeds(case: Case, phase: str, **settings: Any) -> list[Step]:
    """Return the steps of several seeds that have seen a few batches, so that memories hold something."""
    steps = [built(case, seed, **settings) for seed in range(SEEDS)]
    for step in steps:
        for earlier in range(1, EARLIER + 1):
            step(batch_of(case, phase, earlier))
    return steps


Found = dict[str, dict[str, Tensor]]


def at_once(steps: list[Step], batch: Batch, randomness: str = "same") -> tuple[list[Found], Step]:
    """Return what one pass finds for each seed, and the module that computed it, which has no weights of its own."""
    parameters, buffers = stack_module_state(steps)
    form = copy.deepcopy(steps[0]).to("meta")

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return functional_call(form, (parameters, buffers), (batch,))

    torch.manual_seed(DRAW)
    gradients, named = vmap(grad(loss, has_aux=True), randomness=randomness)(parameters, buffers)
    learning = {name for name, parameter in steps[0].named_parameters() if parameter.requires_grad}
    stacked = {"gradients": {name: gradients[name] for name in learning}, "named": named, "buffers": buffers}
    found = [
        {kind: {name: value[seed].detach() for name, value in values.items()} for kind, values in stacked.items()}
        for seed in range(len(steps))
    ]
    return found, form


def alone(step: Step, batch: Batch) -> Found:
    """Return what a seed finds by itself."""
    torch.manual_seed(DRAW)
    step.zero_grad()
    loss, named = step(batch)
    loss.backward()
    return {
        "gradients": {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in step.named_parameters()
            if parameter.requires_grad
        },
        "named": {name: value.detach() for name, value in named.items()},
        "buffers": dict(step.named_buffers()),
    }


def assert_equal(steps: list[Step], batch: Batch, randomness: str = "same") -> None:
    """Check that every seed has the gradients, the representations and the buffers that it has alone."""
    found, form = at_once(steps, batch, randomness)
    expected = [alone(step, batch) for step in steps]
    torch.testing.assert_close(found, expected, equal_nan=True, **CLOSE)
    if any(not torch.equal(*pair) for pair in zip(*(step.parameters() for step in steps), strict=True)):
        first, second = (item["gradients"] for item in expected)
        assert any(not torch.allclose(first[name], second[name]) for name in first)
    assert [value for value in held(form, set()) if debug_unwrap(value) is not value] == []
    assert [value for step in steps for value in held(step, set()) if value.grad_fn is not None] == []


def held(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors that an object, and what it is made of, holds on to."""
    if id(thing) in seen or isinstance(thing, type | ModuleType):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple | set | Mapping):
        for part in thing.values() if isinstance(thing, Mapping) else thing:
            yield from held(part, seen)
    elif hasattr(thing, "__dict__"):
        for name, part in vars(thing).items():
            if name != "_flat_weights":  # torch's recurrent layers keep a list of the weights that they were given last
                yield from held(part, seen)


def assert_apart(why: Apart, compute: Callable[[], object]) -> None:
    """Check that something fails where the table says."""
    with pytest.raises(RuntimeError) as caught:
        compute()
    package = Path(mmbench.__file__).parent
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame.name for frame in frames if Path(frame.filename).is_relative_to(package)]
    assert ours[-1] == why.place, why.reason


def forms_of(key: str) -> list[Case]:
    """Return the first case of features and the first one of media, where a method reads them."""
    return list({case.media: case for case in reversed(cases([key], BENCHMARKS))}.values())


CASES = [(case, form) for key in methods() for case in forms_of(key) for form in FORMS]


@pytest.mark.parametrize(("case", "form"), CASES, ids=str)
def test_every_seed_has_what_it_has_alone(case: Case, form: str) -> None:
    with FORMS[form]():
        for phase in built(case, 0).trained.phases:
            steps, batch = seeds(case, phase.name), batch_of(case, phase.name)
            if why := APART[form].get(case.key):
                assert_apart(why, lambda steps=steps, batch=batch: at_once(steps, batch))
            else:
                assert_equal(steps, batch)


def test_the_table_names_methods() -> None:
    assert {key for table in APART.values() for key in table} <= set(methods())


def test_fast_functions_of_a_cpu_are_for_one_seed() -> None:
    """As the GRU: LSTMs of wide features, and dropout of many values. Methods use them beside large data only."""
    lstm, layout = LSTMEncoder(256, 2), Layout.of_all(torch.zeros(8, 8, 256))
    rows = torch.randn(64, 256)
    assert rows.numel() >= FEW
    for compute in (lambda x: lstm.read(x, layout).sum(), lambda x: dropout(x, 0.5).sum()):
        with pytest.raises(RuntimeError, match="setup_context"):
            grad(compute)(rows)


def test_vsd_with_distances_of_distributions_takes_as_many_rounds_as_a_seed_needs() -> None:
    case = forms_of("vsd")[0]
    with padded_form():
        steps = seeds(case, "main", cml_weight=0.5)
        assert_apart(ROUNDS, lambda: at_once(steps, batch_of(case, "main")))


@pytest.mark.parametrize("own", [False, True], ids=["one", "own"])
def test_the_cache_of_cmc_is_not_stacked(own: bool) -> None:
    """It is neither parameter nor buffer: after pre-training seeds would choose pairs by what the first one knows."""
    case = forms_of("cmc")[0]
    steps, batch = seeds(case, "main"), batch_of(case, "main")
    for seed, step in enumerate(steps):
        assert isinstance(step.trained, CMC)
        values = torch.randn(SIZE, 3, step.trained.config.dim, generator=torch.Generator().manual_seed(own * seed))
        step.trained.scorer.remember(step.trained.network.predictors, batch.index, values.double())
    if not own:
        assert_equal(steps, batch)
        return
    (first, *others), _ = at_once(steps, batch)
    expected, *rest = (alone(step, batch) for step in steps)
    torch.testing.assert_close(first, expected, equal_nan=True, **CLOSE)
    for found, wanted in zip(others, rest, strict=True):
        assert any(not torch.allclose(found["gradients"][name], g) for name, g in wanted["gradients"].items())


def test_cmc_has_the_same_gradients_with_the_same_pairs() -> None:
    """With pairs given beforehand nothing is left to draw; between two draws of one seed there are per cents."""
    case = forms_of("cmc")[0]
    steps, batch = seeds(case, "pretrain"), batch_of(case, "pretrain")
    pairs, others = (PairSampler(4)(SIZE, 3) for _ in range(2))
    found = []
    for given in (pairs, others):
        for step in steps:
            step.trained.sampler = lambda *_, given=given: given
        assert_equal(steps, batch, randomness="error")
        found.append(torch.cat([value.grad.flatten() for value in steps[0].trained.network.predictors.parameters()]))
    assert (found[1] - found[0]).norm() > 0.01 * found[0].norm()
