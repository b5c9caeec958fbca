"""Changes of the structure of pickles, and pickles that were written by hand to do harm."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutations import Rng


def damage_pickle(path: Path, rng: Rng) -> None:
    """Replace one part of the content, at any depth, by something of another type, shape or value."""
    path = _file(path, rng)
    content = pickle.loads(path.read_bytes())
    for _ in range(1 + int(rng.integers(2))):
        content = _damage(content, rng)
    path.write_bytes(pickle.dumps(content, int(rng.choice([2, 4, 5]))))


def bomb(path: Path, rng: Rng) -> None:
    """Replace a pickle by a small program that asks for much: memory, time, or a deep stack."""
    path = _file(path, rng)
    data = BOMBS[rng.integers(len(BOMBS))]
    if rng.random() < 0.5:  # at a place where an importer looks
        data = b"}(\x8c\x05train" + data.removesuffix(b".") + b"\x8c\x05valid}\x8c\x04test]u."
    path.write_bytes(b"\x80\x04" + data)


def _file(path: Path, rng: Rng) -> Path:
    files = sorted(path.glob("*.pkl")) if path.is_dir() else [path]
    return files[rng.integers(len(files))]


def _damage(value: Any, rng: Rng) -> Any:
    inside = isinstance(value, dict | list | tuple) and len(value) > 0
    if not inside or rng.random() < 0.1:
        return _odd(value, rng)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    copy: Any = list(value) if isinstance(value, tuple) else value.copy()
    chance = rng.random()
    if chance < 0.1:
        del copy[key]
    elif chance < 0.15 and isinstance(copy, dict):
        copy[_scalars()[rng.integers(8)]] = copy.pop(key)
    else:
        copy[key] = _damage(copy[key], rng)
    return tuple(copy) if isinstance(value, tuple) else copy


def _scalars() -> list[Any]:
    return [
        None, True, 0, -1, 7, "", "x", b"\xff", 1e39, 1e300, float("nan"), float("-inf"), 10**30, 10**400, "\ud800",
        "a\0b", "é" * 300, "../../up", "nan", "9" * 5000, 1 + 2j, (), [], {}, set(), {"a"}, [[]], [None], ["a", 1],
        {"a": 1}, {1: 2}, bytes(9), bytearray(9), np.float32("nan"), np.str_("x"), np.int64(-5), np.bool_(True),
        OrderedDict(a=1), defaultdict(list),
    ]  # fmt: skip


def _odd(value: Any, rng: Rng) -> Any:
    """Return something in place of a value."""
    odd = _scalars()
    if isinstance(value, np.ndarray | list | tuple) and len(value) and rng.random() < 0.7:
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray([0.0])
        shape = array.shape
        with np.errstate(all="ignore"):
            odd = [
                value[0], value[:0], value[:-1], list(value), list(value) * 2, array[None], array[..., None],
                array.reshape(-1), np.asarray(1.5), np.zeros(shape, "c16"), np.zeros(shape, "M8[s]"),
                np.zeros(shape, "?"), np.full(shape, None), np.full(shape, "\ud800"), np.full(shape, "1.5"),
                np.full(shape, "x"), np.full(shape, b"\xff"), np.full(shape, np.nan), np.full(shape, np.inf),
                np.full(shape, 1e39), np.full(shape, 1e300), np.full(shape, (1 << 64) - 1, "u8"),
                np.full(shape, -(1 << 62)), np.zeros((*shape[:1], 0)), np.zeros(shape[:1]), np.zeros((*shape, 1, 1)),
                np.zeros(shape, [("a", "i4")]), array.tolist(), [array.tolist(), 1], [None] * len(value),
                ["x"] * len(value), [[]] * len(value), [10**400] * len(value), [{}] * len(value),
                np.asfortranarray(array), [*array.tolist()[:-1], None], [*array.tolist()[:-1], [1, [2]]],
            ]  # fmt: skip
    return odd[rng.integers(len(odd))]


def pickled_array(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    """An array of pickle protocol 2; ``shape`` are the opcodes of the tuple."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nU" + bytes([len(dtype)]) + dtype + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        + b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(data)) + data + b"tb."
    )  # fmt: skip


def _laughs(many: bytes, depth: int) -> bytes:
    """Containers of ten references to the container before, ``depth`` deep."""
    level = b"h\x00" * 9
    return b"K\x01q\x00" + (b"h\x00" + many[:-1] + level + many[-1:] + b"q\x00") * depth + b"."


PRIME = (1 << 61) - 1
"""Whole numbers that it divides have the hash 0."""
_THREE_GB = b"J" + struct.pack("<i", 2_000_000_000)
_CALL = b"\x8c\x08builtins\x8c"
BOMBS = (
    _CALL + b"\x09bytearray\x93" + _THREE_GB + b"\x85R.",
    _CALL + b"\x05bytes\x93" + _THREE_GB + b"\x85R.",
    b"]r\xff\xff\xff\x7f.",
    b"]r\x00\x00\x00\x10.",
    b"]p999999999\n.",
    b"\x8d" + struct.pack("<Q", 1 << 33) + b"text.",
    b"\x8e" + struct.pack("<Q", 3_000_000_000) + b"bytes.",
    b"\x96" + struct.pack("<Q", 1 << 62) + b"bytes.",
    b"B" + struct.pack("<I", 3_000_000_000) + b"bytes.",
    b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"1.",
    b"\x8b" + struct.pack("<i", 1_000_000) + b"\x01" * 1_000_000 + b".",
    b"\x95" + struct.pack("<Q", 1 << 34) + b"K\x01.",
    b"\x95" + struct.pack("<Q", 1 << 63) + b"K\x01.",
    b"\x8f" * 400_000 + b"t.",
    b"(" * 400_000 + b"t.",
    b"]" * 200_000 + b"a" * 199_999 + b".",
    b"]" + b"]a" * 100 + b".",
    b")" + b"\x85" * 400_000 + b".",
    b"})" + b"\x85" * 400_000 + b"K\x01s.",
    b"\x8f()" + b"\x85" * 400_000 + b"\x90.",
    b"]q\x00h\x00a.",
    b"}q\x00U\x05trainh\x00s.",
    _laughs(b"(l", 30),
    _laughs(b"(t", 12),
    b"](" + b"K\x01" * 300_000 + b"eq\x00" + (_CALL + b"\x04list\x93h\x00\x85R") * 300 + b"(l.",
    b"U\xff" + b"x" * 255 + b"q\x00" + _CALL + b"\x03int\x93U\xff" + b"9" * 255 + b"\x85R.",
    b"I" + b"9" * 200_000 + b"\n.",
    b"L" + b"9" * 200_000 + b"L\n.",
    b"F1e999999999\n.",
    pickled_array(b"J\xff\xff\xff\x7f\x85", b"f4", b""),
    pickled_array(b"J\x00\x00\x00\x80\x85", b"f4", b""),
    pickled_array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", b"f8", bytes(64)),
    pickled_array(b"J\xff\xff\xff\x7fK\x00K\x05\x87", b"f4", b""),
    pickled_array(b"J\xff\xff\xff\x7f\x85", b"U0", b""),
    pickled_array(b"K\x01\x85", b"U100000000", bytes(4)),
    pickled_array(b"K\x01\x85", b"U9999999999999", bytes(4)),
    pickled_array(b"]\x85", b"f4", bytes(4)),
    pickled_array(b"K\x01", b"f4", bytes(4)),
    pickled_array(b"K\x01\x85", b"O", bytes(8)),
    pickled_array(b"K\x04\x85", b"c8", bytes(32)),
    _CALL + b"\x07complex\x93U\x01x\x85R.",
    _CALL + b"\x04list\x93U\x01x\x85R.",
    b"c_codecs\nencode\nU\x01aU\x08punycode\x86R.",
    b"}(" + b"".join(b"\x8a\x0b" + (k * PRIME).to_bytes(11, "little") + b"N" for k in range(1, 40_000)) + b"u.",
)  # fmt: skip
