"""What the tests of InterMulti share: a small method, and samples."""

from __future__ import annotations

from mmbench.methods.intermulti import InterMulti
from tests.methods.parts import builder, sampler

SMALL = {"width": 8, "hidden": 4, "head_width": 5, "rank": 2}

build, sample = builder(InterMulti, **SMALL), sampler()
