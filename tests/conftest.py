"""Fixtures for all tests: small stores, and the environment as it was."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from data_modules import FeatureStore, plugins
from data_modules.datasets.synthetic.generator import write_synthetic
from data_modules.store import verified
from tests.plugin_files import Named

if TYPE_CHECKING:
    from xdist.remote import Producer

# librosa's compiled functions are kept on disk, where processes that write the same one at once leave a broken one that
# crashes whoever loads it. Tests run in several processes, so each has a place of its own.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "numba" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ["NUMBA_CACHE_DIR"] = str(COMPILED)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Where several processes share the tests, give those to one that share what is slow to make."""

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            if path.endswith("test_registry.py"):  # thousands: those of one method on one kind of data share a training
                return f"{path}::{test.partition('[')[2]}"
            return nodeid if "tests/runner/" in path else path  # the runner's take long and share little

    return ByWhatIsShared(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some tests wait for processes of their own."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Thousands of tests and some large libraries are there to stay: the garbage collector need not visit them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """A test leaves the environment as it found it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One thread where the environment does not say how many: small tensors gain nothing from more."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which stores were verified is not written into the cache of whoever runs the tests."""
    place = tmp_path_factory.mktemp("cache") / "verified.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified, "_remembered", lambda: place)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for a test that forks: the copy of a process has none of its threads, and waits for them for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A generated regression store of 64/24/24 samples."""
    return write_synthetic(tmp_path_factory.mktemp("stores") / "small.h5", samples=(64, 24, 24))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a skip with the reason."""
    folder = os.environ.get("MMBENCH_REAL_DATA")
    if not folder:
        pytest.skip("MMBENCH_REAL_DATA names no folder with real data")
    return Path(folder)


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder whose Python files may be plug-ins; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def named(plugged: Path, monkeypatch: pytest.MonkeyPatch) -> Named:
    """Write files and name them as plug-ins."""

    def name(**files: str) -> None:
        for stem, text in files.items():
            (plugged / f"{stem}.py").write_text(text)
        monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join(str(plugged / f"{stem}.py") for stem in files))

    return name
