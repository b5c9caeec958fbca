"""``--plugin``, and ``mmbench test-method``: methods and data sets of one's own."""

from __future__ import annotations

import tempfile
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import console_of_errors
from mmbench.cli.run import add_benchmarks

OPTION = "--plugin"
INI = """[pytest]
filterwarnings =
    ignore::FutureWarning:lightning
    ignore::pytest.PytestAssertRewriteWarning
"""
TESTS = '''"""The tests of one method."""

from pathlib import Path

from mmbench.testing import MethodTests


class TestMethod(MethodTests):
    methods = ({name!r},)
    benchmarks = Path({benchmarks!r})
'''


def add_plugin_option(parser: ArgumentParser) -> None:
    """Show the option in the help; :func:`plugged` reads it, wherever it stands."""
    parser.add_argument(
        OPTION,
        action="append",
        default=SUPPRESS,
        metavar="FILE.py",
        help="a file with a method or a data set of yours; may be repeated",
    )


@contextmanager
def plugged(argv: list[str]) -> Iterator[list[str]]:
    """Take ``--plugin FILE`` out of the arguments, wherever it stands, and let the registries know the files.

    Raises:
        DataError: When a file is missing, or none is given.
    """
    files: list[str] = []
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        if name == OPTION:
            file = value if equals else next(items, "")
            if not file or file.startswith("--"):
                from data_modules.schema import DataError

                raise DataError(f"{OPTION} needs a file.")
            files.append(file)
        else:
            rest.append(item)
    with ExitStack() as stack:
        if files:
            from data_modules.plugins import extended

            stack.enter_context(extended(files))
        yield rest


def tell_broken() -> None:
    """Say which methods and data sets cannot be used, and why."""
    from data_modules import broken_datasets
    from mmbench.methods import broken_methods

    for message in dict.fromkeys([*broken_methods().values(), *broken_datasets().values()]):
        console_of_errors.print(f"broken: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def fill_test_method(parser: ArgumentParser) -> None:
    """Add the arguments of ``test-method``."""
    parser.add_argument("method", help="key of the method")
    add_benchmarks(parser)
    parser.add_argument("--select", default="", help="only tests whose names have this, as pytest's -k")


def test_method(arguments: Namespace) -> int:
    """Run the tests of one method; 0 when it passes all."""
    from mmbench.methods import ConfigError, method
    from mmbench.runner.settings import benchmarks_folder

    method(arguments.method)
    benchmarks = benchmarks_folder(arguments.benchmarks)
    try:
        import pytest
    except ModuleNotFoundError as error:
        raise ConfigError("`mmbench test-method` needs pytest: pip install pytest.") from error
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pytest.ini").write_text(INI)
        tests = folder / "test_method.py"
        tests.write_text(TESTS.format(name=arguments.method, benchmarks=str(benchmarks.absolute())))
        options = ["-q", "--import-mode=importlib", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider"]
        select = ["-k", arguments.select] if arguments.select else []
        return 0 if pytest.main([*options, *select, str(tests)]) == 0 else 1
