"""One trial over several machines: here each is a process of this one."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from torch.distributed import HashStore

from mmbench.methods import ConfigError
from mmbench.runner import distributed, nodes
from mmbench.runner.distributed import Reason, SharedTraining
from mmbench.runner.environment import check_nodes
from mmbench.runner.executors.worker import run_worker, serve_worker
from mmbench.runner.plan import Trial
from mmbench.runner.rank import Rank, RankEnvironment
from mmbench.runner.record import Record
from mmbench.runner.shared_plan import SharedPlan
from mmbench.runner.troubles import MachineError
from mmbench.runner.work import Options
from tests.runner.conftest import Broken, Planner
from tests.runner.test_devices import run, spread

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def another_machine(folder: Path, node: int = 1) -> Iterator[SpawnProcess]:
    """Have a process wait for the worker ``one`` as another machine of it does."""
    process = multiprocessing.get_context("spawn").Process(target=serve_worker, args=(folder, "one", node, 1))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def said(plan: SharedPlan) -> dict[str, str]:
    """Return by trial what a worker said went wrong."""
    return {trial.id: str(news) for trial, news in plan.news() if isinstance(news, MachineError)}


def over_two_machines(trials: list[Trial], options: Options) -> SharedPlan:
    return SharedPlan.create(trials, replace(options, nodes=2, accelerator="cpu"), "slurm")


def test_places_of_processes_follow_machine_by_machine() -> None:
    first = Rank.first(6, nodes=3, address="head")
    assert (first.per_node, first.address) == (2, "head")
    assert [[rank.number for rank in first.beside(node)] for node in range(3)] == [[1], [2, 3], [4, 5]]
    told = [RankEnvironment(rank) for rank in first.beside(2)]
    assert [(one.node_rank(), one.local_rank(), one.global_rank(), one.world_size()) for one in told] == [
        (2, 0, 4, 6),
        (2, 1, 5, 6),
    ]
    assert {(one.main_address, one.main_port) for one in told} == {("head", first.port)}


@pytest.mark.parametrize(
    ("count", "executor", "message"), [(0, "slurm", "--nodes is 0"), (2, "ray", "--nodes 2 needs")]
)
def test_machines_that_nobody_gives_are_refused(count: int, executor: str, message: str) -> None:
    check_nodes(2, "slurm")
    check_nodes(1, executor)
    with pytest.raises(ConfigError, match=message):
        check_nodes(count, executor)


@pytest.mark.cluster
def test_two_machines_do_as_two_devices_of_one(plan: Planner, options: Options) -> None:
    trials = spread(plan("late_fusion", epochs=2, overrides={"batch_size": 8}), 2)
    elsewhere = replace(options, leaderboard=options.leaderboard / "alone", runs=options.runs / "alone")
    alone = run(trials[0], elsewhere)
    shared = over_two_machines(trials, options)
    with another_machine(shared.folder) as process:
        assert run_worker(shared.folder, "task0", 1, meeting="one") == []
        process.join(60)
        assert process.exitcode == 0, "it has not ended with its worker"
    records = [record for _, record in shared.news() if isinstance(record, Record)]
    assert [(record.status, record.curve, record.test) for record in records] == [
        ("completed", alone.curve, alone.test)
    ]
    assert records[0].id == alone.id, "where its devices are makes no other trial"
    assert said(shared) == {}


def test_a_machine_that_does_not_come_stops_the_trial_and_leaves_no_record(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "ANSWER", 0.5)
    monkeypatch.setattr(nodes, "FAREWELL", 0.1)
    (trial,) = spread(plan("lf_dnn", epochs=1), 2)
    shared = over_two_machines([trial], options)
    run_worker(shared.folder, "task0", 1, meeting="one")
    assert said(shared) == {trial.id: "Nothing is heard of its machine 2 any more."}
    assert not options.records.path(trial).exists()


@pytest.mark.cluster
def test_a_machine_that_is_lost_is_no_fault_of_the_method(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "FAREWELL", 0.1)
    (trial,) = spread(plan("lf_dnn", epochs=500), 2)
    shared = over_two_machines([trial], options)

    def kill_after_an_epoch() -> None:
        while not (options.runs / trial.id / "last.ckpt").is_file():
            time.sleep(0.05)
        process.kill()

    with another_machine(shared.folder) as process:
        threading.Thread(target=kill_after_an_epoch, daemon=True).start()
        run_worker(shared.folder, "task0", 1, meeting="one")
    assert said(shared) == {trial.id: "Nothing is heard of its machine 2 any more."}
    assert not options.records.path(trial).exists()


@pytest.mark.cluster
def test_a_machine_ends_what_it_runs_when_the_first_one_dies(plan: Planner, options: Options) -> None:
    (trial,) = spread(plan("lf_dnn", epochs=500), 2)
    shared = over_two_machines([trial], options)
    first = multiprocessing.get_context("spawn").Process(
        target=run_worker, args=(shared.folder, "task0", 1), kwargs={"meeting": "one"}
    )
    with another_machine(shared.folder) as process:
        first.start()
        while not (options.runs / trial.id / "last.ckpt").is_file():
            time.sleep(0.05)
        (training,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1:]
        first.kill()
        process.join(60)
        assert process.exitcode == 0
    assert not Path(f"/proc/{training}").exists()
    assert not options.records.path(trial).exists()


@pytest.mark.cluster
def test_a_machine_with_other_code_is_refused(plan: Planner, options: Options, broken: Broken) -> None:
    """It was edited after the first machine had loaded it."""
    edit = "pathlib.Path(__file__).write_text(pathlib.Path(__file__).read_text() + '    other = 1')"
    broken("Edited", "pass", f"multiprocessing.parent_process() or {edit}")
    (trial,) = spread(plan("edited", epochs=1), 2)
    shared = over_two_machines([trial], options)
    with another_machine(shared.folder):
        run_worker(shared.folder, "task0", 1, meeting="one")
    assert "The code was edited while it ran" in said(shared)[trial.id]
    assert not options.records.path(trial).exists()


def test_a_machine_that_sees_an_old_checkpoint_waits_and_then_says_so(
    plan: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("second epoch")
    told = SharedTraining(plan("lf_dnn")[0], tmp_path, "", "cpu", None).going_on(path)
    told = SharedTraining.from_dict(json.loads(json.dumps(told.to_dict())))
    path.write_text("first epoch")
    threading.Timer(0.2, path.write_text, ("second epoch",)).start()
    told.wait_for_state()
    monkeypatch.setattr(distributed, "LATE", 0.0)
    for change, message in ((lambda: path.write_text("first"), "sees another state of"), (path.unlink, "sees no")):
        change()
        with pytest.raises(MachineError, match=message):
            told.wait_for_state()


def test_a_machine_that_waits_has_no_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    monkeypatch.setattr(nodes, "FAREWELL", 0.1)
    processes = nodes.NodeProcesses(store, "1/1", "")
    processes.start()
    threading.Timer(0.1, store.add, ("1/1/beats", 1)).start()
    assert processes.reasons() == []
    (lost,) = processes.reasons()
    assert lost.everything
    store.set("1/1/reasons", json.dumps([{"text": "it is full", "everything": True}]))
    assert processes.reasons() == [Reason("it is full", everything=True)]


def test_a_machine_without_signs_of_life_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    monkeypatch.setattr(nodes, "SILENCE", 0.2)
    processes = nodes.NodeProcesses(store, "1/1", "")
    processes.start()
    assert not processes.ready()
    assert not processes.ended()
    store.set("1/1/ready", "")
    for _ in range(4):
        store.add("1/1/beats", 1)
        assert not processes.ended()
        time.sleep(0.1)
    time.sleep(0.3)
    assert processes.ended()
