"""``mmbench run``: trials, their records, and how they compare."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import add_leaderboard, check_folder, console, own_folder, published_records, say
from mmbench.cli.show import print_parts

HELP = "--method.help"
LOGGERS = ["csv", "wandb", "tensorboard"]

if TYPE_CHECKING:
    from mmbench.report import Report
    from mmbench.runner.executors import Executor
    from mmbench.runner.launch import Ran
    from mmbench.runner.plan import Trial
    from mmbench.runner.settings import Suite
    from mmbench.runner.training import Training
    from mmbench.runner.work import Options


def fill_run(parser: ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    add_rows(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="seeds; by default the suite's")
    parser.add_argument("--folds", nargs="+", type=int, default=[], help="folds; by default all")
    parser.add_argument("--limit", type=int, default=0, help="at most this many samples of each split; 0 for all")
    parser.add_argument(
        "--missing", nargs="+", type=float, default=[], help="rates of missing steps, a track each; see their curve"
    )
    parser.add_argument("--max-epochs", type=int, default=0, help="largest number of epochs; 0 for the suite's")
    parser.add_argument("--precision", default="", help="32-true, 64-true or bf16-mixed; by default the suite's")
    parser.add_argument(
        "--logger", choices=LOGGERS, default="csv", help="where curves go while training, beside a table in CSV"
    )
    add_machine(parser)
    add_executor(parser)
    parser.add_argument("--retry", action="store_true", help="run failed and diverged trials again")
    parser.add_argument("--fresh", action="store_true", help="train even what is done")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, run nothing")
    parser.add_argument("--estimate", action="store_true", help="say how long the plan will take, run nothing")
    add_leaderboard(parser)
    add_benchmarks(parser)


def add_rows(parser: ArgumentParser) -> None:
    """Add the options that say which methods are meant, and on which data."""
    parser.add_argument("--method", nargs="+", default=[], help="methods; by default the suite's, or all that fit")
    parser.add_argument("--dataset", default="", help="data set; by default the suite's")
    parser.add_argument(
        "--store", type=Path | None, default=None, help="the data set's store, if not in its usual place"
    )
    parser.add_argument("--suite", default="default", help="named defaults (`mmbench list suites`)")


def add_benchmarks(parser: ArgumentParser) -> None:
    """Add the option that names the folder of suites and settings."""
    parser.add_argument(
        "--benchmarks",
        type=Path | None,
        default=None,
        help="folder of suites, settings and baselines; by default benchmarks/ where that is, else the shipped one",
    )


def add_machine(parser: ArgumentParser) -> None:
    """Add the options of where trials run."""
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator")
    parser.add_argument("--jobs", type=int, default=0, help="workers; 0 for one per GPU, or per core without GPUs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints and logs")


def add_executor(parser: ArgumentParser) -> None:
    """Add the options of where workers start."""
    parser.add_argument(
        "--executor",
        choices=["local", "slurm", "ray"],
        default="local",
        help="where workers start: this machine, SLURM (--slurm.KEY VALUE, --profile) or Ray (--address)",
    )
    parser.add_argument(
        "--devices", type=int, default=None, help="devices of one trial, each with its share of every batch"
    )
    parser.add_argument(
        "--nodes", type=int, default=1, help="machines of one trial, with --devices each (--executor slurm)"
    )
    parser.add_argument("--per-gpu", type=int, default=1, help="workers that share a GPU")
    parser.add_argument("--profile", type=Path | None, default=None, help="file (YAML) with settings of --slurm.KEY")
    parser.add_argument("--address", default="", help="of the Ray cluster; by default Ray is started on this machine")


def run(arguments: Namespace) -> int:
    """Run a plan and print how it compares."""
    if "help" in arguments.dotted["method"]:
        return print_settings(arguments.method)
    from mmbench.methods import ConfigError
    from mmbench.runner.environment import check_devices, check_machine, check_nodes
    from mmbench.runner.launch import launch
    from mmbench.runner.settings import benchmarks_folder, find_suite
    from mmbench.runner.work import Options

    folder = own_folder(arguments.leaderboard)
    check_folder(arguments.runs, "--runs")
    benchmarks = benchmarks_folder(arguments.benchmarks)
    suite = find_suite(benchmarks, arguments.suite)
    changes = {"max_epochs": arguments.max_epochs or None, "precision": arguments.precision or None}
    check_nodes(arguments.nodes, arguments.executor)
    devices = suite.training.devices if arguments.devices is None else arguments.devices
    changes |= {"devices": devices * arguments.nodes}
    given = {name: value for name, value in changes.items() if value is not None}
    training = dataclasses.replace(suite.training, **given)
    check_machine(arguments.accelerator, training.precision, arguments.logger)
    check_devices(arguments.accelerator, training.devices // arguments.nodes, arguments.per_gpu, arguments.executor)
    trials, left_out = _plan(arguments, suite, training, benchmarks)
    for method, why in left_out.items():
        say(f"{method} is left out: {why}.")
    if not trials:
        raise ConfigError("No method fits these data: nothing to run.")
    if arguments.dry_run:
        for trial in trials:
            say(f"{trial.id}  {trial.track}  {trial.title}")
        return 0
    jobs, executor = _executor(arguments, len(trials), training.devices)
    options = Options(
        folder, arguments.runs, arguments.logger, arguments.accelerator, jobs, arguments.retry, nodes=arguments.nodes
    )
    if arguments.fresh:
        options = options.afresh(trials)
    if arguments.estimate:
        from mmbench.cli.estimate import print_estimate

        print_estimate(trials, options)
        return 0
    ran = launch(trials, options, console, executor)
    try:
        _summarize(ran, options)
    except OSError as error:  # what kept tables from being written may have kept trials from running
        say(f"The tables of {folder} were not made: {error}", style="red")
        return complain(ran) or 1
    return complain(ran)


def _executor(arguments: Namespace, trials: int, devices: int) -> tuple[int, Executor | None]:
    """Return how many workers there are, and where they start unless it is in processes of this machine.

    Raises:
        ConfigError: When options do not belong together, or what is asked for is not there.
    """
    from mmbench.methods import ConfigError
    from mmbench.runner.executors.local import automatic_jobs
    from mmbench.runner.settings import read_mapping, typed

    given, slurm = arguments.executor, arguments.dotted["slurm"]
    if (slurm or arguments.profile) and given != "slurm":
        raise ConfigError("--slurm.KEY and --profile are for --executor slurm: add that, or leave them away.")
    if arguments.address and given != "ray":
        raise ConfigError("--address is for --executor ray: add that, or leave it away.")
    if arguments.per_gpu < 1 or (arguments.per_gpu > 1 and given == "slurm"):
        raise ConfigError(
            f"--per-gpu is {arguments.per_gpu}: give how many workers share a GPU, 1 or more, and with SLURM ask for a "
            "share by --slurm.gres."
        )
    if arguments.jobs < 0 or (arguments.jobs and arguments.per_gpu > 1 and given == "local"):
        raise ConfigError(
            f"--jobs is {arguments.jobs} and --per-gpu {arguments.per_gpu}: give one of them, 1 or more, and the other "
            "follows from the GPUs that are there."
        )
    if given == "slurm" and not arguments.jobs:
        raise ConfigError("--executor slurm needs --jobs, the number of its tasks.")
    cpu = arguments.accelerator == "cpu"
    if given == "ray" and not arguments.estimate:
        from mmbench.runner.executors.ray import RayExecutor

        ray = RayExecutor(trials, arguments.jobs, arguments.address, cpu, arguments.per_gpu, devices)
        return ray.jobs, ray
    jobs = min(trials, arguments.jobs) or automatic_jobs(trials, arguments.per_gpu, cpu, devices)
    if given == "slurm" and not arguments.estimate:
        from mmbench.runner.executors.slurm import SlurmExecutor, SlurmSettings

        values = {**(read_mapping(arguments.profile) if arguments.profile else {}), **slurm}
        settings = SlurmSettings(**typed(SlurmSettings, values, "setting of SLURM"))
        return jobs, SlurmExecutor(jobs, settings, arguments.nodes)
    return jobs, None


def print_settings(names: list[str]) -> int:
    """Print the settings of methods."""
    from mmbench.methods import ConfigError, method
    from mmbench.show import Part, settings

    if not names:
        raise ConfigError(f"{HELP} lists the settings of the methods that are named: add --method NAME.")
    print_parts(Part(f"Settings of {name}: --method.KEY VALUE", settings(method(name).Config)) for name in names)
    return 0


def _plan(
    arguments: Namespace, suite: Suite, training: Training, benchmarks: Path
) -> tuple[list[Trial], dict[str, str]]:
    """Return the trials of the command, and by method why it was left out."""
    from data_modules.store import FeatureStore
    from mmbench.runner.plan import make_plan
    from mmbench.runner.settings import corruption_settings, data_settings

    data: dict[str, Any] = data_settings(arguments.dotted["data"])
    if arguments.limit:
        data["limit"] = arguments.limit
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for rate in dict.fromkeys(arguments.missing) or [None]:
        corruption = corruption_settings(arguments.dotted["corruption"] | ({} if rate is None else {"steps": rate}))
        planned, left_out = make_plan(
            suite,
            dataset=arguments.dataset or (FeatureStore(arguments.store).dataset if arguments.store else suite.dataset),
            methods_wanted=arguments.method,
            seeds=arguments.seeds,
            folds=arguments.folds,
            path=arguments.store,
            data={**data, "corruption": corruption} if corruption else data,
            training=training,
            overrides=arguments.dotted["method"],
            benchmarks=benchmarks,
        )
        trials += planned
    return trials, left_out


def _summarize(ran: Ran, options: Options) -> None:
    """Make the tables and print one's own part of them."""
    from mmbench.report import your_runs
    from mmbench.report.evidence import evidence_of
    from mmbench.runner.callbacks import best_checkpoint
    from mmbench.runner.code import code_hash

    made = make_tables(options.leaderboard)
    checkpoints = {
        record.id: best_checkpoint(options.runs / record.id, record.selection.epoch)
        for record in ran.records
        if record.selection
    }
    published = made.published if published_records() else None
    sources = [options.records, *filter(None, [published_records()])]
    evidence = evidence_of(sources)
    your_runs(ran.records, published, made.own, checkpoints, console, code_hash, options.leaderboard, evidence)


def make_tables(folder: Path) -> Report:
    """Make one's own tables, and say what is wrong with records."""
    from mmbench.report import build
    from mmbench.runner.code import code_hash
    from mmbench.runner.records import Records
    from mmbench.runner.verify import verify

    made = build(folder, Records(folder / "records"), published_records(), code_hash, verify)
    for line in made.problems:
        say(line, style="yellow")
    return made


def complain(ran: Ran) -> int:
    """Say what has no result and why, and return the exit status."""
    from mmbench.runner.progress import titles

    names = titles([*(trial for trial, _ in ran.troubles), *ran.unfinished])
    bad = sum(not record.completed for record in ran.records)
    if bad:
        say(f"{bad} trials failed or diverged. To run these again: the same command with --retry.", style="red")
    alike: dict[str, list[str]] = {}
    for trial, trouble in ran.troubles:
        alike.setdefault(str(trouble), []).append(names[trial.id])
    for text, hit in alike.items():
        whose = f"{hit[0]} and {len(hit) - 1} more have" if len(hit) > 1 else f"{hit[0]} has"
        say(f"{whose} no record: {text}", style="red")
    if ran.stopped:
        left = f", and {len(ran.unfinished)} trials were not run" if ran.unfinished else ""
        say(f"This would have hit every trial{left}. The same command continues once it is mended.", style="red")
    else:
        for trial in ran.unfinished:
            say(
                f"{names[trial.id]} has no record: its process was ended (out of memory?). The same command continues "
                "it.",
                style="red",
            )
    return 1 if bad or ran.troubles or ran.unfinished else 0
