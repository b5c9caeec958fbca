"""Short pickles that ask for much: memory, time, a deep stack. None gets it, and none ends the process."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.budget import VARIABLE
from data_modules.importers.pickles import DEEPEST, load_pickle
from data_modules.schema import DataError
from tests.fuzz.pickles import PRIME, pickled_array

BUILTIN = b"cbuiltins\n"
LARGE = b"J" + struct.pack("<i", 2_000_000_000)
MOST = 64e6


@pytest.fixture(autouse=True)
def _budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "20MB")


def load(tmp_path: Path, data: bytes) -> Any:
    """Load bytes as a pickle; no more than three budgets of memory may be asked for."""
    path = tmp_path / "own.pkl"
    path.write_bytes(b"\x80\x04" + data)
    tracemalloc.start()
    try:
        return load_pickle(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST


def laughs(kind: bytes, depth: int) -> bytes:
    """Ten references to a container of ten references to a container of ..."""
    return b"K\x01q\x00" + (b"(" + b"h\x00" * 10 + kind + b"q\x00") * depth + b"."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(BUILTIN + b"bytearray\n" + LARGE + b"\x85R.", "asks for bytearray of a int", id="bytearray"),
        pytest.param(BUILTIN + b"bytes\n" + LARGE + b"\x85R.", "asks for bytes of a int", id="bytes"),
        pytest.param(BUILTIN + b"list\nU\x01x\x85R.", "asks for a container made of a str", id="list of text"),
        pytest.param(BUILTIN + b"int\nU\x019\x85R.", "asks for a call", id="int of text"),
        pytest.param(b"c_codecs\nencode\nU\x01aU\x04idna\x86R.", "asks for the codec 'idna'", id="codec"),
        pytest.param(b"\x8d" + struct.pack("<Q", 1 << 33) + b"text.", "8589934592 bytes are announced", id="text"),
        pytest.param(b"\x8e" + struct.pack("<Q", 1 << 62) + b"bytes.", "bytes are announced", id="bytes8"),
        pytest.param(b"\x96" + struct.pack("<Q", 3 << 30) + b"bytes.", "bytes are announced", id="bytearray8"),
        pytest.param(b"B" + struct.pack("<I", 3_000_000_000) + b"bytes.", "bytes are announced", id="binbytes"),
        pytest.param(b"\x8b" + struct.pack("<I", 1 << 31) + b"1.", "whole number of 2147483648 bytes", id="long"),
        pytest.param(b"\x8b" + struct.pack("<I", 500) + bytes(500) + b".", "whole number of 500", id="long number"),
        pytest.param(b"I" + b"9" * 10_000 + b"\n.", "cannot be read as a pickle", id="digits"),
        pytest.param(b"\x8f" * 100_000 + b".", "would take .*GB of memory.*MMBENCH_MEMORY", id="sets"),
        pytest.param(b"(" * 250_000 + b".", "would take .*GB of memory", id="marks"),
        pytest.param(b"](" + b"K\x01" * 9999 + b"eq\x00" + (BUILTIN + b"list\nh\x00\x85R") * 99 + b".", "would take",
                     id="copies"),
        pytest.param(laughs(b"l", 9), "all parts written out would take 8.*GB", id="laughing lists"),
        pytest.param(laughs(b"t", 25), r"all parts written out would take 8\d{10,}GB", id="laughing tuples"),
        pytest.param(b"X" + struct.pack("<I", 5000) + b"x" * 5000 + b"q\x00](" + b"h\x00" * 9000 + b"e.",
                     "written out would take", id="one text often"),
        pytest.param(b"]q\x00h\x00a.", "more than 30 deep", id="itself"),
        pytest.param(b"]" * 5_000 + b"a" * 4_999 + b".", "more than 30 deep", id="deep lists"),
        pytest.param(b"})" + b"\x85" * 20_000 + b"K\x01s.", "asks for a key with a tuple", id="deep key"),
        pytest.param(b"\x8f()" + b"\x85" * 20_000 + b"\x90.", "asks for a key with a tuple", id="deep item"),
        pytest.param(b")" + b"\x85" * 20_000 + b"K\x01\x93.", "named by a tuple and a int", id="deep name"),
        pytest.param(b"}(" + b"".join(b"\x8a\x0b" + (k * PRIME).to_bytes(11, "little") + b"N" for k in range(2, 20_000))
                     + b"u.", "asks for a key with a int", id="keys of one hash"),
        pytest.param(pickled_array(b"J\xff\xff\xff\x7f\x85", b"f4", b""), "made of 0 bytes", id="huge shape"),
        pytest.param(pickled_array(b"J\x00\x00\x00\x80\x85", b"f4", b""), "no tuple of sizes", id="negative shape"),
        pytest.param(pickled_array(b"K\x01", b"f4", bytes(4)), "no tuple of sizes", id="shape of a number"),
        pytest.param(pickled_array(b"K\x02\x85", b"f4", bytes(4)), r"shape \(2,\) .*made of 4 bytes", id="short"),
        pytest.param(pickled_array(b"J\xff\xff\xff\x7fK\x00K\x05\x87", b"f4", b""), "without values", id="empty rows"),
        pytest.param(pickled_array(b"J\xff\xff\xff\x7f\x85", b"U0", b""), "without values", id="texts of nothing"),
        pytest.param(pickled_array(b"K\x01\x85", b"U100000000", bytes(4)), "made of 4 bytes", id="wide text"),
        pytest.param(pickled_array(b"K\x01\x85", b"U9999999999999", bytes(4)), "asks for the dtype", id="wider text"),
        pytest.param(b"ccollections\nOrderedDict\n)R}U\x05itemsK\x01sb.", "a change of a OrderedDict", id="attribute"),
        pytest.param(b"(\x8c\x01a\x8c\x01b\x93.", "asks for a.b", id="name from the stack"),
        pytest.param(b"\x87.", "cannot be read as a pickle", id="empty stack"),
        pytest.param(b"C\x01aU\x01be.", "cannot be read as a pickle", id="no mark"),
    ],
)  # fmt: skip
def test_bomb_is_refused_before_it_goes_off(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, data)
    assert "own.pkl" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", [b"r\xff\xff\xff\x7f", b"r\x00\x00\x00\x10", b"p999999999\n"])
def test_a_large_memory_number_takes_no_memory(tmp_path: Path, number: bytes) -> None:
    """Python's machine makes room for all numbers below it: 34 GB for the first."""
    assert load(tmp_path, b"]" + number + b".") == []


def test_length_of_a_frame_is_not_believed(tmp_path: Path) -> None:
    assert load(tmp_path, b"\x95" + struct.pack("<Q", 1 << 62) + b"K\x01.") == 1


def test_missing_memory_is_not_a_truncated_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr("data_modules.importers.pickles.Machine.run", none_left)
    with pytest.raises(DataError, match="does not fit into the memory that is free") as caught:
        load(tmp_path, b"N.")
    assert "truncated" not in str(caught.value)


def test_large_file_is_refused_with_how_to_allow_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(np.zeros(4_000_000))[2:]
    with pytest.raises(DataError, match=r"would take 0\.032GB.*files may take 0\.02GB.*MMBENCH_MEMORY=0\.0384GB"):
        load(tmp_path, data)
    monkeypatch.setenv(VARIABLE, "0.0384GB")
    assert load(tmp_path, data).shape == (4_000_000,)


@pytest.mark.parametrize("piece", ["😀" * 500, b"x" * 1500, "x" * 1500])
def test_many_small_pieces_count_as_they_are_made(tmp_path: Path, piece: str | bytes) -> None:
    data = pickle.dumps([piece[:-1] + piece[-1:] for _ in range(20_000)])  # each an object of its own
    with pytest.raises(DataError, match="its content would take"):
        load(tmp_path, data[2:])


def test_complex_keys_are_refused_for_they_can_share_one_hash(tmp_path: Path) -> None:
    for key in (1 + 2j, np.complex64(1 + 2j)):
        with pytest.raises(DataError, match="a key with a complex"):
            load(tmp_path, pickle.dumps({key: 1})[2:])


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_writes_is_read_the_same(tmp_path: Path, protocol: int) -> None:
    """Held against Python's own machine, over all kinds of numbers, texts and containers."""
    shared = ["shared"]
    deep: list[Any] = [0]
    for _ in range(DEEPEST - 2):
        deep = [deep]
    content = [
        [0, 1, -1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**63), 2**64, 10**600],
        [0.1, -0.0, 1e300, 5e-324, float("inf"), *np.random.default_rng(0).normal(size=3000).tolist()],
        [
            "",
            "a",
            "ä",
            "日本",
            "😀",
            "\ud800",
            "a\\u0041\n\r\\",
            "x" * 300,
            "ß" * 70_000,
            b"",
            b"'\"\\\xff",
            b"x" * 70_000,
        ],
        [True, False, None, 1 + 2j, bytearray(b"ab" * 200), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        [set(), {1, "a"}, frozenset({("v", 1)}), {"a": 1, 2: {}, 2.5: None, ("v", "c"): [], b"k": (), np.str_("n"): 1}],
        [shared, shared, *range(3000), *map(str, range(3000))],
        deep,
    ]
    data = pickle.dumps(content, protocol)
    path = tmp_path / "own.pkl"
    path.write_bytes(data)
    found = load_pickle(path)
    assert found == pickle.loads(data, encoding="latin1")
    assert repr(found[:5]) == repr(content[:5])
    assert found[5][0] is found[5][1]
