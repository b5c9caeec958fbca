"""Changes of bytes and of JSON that know nothing of what they change."""

from __future__ import annotations

import gzip
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator
NUMBERS = (0, 1, -1, 7, 255, 1 << 15, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
ODD_JSON: tuple[Any, ...] = (
    None, True, 0, -1, 3, 1 << 70, 1e300, float("nan"), float("inf"), "", "x", "\ud800", "a\0b", "../../up", "é" * 300,
    [], {}, [[]], [None], {"a": 1}, [1, "a"],
)  # fmt: skip


def mutate(data: bytes, rng: Rng) -> tuple[bytes, str]:
    """Return damaged bytes, and what was done to them."""
    done = []
    for _ in range(1 + int(rng.integers(3))):
        change = CHANGES[rng.integers(len(CHANGES))]
        data = change(data, rng) if data else data
        done.append(change.__name__)
    return data, ", ".join(done)


def damage_json(value: Any, rng: Rng) -> Any:
    """Return plain containers of which one part, at any depth, is another, missing, or there twice."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or rng.random() < 0.15:
        return ODD_JSON[rng.integers(len(ODD_JSON))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    copy = value.copy()
    chance = rng.random()
    if chance < 0.1:
        del copy[key]
    elif chance < 0.2:
        if isinstance(copy, dict):
            copy[f"{key}x"] = copy[key]
        else:
            copy.append(copy[key])
    else:
        copy[key] = damage_json(copy[key], rng)
    return copy


def _span(data: bytes, rng: Rng, most: int = 512) -> tuple[int, int]:
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + 1 + int(rng.integers(min(most, len(data)))))


def flip(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(len(data), size=1 + int(rng.integers(16))):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def drop(data: bytes, rng: Rng) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def double(data: bytes, rng: Rng) -> bytes:
    start, stop = _span(data, rng)
    return data[:stop] + data[start:]


def swap(data: bytes, rng: Rng) -> bytes:
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    b = min(b, c)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def wipe(data: bytes, rng: Rng) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + (b"\0" if rng.random() < 0.5 else b"\xff") * (stop - start) + data[stop:]


def integer(data: bytes, rng: Rng) -> bytes:
    """Replace a small integer, as binary headers have them, by one that a reader should not believe."""
    width, order = int(rng.choice([2, 4, 8])), str(rng.choice(["<", "<", ">"]))
    if len(data) < width:
        return data
    shift = int(rng.integers(min(width, len(data) - width + 1)))
    found = np.frombuffer(data, f"{order}u{width}", (len(data) - shift) // width, shift)
    small = np.flatnonzero((found > 0) & (found < 5000))
    place = shift + width * int(small[rng.integers(len(small))] if len(small) else rng.integers(len(found)))
    value = NUMBERS[rng.integers(len(NUMBERS))] & ((1 << 8 * width) - 1)
    return data[:place] + value.to_bytes(width, "little" if order == "<" else "big") + data[place + width :]


def digits(data: bytes, rng: Rng) -> bytes:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[: 1 << 20]))
    if not found:
        return flip(data, rng)
    match = found[rng.integers(len(found))]
    odd = (b"-1", b"0", b"1e39", b"1e300", b"nan", b"-inf", b"9" * 20, b"9" * 5000, b"", b'"x"', b"[]", b"1_0", b"0x7f")
    return data[: match.start()] + odd[rng.integers(len(odd))] + data[match.end() :]


def splice(data: bytes, rng: Rng) -> bytes:
    """Put a piece of another form in, or in place of everything."""
    other = FOREIGN[rng.integers(len(FOREIGN))]
    start, stop = _span(data, rng)
    chance = rng.random()
    return other if chance < 0.2 else other + data if chance < 0.4 else data[:start] + other + data[stop:]


def nothing_left(data: bytes, rng: Rng) -> bytes:
    return b""


def _foreign() -> tuple[bytes, ...]:
    npz = io.BytesIO()
    np.savez(npz, x=np.arange(3))
    return (
        npz.getvalue(),
        gzip.compress(bytes(1000), mtime=0),
        pickle.dumps({"train": {"text": [1, 2]}}),
        b"\x89HDF\r\n\x1a\n" + bytes(40),
        b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b'{"a": [1, NaN, "\\ud800"]}',
        b"\xff\xfe\0\xed\xa0\x80\n,;\t\"'",
        b"(" * 3000,
    )


FOREIGN = _foreign()
CHANGES: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(flip, cut, drop, double, swap, wipe, integer, digits, splice) * 3,
    nothing_left,
)
