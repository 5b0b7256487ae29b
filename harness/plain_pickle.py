"""Reads pickles of plain values and records, without calling anything, in time and memory that follow from their size.

Torch writes two of its files as pickles: the index of a checkpoint, and the dumps of its flight recorder. Python's own
reader calls whatever a file names, takes memory for as many bytes as a file promises, and hashes keys that a few bytes
make as large as they like. This one knows the instructions that those files consist of. A name stands for itself, and
what would be a call of it becomes a record of its arguments.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

MOST_STEPS = 2**26
"""Instructions of a file. A checkpoint has about a hundred for each chunk of a tensor."""
MOST_WAITING = 2**20
"""Values that wait to be put into a list, a tuple or a mapping."""
_MOST_INTEGER_BYTES = 33
"""Bytes of a whole number: random states have 128 bits; Python would take ever longer for longer ones."""
_MOST_KEY_LENGTH = 8
"""Values of a tuple that is a key."""
_MOST_KEY = 2**64
"""Whole numbers beyond it are no keys: any number of them may have the same hash."""
_MOST_NAME_BYTES = 1000
PICKLE_START = b"\x80"
"""First byte of every pickle of protocol 2 or later."""
_EMPTY_MAPPING = ("collections", "OrderedDict")

Names = Container[tuple[str, str]]
"""Modules and names that a file may name."""
OUTSIDE = ("", "outside")
"""Name of records that stand for values outside of the file, such as the numbers of tensors."""
Inspect = Callable[["Record"], None]
"""Raises PickleError if a file may not make an object by a name and arguments."""


class PickleError(ValueError):
    """Content that is not such a pickle, or beyond the limits. The text completes "the file …"."""


class NameRefusedError(PickleError):
    """Content that names what it may not."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"names {ascii(name)[1:-1][:120]}, which does not belong there")


@dataclass(frozen=True, slots=True)
class Name:
    """A class, a function or a constant that a file names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        """Return the name with its module."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Record:
    """An object of a file: the name that it was made with, the arguments, and its state."""

    kind: Name
    arguments: tuple[Any, ...]
    state: Any = None


_KEYS = (str, int, float, bool, type(None), Name, Record)
"""Kinds of keys of mappings."""


def read_pickle(
    content: bytes, names: Names = (), inspect: Inspect | None = None, *, most_steps: int = MOST_STEPS
) -> Any:  # noqa: ANN401 (what a file holds)
    """Return the value of a pickle: numbers, text, None, lists, tuples, mappings, names and records.

    Keys of mappings are no collections, but for short tuples; a record is equal only to itself. Values may be shared,
    and a list may contain itself.

    Args:
        content: Protocol 2 or later.
        names: The names that may occur.
        inspect: Called with every record, before it has a state.
        most_steps: Instructions that are followed.

    Raises:
        PickleError: It is damaged, something else, or goes over a limit.
        NameRefusedError: It names something else.
    """
    is_collecting = gc.isenabled()
    gc.disable()  # nothing that is made here can be freed before the end, and looking for it takes most of the time
    try:
        return _Reader(content, names, inspect).value(most_steps)
    finally:
        if is_collecting:
            gc.enable()


class _Reader:
    """The machine: a stack, the places on it where collections begin, and numbered values that occur again."""

    def __init__(self, content: bytes, names: Names, inspect: Inspect | None) -> None:
        self._content, self._names, self._inspect = content, names, inspect
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def value(self, most_steps: int) -> Any:  # noqa: ANN401
        """Return the one value."""
        content = self._content
        for _ in range(most_steps):
            if self._at >= len(content):
                raise PickleError("ends too early")
            code = content[self._at]
            self._at += 1
            if code == _STOP:
                return self._only()
            step = _STEPS.get(code)
            if step is None:
                raise PickleError(f"holds the instruction {code:#04x} at byte {self._at - 1:,}, which none has")
            step(self)
        raise PickleError(f"has more than {most_steps:,} instructions")

    def _only(self) -> Any:  # noqa: ANN401
        if self._marks or len(self._stack) != 1 or self._at != len(self._content):
            raise PickleError("is not one value")
        return self._stack[0]

    def _push(self, value: object) -> None:
        if len(self._stack) >= MOST_WAITING:
            raise PickleError(f"has a collection of more than {MOST_WAITING:,} values")
        self._stack.append(value)

    def _take(self, number: int) -> list[Any]:
        """Take the last values from the stack, not from below the begin of a collection."""
        start = len(self._stack) - number
        if start < (self._marks[-1] if self._marks else 0):
            raise PickleError("takes more values than there are")
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _take_collection(self) -> list[Any]:
        if not self._marks:
            raise PickleError("ends a collection that has no begin")
        return self._take(len(self._stack) - self._marks.pop())

    def _target(self, kind: type) -> Any:  # noqa: ANN401
        """Return the last value, to which something is added."""
        (target,) = self._take(1)
        if type(target) is not kind:
            raise PickleError(f"adds to something that is no {kind.__name__}")
        self._stack.append(target)
        return target

    def _bytes(self, number: int) -> bytes:
        end = self._at + number
        if end > len(self._content):
            raise PickleError("promises more bytes than it has")
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def _number(self, form: struct.Struct) -> Any:  # noqa: ANN401
        return form.unpack(self._bytes(form.size))[0]

    def _line(self) -> str:
        end = self._content.find(b"\n", self._at, self._at + _MOST_NAME_BYTES)
        if end < 0:
            raise PickleError("holds a name without an end")
        line = self._content[self._at : end]
        self._at = end + 1
        return _decoded(line)

    def _remember(self, number: int) -> None:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("takes more values than there are")
        self._memo[number] = self._stack[-1]

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise PickleError("refers to a value that it does not have")
        self._push(self._memo[number])

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("has a name that is no text")
        if (module, name) not in self._names:
            raise NameRefusedError(f"{module[:_MOST_NAME_BYTES]}.{name[:_MOST_NAME_BYTES]}")
        self._push(Name(module, name))

    def _push_outside(self) -> None:
        """Push what stands for a value outside of the file, if such a one may occur."""
        reference = tuple(self._take(1))
        if OUTSIDE not in self._names:
            raise PickleError("refers to something outside of it")
        self._push(Record(Name(*OUTSIDE), reference))

    def _push_record(self) -> None:
        kind, arguments = self._take(2)
        if type(kind) is not Name or type(arguments) is not tuple:
            raise PickleError("makes an object of something that is no name")
        if (kind.module, kind.name) == _EMPTY_MAPPING and not arguments:
            self._push({})
            return
        record = Record(kind, arguments)
        if self._inspect is not None:
            self._inspect(record)
        self._push(record)

    def _build(self) -> None:
        record, state = self._take(2)
        if type(record) is Record and record.state is None:
            record.state = state
        elif type(record) is not dict:  # of an OrderedDict the attributes are left out
            raise PickleError("gives a state to something that has none")
        self._stack.append(record)

    def _append(self) -> None:
        values = self._take(1)
        self._target(list).extend(values)

    def _append_all(self) -> None:
        values = self._take_collection()
        self._target(list).extend(values)

    def _set_item(self) -> None:
        values = self._take(2)
        self._fill(values)

    def _fill(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise PickleError("has a key without a value")
        keys = values[::2]
        if not all(map(_is_key, keys)):
            raise PickleError("has a key that is a collection, or a large number")
        self._target(dict).update(zip(keys, values[1::2], strict=True))

    def _push_integer(self) -> None:
        number = self._number(_BYTE)
        if number > _MOST_INTEGER_BYTES:
            raise PickleError(f"holds a whole number of {number} bytes")
        self._push(int.from_bytes(self._bytes(number), "little", signed=True))

    def _require_protocol(self) -> None:
        if self._at != 1 or not 2 <= self._number(_BYTE) <= 5:
            raise PickleError("is of an unknown protocol")

    def _require_frame(self) -> None:
        if self._number(_U64) > len(self._content) - self._at:
            raise PickleError("promises more bytes than it has")


def _is_key(key: object) -> bool:
    """Return whether a key is hashed at once: a tuple of tuples of tuples may take for ever."""
    if type(key) is tuple:
        return len(key) <= _MOST_KEY_LENGTH and all(type(each) is not tuple and _is_key(each) for each in key)
    return type(key) in _KEYS and not (type(key) is int and abs(key) > _MOST_KEY)


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise PickleError("holds text that is not UTF-8") from None


_BYTE, _U16, _I32, _U32, _U64 = (struct.Struct(form) for form in ("B", "<H", "<i", "<I", "<Q"))
_FLOAT = struct.Struct(">d")
_STOP = ord(".")


def _text(length: struct.Struct) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(_decoded(reader._bytes(reader._number(length))))


def _number(form: struct.Struct) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(reader._number(form))


def _constant(value: object) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(value)


def _tuple(length: int) -> Callable[[_Reader], None]:
    return lambda reader: reader._push(tuple(reader._take(length)))


_STEPS: dict[int, Callable[[_Reader], None]] = {
    0x80: _Reader._require_protocol,
    0x95: _Reader._require_frame,
    ord("N"): _constant(None),
    0x88: _constant(True),  # noqa: FBT003 (a value of the file)
    0x89: _constant(False),  # noqa: FBT003
    ord("J"): _number(_I32),
    ord("K"): _number(_BYTE),
    ord("M"): _number(_U16),
    0x8A: _Reader._push_integer,
    ord("G"): _number(_FLOAT),
    0x8C: _text(_BYTE),
    ord("X"): _text(_U32),
    0x8D: _text(_U64),
    ord("("): lambda reader: reader._marks.append(len(reader._stack)),
    ord(")"): _tuple(0),
    0x85: _tuple(1),
    0x86: _tuple(2),
    0x87: _tuple(3),
    ord("t"): lambda reader: reader._push(tuple(reader._take_collection())),
    ord("]"): lambda reader: reader._push([]),
    ord("a"): _Reader._append,
    ord("e"): _Reader._append_all,
    ord("}"): lambda reader: reader._push({}),
    ord("s"): _Reader._set_item,
    ord("u"): lambda reader: reader._fill(reader._take_collection()),
    ord("q"): lambda reader: reader._remember(reader._number(_BYTE)),
    ord("r"): lambda reader: reader._remember(reader._number(_U32)),
    0x94: lambda reader: reader._remember(len(reader._memo)),
    ord("h"): lambda reader: reader._recall(reader._number(_BYTE)),
    ord("j"): lambda reader: reader._recall(reader._number(_U32)),
    ord("c"): lambda reader: reader._push_name(reader._line(), reader._line()),
    0x93: lambda reader: reader._push_name(*reader._take(2)),
    0x81: _Reader._push_record,
    ord("R"): _Reader._push_record,
    ord("b"): _Reader._build,
    ord("Q"): _Reader._push_outside,
}
"""Effects of the instructions."""
