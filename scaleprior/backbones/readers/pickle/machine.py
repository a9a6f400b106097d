"""A reader of pickles that can run nothing: it follows the instructions itself and has no way to call the file's own.

Python's unpickler imports what a file names and calls it. This one looks names up in a table of stand-ins; for an
object of a class outside the table it keeps what the pickle would hand to that class. It makes numbers, texts,
containers and what the stand-ins return, refuses dicts with two entries of one key, never allocates more for an
argument than the file still holds, and no more for the arguments of all calls than in proportion to the file.
Texts of Python 2 (MSRA's and Caffe2's files) arrive as bytes.
"""

from __future__ import annotations

import codecs
import io
import mmap
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, NoReturn

from scaleprior.backbones.readers.limits import Budget, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.names import TensorRecord
from scaleprior.backbones.readers.pickle.stand_ins import (
    HINT_CODE,
    Instance,
    Named,
    OrderedMapping,
    StandIn,
    called,
    put_entries,
    put_members,
)
from scaleprior.wording import shown

__all__ = ["Machine"]

_BLOB = 1 << 16  # bytes; longer runs of bytes are not read but mapped
_LINE = 4096  # characters of a number or a name written as a line
_NAME = 160  # characters that are kept of a module's and of a class's name
_SIZED = (str, tuple, list, set, dict)
# Members and characters for each byte of the file. torch's pickles ask for 0.1, arrays as texts (protocol 0) for 0.7.
_COPIED, _COPIED_AT_LEAST = 4, 1 << 16


class Machine:
    """One run over one or several pickles that follow each other in a file.

    Args:
        file: read from its current position.
        length: bytes of the whole file.
        known: (module, name) -> what stands for it.
        storage: stands for an object outside the pickle by its description (torch files only).
    """

    def __init__(
        self,
        file: BinaryIO,
        length: int,
        known: Mapping[tuple[str, str], Named],
        limits: Limits,
        *,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        self.file, self.length, self.known, self.limits, self.storage = file, length, known, limits, storage
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self._mapped: mmap.mmap | None = None
        allowed = _COPIED * length + _COPIED_AT_LEAST
        self._arguments = Budget(allowed, "calls for copies of more than {} members, by references to few")

    def load(self) -> Any:
        """The next pickle's object.

        Raises:
            RefusedFileError: a name or an instruction that no weights need, a duplicate, more than the limits.
            EOFError, ValueError, ... : damaged.
        """
        self.stack, self.marks, self.memo = [], [], {}
        read, run = self.file.read, _RUN
        for _ in range(self.limits.pickle_steps):
            code = read(1)
            handler = run.get(code)
            if handler is None:
                if code == pickle.STOP:
                    return self.stack.pop()
                self._refuse(code)
            handler(self)
        raise RefusedFileError("size", f"a pickle of more than {self.limits.pickle_steps:,} instructions")

    def _refuse(self, code: bytes) -> NoReturn:
        if not code:
            raise EOFError("the file ends within a pickle")
        import pickletools  # builds long tables, which only this message needs

        known = pickletools.code2op.get(code.decode("latin1"))  # pyright: ignore[reportAttributeAccessIssue]
        if known is None:
            raise RefusedFileError("damaged", f"{code!r} is no instruction of a pickle")
        raise RefusedFileError("code", f"the pickle instruction {known.name}, which no weights need", hint=HINT_CODE)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count >= _BLOB:
            self._check_rest(count)
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError(f"{count} bytes are claimed, {len(data)} are there")
        return data

    def byte(self) -> int:
        """The next byte: the most frequent argument by far."""
        return self.file.read(1)[0]

    def blob(self, count: int) -> bytes | memoryview:
        """The same; long runs are mapped where they lie in the file, aligned or not."""
        if count < _BLOB or isinstance(self.file, io.BytesIO):
            return self.take(count)
        self._check_rest(count)
        start = self.file.tell()
        if self._mapped is None:
            # A private mapping: what somebody writes into an array stays in memory.
            self._mapped = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)
        data = memoryview(self._mapped)[start : start + count]
        if len(data) != count:
            raise EOFError(f"{count} bytes are claimed, {len(data)} are there")
        self.file.seek(count, 1)
        return data

    def _check_rest(self, count: int) -> None:
        rest = self.length - self.file.tell()
        if count > rest:
            raise RefusedFileError("damaged", f"{count:,} bytes are claimed, {rest:,} are there")

    def line(self) -> bytes:
        """The rest of this line."""
        data = self.file.readline(_LINE)
        if not data.endswith(b"\n"):
            raise EOFError("a line that does not end")
        return data[:-1]

    def push_mark(self) -> None:
        """Begin a run of objects."""
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """The objects since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push_name(self, module: Any, name: Any) -> None:
        """Look a name up; it is not imported, known or not."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedFileError("damaged", f"a name that is a {type(name).__name__} in a {type(module).__name__}")
        found = self.known.get((module, name))
        self.stack.append(Named(f"{module[:_NAME]}.{name[:_NAME]}") if found is None else found)

    def call(self) -> None:
        """What stands for the result of calling what is below the arguments."""
        stack = self.stack
        arguments = stack.pop()
        stack[-1] = self._called(stack[-1], arguments)

    def call_with_keywords(self) -> None:
        """The same, with keyword arguments on top."""
        keywords = self.stack.pop()
        arguments, callee = self.stack.pop(), self.stack.pop()
        made = self._called(callee, arguments) if not keywords else self._called(callee, arguments, keywords)
        self.stack.append(made)

    def _called(self, callee: Any, arguments: Any, *more: Any) -> Any:
        """What stands for the call, which may copy its arguments and what lies directly in them."""
        if isinstance(arguments, tuple):
            self._arguments.spend(len(arguments) + sum(len(part) for part in arguments if isinstance(part, _SIZED)))
            arguments = (*arguments, *more) if more else arguments
        return called(callee, arguments)

    def build(self) -> None:
        """Set an object's state, where a stand-in takes one."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.build(state)
        elif isinstance(target, Instance):
            target.state = state
        elif not isinstance(target, (OrderedMapping, TensorRecord)):  # attributes of a tensor are no weights
            what = f"it sets attributes of a {type(target).__name__}"
            raise RefusedFileError("code", f"{what}, which no weights need", hint=HINT_CODE)

    def put(self, target: Any, items: Sequence[Any]) -> None:
        """Entries of a dict: key, value, key, value ..."""
        if isinstance(target, Instance):
            target.put(items, self.limits)
        else:
            put_entries(target, items, self.limits)

    def extend(self, target: Any, items: Sequence[Any]) -> None:
        """Members of a list or a set."""
        if isinstance(target, (list, Instance)):
            target.extend(items)
        elif isinstance(target, set):
            put_members(target, items)
        else:
            raise RefusedFileError("damaged", "members of something that is not a list")

    def remember(self, number: int) -> None:
        """Keep the top object under a number."""
        if not 0 <= number <= self.limits.pickle_steps:
            raise RefusedFileError("size", f"a pickle that remembers object number {shown(number)}")
        self.memo[number] = self.stack[-1]

    def push_stored(self) -> None:
        """What stands for an object that lies outside the pickle."""
        if self.storage is None:
            raise RefusedFileError("code", "it refers to objects outside the file", hint=HINT_CODE)
        self.stack.append(self.storage(self.stack.pop()))


def _number(text: bytes) -> Any:
    return {b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text.rstrip(b"L"))


def _quoted(machine: Machine) -> bytes:
    data = machine.file.readline()
    text = data.strip()
    if not data.endswith(b"\n") or len(text) < 2 or text[:1] not in b"'\"" or text[:1] != text[-1:]:
        raise ValueError("a text without quotes")
    return codecs.escape_decode(text[1:-1])[0]


def _long(machine: Machine, count: int) -> int:
    if not 0 <= count <= _LINE:
        raise ValueError(f"an integer of {count} bytes")
    return int.from_bytes(machine.take(count), "little", signed=True)


def _size(machine: Machine, form: str) -> int:
    size = struct.unpack(form, machine.take(struct.calcsize(form)))[0]
    if size < 0:
        raise ValueError(f"{size} bytes are claimed")
    return size


def _text(machine: Machine, count: int) -> str:
    return machine.take(count).decode("utf-8", "surrogatepass")


def _tuple(machine: Machine, count: int) -> None:
    stack = machine.stack
    if len(stack) < count:
        raise IndexError("a pickle takes more than it put")
    stack[-count:] = [tuple(stack[-count:])]


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _setitem(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.put(machine.stack[-1], (key, value))


def _setitems(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.put(machine.stack[-1], items)


def _extend(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.extend(machine.stack[-1], items)


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    machine.extend(machine.stack[-1], (item,))


def _dict(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.put(machine.stack[-1], items)


def _frozenset(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(set())
    machine.extend(machine.stack[-1], items)


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.push_name(module, name)


def _instance(machine: Machine) -> None:
    machine.push_name(machine.line().decode(), machine.line().decode())
    named, arguments = machine.stack.pop(), machine.pop_mark()
    machine.stack += [named, tuple(arguments)]
    machine.call()


def _object(machine: Machine) -> None:
    named, *arguments = machine.pop_mark()
    machine.stack += [named, tuple(arguments)]
    machine.call()


def _protocol(machine: Machine) -> None:
    if (protocol := machine.byte()) > 5:
        raise ValueError(f"pickle protocol {protocol}")


def _values() -> dict[bytes, Callable[[Machine], Any]]:
    """Instructions that put one value, which is what the function returns."""
    return {
        pickle.NONE: lambda m: None,
        pickle.NEWTRUE: lambda m: True,
        pickle.NEWFALSE: lambda m: False,
        pickle.INT: lambda m: _number(m.line()),
        pickle.LONG: lambda m: _number(m.line()),
        pickle.FLOAT: lambda m: float(m.line()),
        pickle.BININT: lambda m: int.from_bytes(m.take(4), "little", signed=True),
        pickle.BININT1: lambda m: m.byte(),
        pickle.BININT2: lambda m: int.from_bytes(m.take(2), "little"),
        pickle.LONG1: lambda m: _long(m, m.byte()),
        pickle.LONG4: lambda m: _long(m, _size(m, "<i")),
        pickle.BINFLOAT: lambda m: struct.unpack(">d", m.take(8))[0],
        pickle.STRING: _quoted,
        pickle.BINSTRING: lambda m: m.blob(_size(m, "<i")),
        pickle.SHORT_BINSTRING: lambda m: m.take(m.byte()),
        pickle.BINBYTES: lambda m: m.blob(_size(m, "<I")),
        pickle.SHORT_BINBYTES: lambda m: m.take(m.byte()),
        pickle.BINBYTES8: lambda m: m.blob(_size(m, "<Q")),
        pickle.BYTEARRAY8: lambda m: m.blob(_size(m, "<Q")),
        pickle.UNICODE: lambda m: m.file.readline().rstrip(b"\n").decode("raw-unicode-escape"),
        pickle.BINUNICODE: lambda m: _text(m, _size(m, "<I")),
        pickle.SHORT_BINUNICODE: lambda m: _text(m, m.byte()),
        pickle.BINUNICODE8: lambda m: _text(m, _size(m, "<Q")),
        pickle.EMPTY_TUPLE: lambda m: (),
        pickle.EMPTY_LIST: lambda m: [],
        pickle.EMPTY_DICT: lambda m: {},
        pickle.EMPTY_SET: lambda m: set(),
        pickle.TUPLE: lambda m: tuple(m.pop_mark()),
        pickle.LIST: lambda m: m.pop_mark(),
        pickle.DUP: lambda m: m.stack[-1],
        pickle.GET: lambda m: m.memo[int(m.line())],
        pickle.BINGET: lambda m: m.memo[m.byte()],
        pickle.LONG_BINGET: lambda m: m.memo[int.from_bytes(m.take(4), "little")],
    }


def _pushing(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def run(machine: Machine) -> None:
        made = value(machine)  # first: it may change which list the stack is
        machine.stack.append(made)

    return run


_RUN: dict[bytes, Callable[[Machine], Any]] = {
    **{code: _pushing(value) for code, value in _values().items()},
    pickle.MARK: Machine.push_mark,
    pickle.POP: _pop,
    pickle.POP_MARK: Machine.pop_mark,
    pickle.REDUCE: Machine.call,
    pickle.NEWOBJ: Machine.call,
    pickle.NEWOBJ_EX: Machine.call_with_keywords,
    pickle.INST: _instance,
    pickle.OBJ: _object,
    pickle.BUILD: Machine.build,
    pickle.GLOBAL: lambda m: m.push_name(m.line().decode(), m.line().decode()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.DICT: _dict,
    pickle.SETITEM: _setitem,
    pickle.SETITEMS: _setitems,
    pickle.APPEND: _append,
    pickle.APPENDS: _extend,
    pickle.ADDITEMS: _extend,
    pickle.FROZENSET: _frozenset,
    pickle.TUPLE1: lambda m: _tuple(m, 1),
    pickle.TUPLE2: lambda m: _tuple(m, 2),
    pickle.TUPLE3: lambda m: _tuple(m, 3),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(m.byte()),
    pickle.LONG_BINPUT: lambda m: m.remember(int.from_bytes(m.take(4), "little")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINPERSID: Machine.push_stored,
    pickle.PROTO: _protocol,
    pickle.FRAME: lambda m: m.take(8),
}
"""Instruction -> what to do. Those that are absent (PERSID, EXT*, *_BUFFER) are refused."""
