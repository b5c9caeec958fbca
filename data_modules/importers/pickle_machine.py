"""The machine that a pickle is a program for, with an account of the memory that the program takes.

Python's own machine believes what a program says: it makes room for 3 GB before it looks whether the file has them, and
for two thousand million objects when a program remembers one under that number. This one reads what is there, keeps
what is remembered in a dict, calls nothing but the given names, and charges whatever is made to the memory budget.
"""

from __future__ import annotations

import codecs
import pickle
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_modules.budget import budget, check_size

COST, SET_COST = 100, 240
"""Bytes that a step may take beside what it reads: an empty dict is 64, what is remembered 100, an empty set 216."""
LONGEST_LINE = 1 << 16
"""Characters of a name, or of a number that is written as text."""
LONGEST_INTEGER = 255
"""Bytes of a whole number."""
WIDEST_KEY = 1 << 60
"""Larger whole numbers, and complex ones, can be chosen to share one hash, and a dict of them takes for ever."""
SMALL, LARGE = 1 << 6, 1 << 12
"""Bytes of a value that the cost of its step covers, and that are worth a look at what is left of the file."""
_FLOATS = re.compile(rb"(?:G.{8})+", re.DOTALL)


class Refused(pickle.UnpicklingError):
    """The pickle wants something that no feature file needs."""


class Built:
    """What a pickle may give a state to, after it is made."""

    def build(self, state: Any) -> None:
        """Take the state."""
        raise NotImplementedError


class Account:
    """The memory that the content of a file takes, as far as it is made."""

    def __init__(self, path: Path) -> None:
        self.path, self.limit, self.spent = path, budget(), 0

    def spend(self, size: int) -> None:
        """Charge some bytes.

        Raises:
            DataError: When all together are more than the budget.
        """
        self.spent += size
        if self.spent > self.limit:
            check_size(self.path, "its content", self.spent)


def check_key(key: Any) -> Any:
    """Return a key of a dict or an item of a set: text, a number, or a flat tuple of those.

    Tuples in tuples are hashed by recursion, however deep they are.

    Raises:
        Refused: When it is something else.
    """
    for one in key if type(key) is tuple else (key,):
        plain = isinstance(one, str | bytes | int | float | np.generic | None) and not isinstance(one, complex)
        if not plain or np.iscomplexobj(one) or (isinstance(one, int) and abs(one) >= WIDEST_KEY):
            raise Refused(f"a key with a {type(one).__name__} in it")
    return key


class Machine:
    """Runs one pickle.

    Args:
        file: The pickle.
        names: What the program may name, by module and name.
        account: What its memory is charged to.
    """

    def __init__(self, file: BinaryIO, names: Mapping[tuple[str, str], Any], account: Account) -> None:
        self.file, self.names, self.account = file, names, account
        self.size = file.seek(0, 2)
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memory: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the program leaves.

        Raises:
            Refused: When it asks for something that is not given.
            DataError: When it takes too much memory.
        """
        self.file.seek(0)
        read, account, steps = self.file.read, self.account, STEPS
        while (code := read(1)) != b".":
            if code not in steps:
                what = f"no data has the operation {code!r}" if code else "it has no end"
                raise pickle.UnpicklingError(f"{what}, at byte {self.file.tell()}")
            account.spent += COST
            if account.spent > account.limit:
                account.spend(0)
            steps[code](self)
        return self.stack.pop()

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def take(self, size: int) -> bytes:
        """Return the next bytes; nothing is allocated for bytes that are not there."""
        if size > LARGE and size > self.size - self.file.tell():
            raise EOFError(f"{size} bytes are announced, and the file ends before")
        if size > SMALL:
            self.account.spend(size)
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError("it ends within a value")
        return data

    def number(self, size: int, signed: bool = False) -> int:
        """Return the next bytes as a whole number."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self, most: int = LONGEST_LINE) -> bytes:
        """Return the bytes up to the end of the line."""
        line = self.file.readline(most)
        if line[-1:] != b"\n":
            raise pickle.UnpicklingError("a line has no end")
        self.account.spend(len(line))
        return line[:-1]

    def text(self, data: bytes, codec: str = "utf-8") -> None:
        """Put text on the stack."""
        text = data.decode(codec, "surrogatepass" if codec == "utf-8" else "strict")
        if len(data) > SMALL:
            self.account.spend(sys.getsizeof(text))
        self.stack.append(text)

    def integer(self, size: int) -> None:
        """Put a whole number of so many bytes on the stack."""
        if size > LONGEST_INTEGER:
            raise Refused(f"a whole number of {size} bytes")
        self.stack.append(self.number(size, signed=True))

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and take both away."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def top(self, *kinds: type) -> Any:
        """Return what lies on top of the stack, to be changed; it must be of one of some types, exactly."""
        if type(self.stack[-1]) not in kinds:
            raise Refused(f"a change of a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def group(self, count: int) -> None:
        """Put the topmost values on the stack as a tuple."""
        if len(self.stack) < count:
            raise IndexError(f"a tuple of {count} needs as many values")
        self.stack[-count:] = [(*self.stack[-count:],)]

    def fill(self, items: list[Any]) -> None:
        """Put keys and values, one after the other, into the dict on top of the stack."""
        target = self.top(dict, OrderedDict, defaultdict)
        for place in range(0, len(items), 2):
            target[check_key(items[place])] = items[place + 1]

    def name(self, module: Any, name: Any) -> None:
        """Put what a name stands for on the stack."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused(f"what is named by a {type(module).__name__} and a {type(name).__name__}")
        if (module, name) not in self.names:
            raise Refused(f"{module:.100}.{name:.100}")
        self.stack.append(self.names[module, name])


def _floats(machine: Machine) -> None:
    # Long lists of numbers, all in one go: one by one they take ten times as long.
    run = _FLOATS.match(b"G" + machine.file.peek()[:LARGE])  # type: ignore[attr-defined]
    data = b"G" + machine.take(run.end() - 1 if run else 8)
    machine.account.spent += COST * (len(data) // 9 - 1)
    machine.stack += np.frombuffer(data, [("code", "S1"), ("value", ">f8")])["value"].tolist()


def _string(machine: Machine) -> None:
    line = machine.line(machine.size)
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise pickle.UnpicklingError("a text is not in quotes")
    machine.text(codecs.escape_decode(line[1:-1])[0], "latin1")


def _written_integer(machine: Machine) -> None:
    line = machine.line().removesuffix(b"L")
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0))


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.marked()


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _remember(machine: Machine, number: int) -> None:
    machine.memory[number] = machine.stack[-1]


def _append(machine: Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _add(machine: Machine) -> None:
    items = machine.marked()
    machine.account.spend(SET_COST * len(items))
    machine.top(set).update(map(check_key, items))


def _frozen(machine: Machine) -> None:
    items = machine.marked()
    machine.account.spend(SET_COST * (1 + len(items)))
    machine.push(frozenset(map(check_key, items)))


def _set(machine: Machine) -> None:
    machine.account.spend(SET_COST)
    machine.push(set())


def _dict(machine: Machine) -> None:
    items = machine.marked()
    machine.push({})
    machine.fill(items)


def _two(machine: Machine) -> list[Any]:
    return [machine.stack.pop(), machine.stack.pop()][::-1]


def _call(machine: Machine) -> None:
    function, arguments = _two(machine)
    if not callable(function) or type(arguments) is not tuple:
        raise Refused(f"a call of a {type(function).__name__}")
    machine.push(function(*arguments))


def _build(machine: Machine) -> None:
    state, made = machine.stack.pop(), machine.stack[-1]
    if not isinstance(made, Built):
        raise Refused(f"a change of a {type(made).__name__}")
    made.build(state)


Step = Callable[[Machine], object]
STEPS: dict[bytes, Step] = {
    # The protocol, and the length of a frame: nothing depends on them.
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _written_integer,
    b"L": _written_integer,
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"F": lambda m: m.push(float(m.line())),
    b"G": _floats,
    b"S": _string,
    b"V": lambda m: m.text(m.line(m.size), "raw-unicode-escape"),
    b"U": lambda m: m.text(m.take(m.number(1)), "latin1"),
    b"T": lambda m: m.text(m.take(m.number(4)), "latin1"),
    b"\x8c": lambda m: m.text(m.take(m.number(1))),
    b"X": lambda m: m.text(m.take(m.number(4))),
    b"\x8d": lambda m: m.text(m.take(m.number(8))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))),
    b"\x96": lambda m: m.push(bytearray(m.take(m.number(8)))),
    b"(": _mark,
    b"0": _pop,
    b"1": lambda m: m.marked(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"]": lambda m: m.push([]),
    b"l": lambda m: m.push(m.marked()),
    b"a": lambda m: _append(m, [m.stack.pop()]),
    b"e": lambda m: _append(m, m.marked()),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push((*m.marked(),)),
    b"\x85": lambda m: m.group(1),
    b"\x86": lambda m: m.group(2),
    b"\x87": lambda m: m.group(3),
    b"}": lambda m: m.push({}),
    b"d": _dict,
    b"s": lambda m: m.fill(_two(m)),
    b"u": lambda m: m.fill(m.marked()),
    b"\x8f": _set,
    b"\x90": _add,
    b"\x91": _frozen,
    b"p": lambda m: _remember(m, int(m.line())),
    b"q": lambda m: _remember(m, m.number(1)),
    b"r": lambda m: _remember(m, m.number(4)),
    b"\x94": lambda m: _remember(m, len(m.memory)),
    b"g": lambda m: m.push(m.memory[int(m.line())]),
    b"h": lambda m: m.push(m.memory[m.number(1)]),
    b"j": lambda m: m.push(m.memory[m.number(4)]),
    b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
    b"\x93": lambda m: m.name(*_two(m)),
    b"R": _call,
    b"b": _build,
}
"""What each operation does. Classes, persistent ids, extensions and buffers outside are no data: they are not there."""
