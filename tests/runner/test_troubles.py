"""What is not a method's fault leaves no record: one trial is named and the others go on, or the plan stops."""

from __future__ import annotations

import dataclasses
import errno
import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from data_modules import DataError
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main
from mmbench.methods import ConfigError, method
from mmbench.runner import work as work_module
from mmbench.runner.callbacks import AtomicCheckpointIO
from mmbench.runner.launch import launch
from mmbench.runner.lease import Lease
from mmbench.runner.plan import Trial, make_plan
from mmbench.runner.record import Record
from mmbench.runner.records import Records
from mmbench.runner.settings import Suite
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial
from mmbench.runner.troubles import MachineError, machine_error
from mmbench.runner.verify import verify_file
from mmbench.runner.work import Options, run_trials
from tests.runner.conftest import Planner, find


def console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=300)


def claim(trial: Trial, options: Options) -> Record | None:
    """Do as a worker does with the next trial that it does not have to wait for."""
    return work_module._claim_and_run(
        trial, options, lambda *said: None, patient=False, nodes=None, on_stuck=lambda *end: None
    )


@pytest.mark.parametrize(
    ("error", "everything"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (MemoryError(), False),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), False),
        (ConfigError("a bad option"), False),
        (ModuleNotFoundError("No module named 'transformers'"), False),
        (OSError("bert-huge is not a local folder and is not a valid model identifier"), False),
        (RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)"), True),
        (RuntimeError("can't start new thread"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), True),
        (EOFError("Ran out of input"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (DataError("mosi.h5 was replaced after it was opened"), True),
        (RuntimeError("No CUDA GPUs are available"), True),
        (RuntimeError("The server socket has failed to listen on any local network address. code: EADDRINUSE"), False),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"), True),
    ],
)
def test_the_machine_is_to_blame(error: Exception, everything: bool) -> None:
    trouble = machine_error(error)
    assert trouble is not None
    assert trouble.everything is everything
    assert str(error) in str(trouble)
    assert ("--runs" in str(trouble)) is (everything and type(error) is OSError), "where to look"


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        ValueError("shapes do not fit"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: device-side assert triggered"),
        IndexError(),
        ValueError("index 5 out of memory bank of 4"),
        ImportError("cannot import name 'pool'", name="mmbench.nn.pooling"),
    ],
)
def test_the_method_is_to_blame(error: Exception) -> None:
    assert machine_error(error) is None


def test_what_an_error_was_raised_from_counts() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as cause:
            raise RuntimeError("writing failed") from cause
    except RuntimeError as error:
        trouble = machine_error(error)
    assert trouble is not None
    assert trouble.everything


def test_what_an_error_was_raised_beside_does_not_count() -> None:
    """A method that looks for a file that need not be there, and then fails for another reason."""
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    error.__context__ = FileNotFoundError("no prepared weights")
    assert machine_error(error) is None


def failing(error: BaseException, patch: pytest.MonkeyPatch, key: str) -> None:
    def forward(self: object, batch: object) -> None:
        raise error

    patch.setattr(method(key), "forward", forward)


def test_a_trial_out_of_memory_leaves_no_record_and_the_others_go_on(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, small = plan("late_fusion", "lf_dnn", epochs=1)
    with monkeypatch.context() as patch:
        failing(torch.OutOfMemoryError("CUDA out of memory"), patch, "late_fusion")
        shown = console()
        ran = launch([big, small], options, shown)
    assert [(trial, trouble.everything) for trial, trouble in ran.troubles] == [(big, False)]
    assert [record.method for record in ran.records] == ["lf_dnn"]
    assert ran.unfinished == []
    assert "late_fusion seed 1111: no result: OutOfMemoryError: CUDA out of memory" in shown.file.getvalue()
    assert find(options.records, big) is None
    assert [record.completed for record in launch([big, small], options, console()).records] == [True, True]


def test_what_hits_all_stops_the_plan(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = plan("late_fusion", "lf_dnn", epochs=1)
    with monkeypatch.context() as patch:
        failing(OSError(errno.ENOSPC, "No space left on device"), patch, "late_fusion")
        ran = launch(trials, options, console())
    assert ran.stopped is not None
    assert (ran.records, ran.unfinished) == ([], [trials[1]])
    assert len(launch(trials, options, console()).records) == 2


def test_a_store_that_is_gone_stops_the_plan_of_several_processes(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "gone.h5", samples=(16, 8, 8))
    suite = Suite("default", seeds=(1, 2, 3, 4), training=Training(max_epochs=1, patience=1))
    trials, _ = make_plan(
        suite, dataset="synthetic", path=store.path, methods_wanted=["lf_dnn"], benchmarks=tmp_path / "none"
    )
    store.path.unlink()
    options = Options(tmp_path / "leaderboard", tmp_path / "runs", accelerator="cpu", jobs=2)
    ran = launch(trials, options, console())
    assert ran.stopped is not None
    assert "There is no store" in str(ran.stopped)
    assert ran.records == []
    assert len(ran.unfinished) >= 2
    assert Records(tmp_path / "leaderboard" / "records").paths() == []


@pytest.mark.parametrize("what", ["checkpoint", "predictions", "record"])
def test_a_disk_that_fills_loses_nothing(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither half a record nor a wrong one, and the training is continued once there is room."""
    (trial,) = plan("lf_dnn", epochs=3)
    full = OSError(errno.ENOSPC, "No space left on device")
    written = Path.write_text

    def save(self: object, checkpoint: dict, path: Path, storage_options: object = None) -> None:
        if checkpoint["epoch"] == 2:
            raise full
        WholeFiles_save(self, checkpoint, path, storage_options)

    def no_room(*arguments: object, **settings: object) -> None:
        raise full

    WholeFiles_save = AtomicCheckpointIO.save_checkpoint
    with monkeypatch.context() as patch:
        if what == "checkpoint":
            patch.setattr(AtomicCheckpointIO, "save_checkpoint", save)
        elif what == "predictions":
            patch.setattr("mmbench.runner.predictions.shutil.copyfileobj", no_room)
        else:
            patch.setattr(
                Path,
                "write_text",
                lambda self, *rest, **more: no_room() if ".json" in self.name else written(self, *rest, **more),
            )
        with pytest.raises(MachineError, match="No space left") as caught:
            run_trial(trial, options.records, options.runs, accelerator="cpu")
    assert caught.value.everything
    assert options.records.load() == ([], [])
    assert not list(options.leaderboard.glob("**/*.part"))
    assert (options.runs / trial.id / "last.ckpt").is_file()
    assert run_trial(trial, options.records, options.runs, accelerator="cpu").completed


def test_a_record_is_not_written_by_who_lost_the_trial(plan: Planner, options: Options) -> None:
    (trial,) = plan("lf_dnn", epochs=1)
    with pytest.raises(MachineError, match="took the trial over"):
        run_trial(trial, options.records, options.runs, accelerator="cpu", still_mine=lambda: False)
    assert find(options.records, trial) is None


def test_a_place_that_is_no_folder_stops_the_plan(plan: Planner, options: Options) -> None:
    options.leaderboard.write_text("not a folder")
    ran = launch(plan("lf_dnn", epochs=1), options, console())
    assert ran.stopped is not None
    assert "cannot be locked" in str(ran.stopped)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--accelerator", "tpu"], "cannot train with --accelerator tpu"),
        (["--accelerator", "abacus"], "cannot train with --accelerator abacus"),
        (["--precision", "16-mixed"], "precision is '16-mixed'; it must be one of"),
    ],
)
def test_what_the_machine_cannot_do_is_said_before_anything_is_planned(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmbench.runner.plan.make_plan", lambda *_, **__: pytest.fail("was planned"))
    assert main(["run", "--method", "lf_dnn", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_only_what_the_present_code_made_is_kept(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trial,) = plan("lf_dnn", epochs=1)
    first = launch([trial], options, console()).records[0]
    ran: list[Trial] = []
    again = work_module.run_trial

    def counted(trial: Trial, *arguments: object, **settings: object) -> object:
        ran.append(trial)
        return again(trial, *arguments, **settings)

    monkeypatch.setattr(work_module, "run_trial", counted)
    assert launch([trial], options, console()).records == [first]
    assert ran == []
    other = dataclasses.replace(trial, code="other")
    monkeypatch.setattr(work_module, "code_hash", lambda *_: "other")
    second = launch([other], options, console()).records[0]
    assert ran == [other]
    assert (first.code != second.code, second.code, second.id) == (True, "other", first.id)


def test_fresh_trains_what_is_done_and_once(plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dates are told apart, not compared: the clock of the machine that trains may be behind."""
    (trial,) = plan("lf_dnn", epochs=1)
    first = launch([trial], options, console()).records[0]
    fresh = options.afresh([trial])
    second = launch([trial, trial], fresh, console()).records[0]
    assert second.environment.date > first.environment.date
    monkeypatch.setattr(work_module, "run_trial", lambda *_, **__: pytest.fail("ran again"))
    assert launch([trial], fresh, console()).records == [second]


def test_two_commands_with_other_runs_share_the_work(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The lease lies beside the record: who holds it is seen wherever the checkpoints go."""
    (trial,) = plan("lf_dnn", epochs=1)
    other = dataclasses.replace(options, runs=tmp_path / "other runs")
    asked: list[object] = []
    again = work_module.run_trial

    def meanwhile(*arguments: object, **settings: object) -> object:
        asked.append(claim(trial, other))
        return again(*arguments, **settings)

    monkeypatch.setattr(work_module, "run_trial", meanwhile)
    assert launch([trial], options, console()).records[0].completed
    assert asked == [None]
    assert not other.runs.exists()
    assert [path.name for path in options.records.path(trial).parent.iterdir() if ".lease" in path.name] == []


def test_a_record_that_does_not_hold_is_made_again(plan: Planner, options: Options) -> None:
    (trial,) = plan("lf_dnn", epochs=1)
    first = launch([trial], options, console()).records[0]
    path = options.records.path(trial)
    path.write_text(path.read_text().replace('"parameters": ', '"parameters": 9'))
    second = launch([trial], options, console()).records[0]
    assert second.test == first.test
    assert verify_file(path) == second


def test_what_ended_in_trouble_is_not_tried_again_by_who_shares_the_plan(plan: Planner, options: Options) -> None:
    trials = plan("lf_dnn", epochs=1, seeds=(1, 2))
    ended: list[int] = []
    run_trials(trials, options, lambda trial, news: ended.append(trial.seed), given_up={trials[0].id})
    assert set(ended) == {2}


def test_commands_with_other_records_do_not_share_the_folder_of_a_trial(
    plan: Planner, options: Options, tmp_path: Path
) -> None:
    """Two trainings of one trial in one folder would take each other's checkpoints away."""
    (trial,) = plan("lf_dnn", epochs=1)
    other = dataclasses.replace(options, leaderboard=tmp_path / "other leaderboard")
    with Lease.take(options.runs / f"{trial.id}.lease"):
        assert claim(trial, other) is None
    record = claim(trial, other)
    assert record is not None
    assert record.completed


def test_a_method_that_breaks_the_gpu_has_a_record_and_ends_its_process(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed on it afterwards would fail, and is no result of the next method."""
    bad, good = plan("late_fusion", "lf_dnn", epochs=1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    failing(RuntimeError("CUDA error: device-side assert triggered"), monkeypatch, "late_fusion")
    ran = launch([bad, good], options, console())
    assert [(record.method, record.status) for record in ran.records] == [("late_fusion", "failed")]
    assert ran.unfinished == [good]
    assert ran.stopped is not None
