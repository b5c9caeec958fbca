"""A store is the old one or the new one, whenever its writer is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from data_modules import files
from data_modules.datasets.synthetic.generator import write_synthetic
from data_modules.store import FeatureStore

SAMPLES = (64, 24, 24)
KILLS = 100


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_random_kills_leave_the_old_store_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    began = time.monotonic()
    old = write_synthetic(path, samples=SAMPLES, seed=1).content
    new = write_synthetic(tmp_path / "other.h5", samples=SAMPLES, seed=2).content
    takes = (time.monotonic() - began) / 2
    moments, seen = random.Random(3), {old: 0, new: 0}
    for _ in range(KILLS):
        child = os.fork()
        if not child:
            write_synthetic(path, samples=SAMPLES, seed=2)
            os._exit(0)
        time.sleep(moments.uniform(0, 2 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        store = FeatureStore(path)
        store.verify()
        seen[store.content] += 1
        if store.content == new:
            write_synthetic(path, samples=SAMPLES, seed=1)
    assert all(seen.values()), "no kill came before the end, or none after it"
    files._swept.clear()  # as in a process of its own
    write_synthetic(path, samples=SAMPLES, seed=1)  # which removes what the killed ones left
    assert sorted(one.name for one in tmp_path.iterdir()) == ["other.h5", "s.h5"]
