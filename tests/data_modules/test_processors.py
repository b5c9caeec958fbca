"""The identity of data on processors with and without wide vectors, in processes of their own.

numpy and OpenBLAS choose their code when they are loaded; the variables here make them choose as on an older processor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_modules.datasets.synthetic.clips import DIM, write_clips
from data_modules.datasets.synthetic.dialogues import DIMS as UTTERANCE_DIMS
from data_modules.datasets.synthetic.dialogues import write_dialogues
from data_modules.datasets.synthetic.generator import DIMS, write_synthetic
from data_modules.datasets.synthetic.lag import write_lag

ROOT = Path(__file__).parents[2]
GENERATED = """
import sys, tempfile, pathlib
from tests.data_modules.test_processors import generated
with tempfile.TemporaryDirectory() as folder:
    print(*generated(pathlib.Path(folder)))
"""
IMPORTED = """
import sys, pathlib
from data_modules.formats import import_store
source, out, face = map(pathlib.Path, sys.argv[1:])
store = import_store("ravdess", source, out, dataset="ravdess", options={"face": str(face)})
print(store.identity, store.content)
"""


def vectors(*prefixes: str) -> str:
    """Return the names of the wide vectors that numpy uses here, as its variable takes them."""
    try:
        from numpy._core import _multiarray_umath as numpy_core
    except ImportError:
        pytest.skip("this numpy does not say which vectors it uses")
    used = [name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__.get(name)]
    return " ".join(name for name in used if name.startswith(prefixes))


def run(code: str, *arguments: object, **variables: str) -> list[str]:
    """Return the words that a new process prints."""
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def generated(folder: Path) -> list[str]:
    """Return identity and content of the generated sets, small ones."""
    made = [
        write_synthetic(folder / "s.h5", samples=(40, 10, 10)),
        write_lag(folder / "l.h5", samples=(40, 10, 10)),
        write_dialogues(folder / "d.h5", dialogues=(8, 2, 2)),
        write_clips(folder / "c.h5", clips=(6, 2, 2)),
    ]
    return [word for store in made for word in (store.identity, store.content)]


def test_generated_data_are_exact_on_every_processor(tmp_path: Path) -> None:
    """So their values count as they are."""
    oldest = {"NPY_DISABLE_CPU_FEATURES": vectors("AVX", "FMA", "X86"), "OPENBLAS_CORETYPE": "PRESCOTT"}
    assert run(GENERATED, **oldest) == generated(tmp_path)


@pytest.mark.parametrize("dim", sorted({*DIMS.values(), *UTTERANCE_DIMS.values(), DIM}))
def test_no_cosine_of_the_generated_data_lies_on_an_edge(dim: int) -> None:
    """They are the only values that libraries compute differently, and are rounded to multiples of 1/1024."""
    frequency = np.arange(dim)[:, None]
    cosines = np.sqrt(np.where(frequency == 0, 1, 2) / dim) * np.cos(np.pi * (np.arange(dim) + 0.5) * frequency / dim)
    assert np.abs(np.abs(cosines * 1024 % 1) - 0.5).min() > 1e-6


@pytest.mark.parametrize("old", ["no wide vectors", "another BLAS"])
def test_ravdess_has_one_identity_on_every_processor(real_data: Path, tmp_path: Path, old: str) -> None:
    """One real clip of each actor: the log-mel values differ in the last digits, and the data are the same."""
    wide = vectors("AVX512", "X86_V4")
    if not wide:
        pytest.skip("this processor has no AVX-512, so there is nothing to switch off")
    for folder in sorted((real_data / "ravdess" / "audio").glob("Actor_*")):
        (tmp_path / "audio" / folder.name).mkdir(parents=True)
        clip = min(folder.iterdir())
        (tmp_path / "audio" / folder.name / clip.name).symlink_to(clip)
    given = (tmp_path / "audio", tmp_path / "r.h5", real_data / "ravdess" / "openface_au_mean.csv")
    here = run(IMPORTED, *given)[-2:]
    variables = {"NPY_DISABLE_CPU_FEATURES": wide} if old == "no wide vectors" else {"OPENBLAS_CORETYPE": "HASWELL"}
    there = run(IMPORTED, *given, **variables)[-2:]
    assert there[0] == here[0]
    assert there[1] != here[1], "the values are the same, so that this test shows nothing"
