"""Pickles read as data: nothing that a pickle names is ever imported, called or built.

A pickle is a program for a small stack machine. This machine runs the part of it that pickled data need and
puts a description in the place of every object; what is beyond that is refused, and so is a program that
would take too much memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .report import Problem, shown

_PROTOCOLS = (2, 3, 4, 5)
_MAX_NAME = 400
PERSISTENT_ID = "persistent id"
# Bytes, for all that is built: 140,000 chunks of a checkpoint, as many as the largest models have.
_BUDGET = 190 << 20
# Picklers hand over the items of a list a thousand at a time.
_MAX_STACK = 1 << 20


@dataclass(slots=True)
class Named:
    """A class, function or constant that a pickle names, `module.name`."""

    path: str


@dataclass(slots=True)
class Made:
    """An object that a pickle would make: of what, with which arguments and which state.

    fields: a state that is a dictionary, as key, value, key, value. state: one that is none.
    """

    of: str
    args: tuple[Any, ...]
    fields: tuple[Any, ...] = ()
    state: Any = None

    def get(self, name: str) -> Any:
        """The value of a field; None when it is not there."""
        for index in range(0, len(self.fields), 2):
            if self.fields[index] == name:
                return self.fields[index + 1]
        return None


class Pairs(list[Any]):
    """A dictionary as the list of key, value, key, value: a third of the memory, and no hash to collide."""

    __slots__ = ()


def read_pickle(data: bytes, allowed: frozenset[str]) -> Any | Problem:
    """The value that `data` describes, with `Named`, `Made` and `Pairs` in it, or why it is refused.

    allowed: the names that it may mention, `module.name`; with `PERSISTENT_ID` among them values that lie
    outside the pickle, as the numbers of a tensor do: each is a `Made` of that name. Sets come as lists, a
    `torch.Size` as a tuple.
    """
    machine = _Machine(data, allowed)
    try:
        return machine.run()
    except _HostileError as exc:
        what = f"a pickle that {exc}; loading it could run code"
        fix = "do not load it with anything; save or copy the checkpoint again from a source you trust"
        return Problem("checkpoint.hostile_pickle", what, fix=fix)
    except _CostlyError:
        what = f"a pickle that would take more than {_BUDGET >> 20} MiB to read, not read"
        return Problem("data.too_costly", what)
    except (_BrokenError, IndexError, UnicodeDecodeError, struct.error) as exc:
        what = str(exc) if isinstance(exc, _BrokenError) else "not a valid pickle"
        return Problem("checkpoint.broken_metadata", what, fix="copy or save the checkpoint again")


class _HostileError(Exception):
    """It does what pickled data never do."""


class _BrokenError(Exception):
    """It is cut off or damaged."""


class _CostlyError(Exception):
    """It would take more memory than any file is given."""


class _Machine:
    def __init__(self, data: bytes, allowed: frozenset[str]) -> None:
        self._data = data
        self._allowed = allowed
        self._at = 0
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # the stacks below each open mark
        self._wanted = _fetched(data)
        self._memo: dict[int, Any] = {}
        self._puts = 0
        self._cost = len(data)

    def run(self) -> Any:
        data, operations = self._data, _OPERATIONS
        while True:
            if self._at >= len(data):
                raise _BrokenError("cut short")
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                return self._pop()
            if code == _MEMOIZE and self._puts not in self._wanted:  # every fourth operation
                self._puts += 1
                continue
            operation = operations.get(code)
            if operation is None:
                raise _HostileError(f"has the operation {code:#04x}, which data need not")
            operation(self)
            if self._cost > _BUDGET or len(self._stack) > _MAX_STACK:
                raise _CostlyError

    # What is read from the program itself.

    def _take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) < count:
            raise _BrokenError("cut short")
        self._at += count
        return piece

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + _MAX_NAME)
        if end < 0:
            raise _BrokenError("a name without an end")
        return self._take(end + 1 - self._at)[:-1].decode("utf-8")

    # What is on the stack.

    def _push(self, value: Any, cost: int) -> None:
        self._stack.append(value)
        self._cost += cost + 9  # its place on the stack

    def _pop(self) -> Any:
        if not self._stack:
            raise _BrokenError("not a valid pickle: an empty stack")
        return self._stack.pop()

    def _to_mark(self) -> list[Any]:
        items = self._stack
        if not self._outer:
            raise _BrokenError("not a valid pickle: no mark")
        self._stack = self._outer.pop()
        return items

    def _top(self) -> Any:
        if not self._stack:
            raise _BrokenError("not a valid pickle: an empty stack")
        return self._stack[-1]

    # The operations.

    def proto(self) -> None:
        version = self._number(1)
        if version not in _PROTOCOLS:
            raise _BrokenError(f"a pickle of protocol {version}")

    def frame(self) -> None:
        self._take(8)

    def mark(self) -> None:
        self._outer.append(self._stack)
        self._stack = []
        self._cost += 72

    def put(self, index: int) -> None:
        if index != self._puts:  # no pickler leaves gaps, and a gap of 2 ** 32 is an attack
            raise _HostileError("numbers its values out of order")
        self._puts += 1
        if index in self._wanted:
            self._memo[index] = self._top()
            self._cost += 256

    def get_byte(self) -> None:
        self.get(self._take(1)[0])

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise _BrokenError("not a valid pickle: a value that is not there yet")
        self._push(self._memo[index], 0)

    def integer(self, size: int) -> None:
        self._push(int.from_bytes(self._take(size), "little", signed=True), 32 + size)

    def byte(self) -> None:
        self._stack.append(self._take(1)[0])
        self._cost += 1

    def unsigned(self, size: int) -> None:
        self._push(self._number(size), 32)

    def real(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0], 32)

    def text(self, size: int) -> None:
        held = self._take(self._number(size))
        self._push(held.decode("utf-8", "surrogatepass"), 64 + len(held) * (1 if held.isascii() else 4))

    def octets(self, size: int) -> None:
        held = self._take(self._number(size))
        self._push(held, 48 + len(held))

    def tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise _BrokenError("not a valid pickle: an empty stack")
        items = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._push(items, 56 + 8 * count)

    def tuple_to_mark(self) -> None:
        items = tuple(self._to_mark())
        self._push(items, 56 + 8 * len(items))

    def frozenset_to_mark(self) -> None:
        items = self._to_mark()
        self._push(items, 16 * len(items))

    def append(self) -> None:
        value = self._pop()
        self._extend(list, [value])

    def appends(self) -> None:
        self._extend(list, self._to_mark())

    def setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._extend(Pairs, [key, value])

    def setitems(self) -> None:
        self._extend(Pairs, self._to_mark())

    def _extend(self, kind: type[list[Any]], items: list[Any]) -> None:
        held = self._top()
        if isinstance(held, Made) and held.of in _DICTIONARIES:
            if not isinstance(held.state, Pairs):
                held.state = Pairs()
            held = held.state
        if type(held) is not kind or (kind is Pairs and len(items) % 2):
            raise _BrokenError("not a valid pickle: items for something that holds none")
        held.extend(items)
        self._cost += 9 * len(items)

    def global_lines(self) -> None:
        self._name(self._line(), self._line())

    def global_stack(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise _HostileError("names something by no name")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        path = f"{module}.{name}"
        if path not in self._allowed:
            raise _HostileError(f"names {shown(path)}, which no checkpoint needs")
        self._push(Named(path), 112 + len(path))

    def make(self) -> None:
        args, of = self._pop(), self._pop()
        if not isinstance(of, Named) or not isinstance(args, tuple):
            raise _HostileError("calls something that has no name")
        if of.path == _SIZE and len(args) == 1 and isinstance(args[0], tuple):
            self._push(args[0], -64)
        else:
            self._push(Made(of.path, args), 72)

    def outside(self) -> None:
        args = self._pop()
        if PERSISTENT_ID not in self._allowed or not isinstance(args, tuple):
            raise _HostileError("refers to something outside of itself, which data need not")
        self._push(Made(PERSISTENT_ID, args), 72)

    def build(self) -> None:
        state, made = self._pop(), self._top()
        if not isinstance(made, Made) or made.fields or made.state is not None:
            raise _HostileError("changes something that it did not make")
        if isinstance(state, Pairs):
            made.fields = tuple(state)
            self._cost -= 16  # the list goes
        else:
            made.state = state


_STOP = ord(".")
_MEMOIZE = 0x94
_SIZE = "torch.Size"
_DICTIONARIES = frozenset(("collections.OrderedDict", "builtins.dict", "collections.defaultdict"))
# The operations that pickled data need; those for extensions, instances of old classes and buffers elsewhere
# are not among them.
_OPERATIONS: Mapping[int, Callable[[_Machine], object]] = MappingProxyType(
    {
        0x80: _Machine.proto,
        0x95: _Machine.frame,
        ord("("): _Machine.mark,
        ord("0"): lambda m: m._pop(),
        ord("1"): lambda m: m._to_mark(),
        ord("2"): lambda m: m._push(m._top(), 0),
        ord("N"): lambda m: m._push(None, 0),
        0x88: lambda m: m._push(True, 0),
        0x89: lambda m: m._push(False, 0),
        ord("J"): lambda m: m.integer(4),
        ord("K"): _Machine.byte,
        ord("M"): lambda m: m.unsigned(2),
        0x8A: lambda m: m.integer(m._number(1)),
        ord("G"): _Machine.real,
        0x8C: lambda m: m.text(1),
        ord("X"): lambda m: m.text(4),
        0x8D: lambda m: m.text(8),
        ord("C"): lambda m: m.octets(1),
        ord("B"): lambda m: m.octets(4),
        0x8E: lambda m: m.octets(8),
        ord("]"): lambda m: m._push([], 72),
        ord("}"): lambda m: m._push(Pairs(), 72),
        ord(")"): lambda m: m._push((), 0),
        0x8F: lambda m: m._push([], 72),
        ord("a"): _Machine.append,
        ord("e"): _Machine.appends,
        0x90: _Machine.appends,
        ord("s"): _Machine.setitem,
        ord("u"): _Machine.setitems,
        0x91: _Machine.frozenset_to_mark,
        ord("t"): _Machine.tuple_to_mark,
        0x85: lambda m: m.tuple_of(1),
        0x86: lambda m: m.tuple_of(2),
        0x87: lambda m: m.tuple_of(3),
        ord("q"): lambda m: m.put(m._number(1)),
        ord("r"): lambda m: m.put(m._number(4)),
        _MEMOIZE: lambda m: m.put(m._puts),
        ord("h"): _Machine.get_byte,
        ord("j"): lambda m: m.get(m._number(4)),
        ord("c"): _Machine.global_lines,
        0x93: _Machine.global_stack,
        0x81: _Machine.make,
        ord("R"): _Machine.make,
        ord("b"): _Machine.build,
        ord("Q"): _Machine.outside,
    }
)

# Bytes of operand that follow an operation, and bytes of the length of one.
_OPERANDS = MappingProxyType(
    {0x80: 1, 0x95: 8, 0x4A: 4, 0x4B: 1, 0x4D: 2, 0x47: 8, 0x71: 1, 0x72: 4, 0x68: 1, 0x6A: 4}
)
_LENGTHS = MappingProxyType({0x8A: 1, 0x8C: 1, 0x58: 4, 0x8D: 8, 0x43: 1, 0x42: 4, 0x8E: 8})
_GLOBAL = ord("c")
_GETS = MappingProxyType({ord("h"): 1, ord("j"): 4})


def _fetched(data: bytes) -> set[int]:
    """Which numbered values a pickle mentions again.

    Picklers number nearly all values and mention few again: to hold only those is a third of the memory.
    """
    found: set[int] = set()
    at, end = 0, len(data)
    while at < end:
        code = data[at]
        at += 1
        if code in _LENGTHS:
            size = _LENGTHS[code]
            at += size + int.from_bytes(data[at : at + size], "little")
        elif code in _OPERANDS:
            size = _OPERANDS[code]
            if code in _GETS:
                found.add(int.from_bytes(data[at : at + size], "little"))
            at += size
        elif code == _GLOBAL:
            for _ in range(2):
                at = data.find(b"\n", at) + 1 or end
        elif code not in _OPERATIONS:
            break  # the machine refuses it there
    return found
