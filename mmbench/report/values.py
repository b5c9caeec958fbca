"""Plain values of records: which is the commonest, and a short name for several."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any


def commonest(values: Iterable[Any]) -> Any:
    """Return the most frequent plain value, the first in order of its text among equally frequent ones."""
    counts = Counter(json.dumps(value, sort_keys=True) for value in values)
    return json.loads(min(counts, key=lambda text: (-counts[text], len(text), text), default="null"))


def short_hash(values: Any) -> str:
    """Return eight letters that stand for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
