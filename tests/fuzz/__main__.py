"""Read damaged files and count what it came to: ``python -m tests.fuzz [FORM ...] [--count 100] [--seed 0]``."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from typing import get_args

from tests.fuzz.harness import Kind, cases, forms

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("forms", nargs="*", help="by default all")
parser.add_argument("--count", type=int, default=100)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--first", type=int, default=0, help="number of the first case")
parser.add_argument("--all", action="store_true", help="show the good outcomes too")
arguments = parser.parse_args()

known = forms()
total: Counter[str] = Counter()
for name in arguments.forms or known:
    start, counts = time.monotonic(), Counter[str]()
    for outcome in cases(known[name], arguments.count, arguments.seed, arguments.first):
        counts[outcome.kind] += 1
        if arguments.all or not outcome.good:
            print(outcome, flush=True)
    total += counts
    shown = ", ".join(f"{counts[kind]} {kind}" for kind in get_args(Kind))
    print(f"== {name}: {shown} in {time.monotonic() - start:.1f} s", flush=True)
print("== all:", ", ".join(f"{total[kind]} {kind}" for kind in get_args(Kind)))
