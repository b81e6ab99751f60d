"""How tests and program talk inside a sandbox: a codec for plain data, and calls in both directions.

The codec rebuilds nothing but plain data (numbers, strings, bytes, lists, tuples, sets, dicts and the like), whatever
bytes it is given: a program's answer cannot bring an object of its own into the tests' process, such as one that
equals everything. Other objects stay where they are; the other side gets a `Remote`, which can be called, indexed and
asked for attributes, but neither compared with data nor calculated with: its answers would be the program's claims.
"""

from __future__ import annotations

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LONGEST_FRAME = 64 << 20
SEQUENCES = {"l": list, "t": tuple, "e": set, "z": frozenset}
TAGS: dict[type, str] = {kind: tag for tag, kind in SEQUENCES.items()}
PLAIN = (str, bytes, bytearray, int, float, complex, list, tuple, set, frozenset, dict)


def dump(value: Any, export: Callable[[Any], int] | None = None) -> bytes:
    """Encode plain data; other objects become handles through `export`, or raise TypeError without it."""
    parts: list[bytes] = []
    _dump(value, parts, export)
    return b"".join(parts)


def _dump(value: Any, parts: list[bytes], export: Callable[[Any], int] | None) -> None:
    kind = type(value)
    if value is None or value is True or value is False:
        parts.append(b"N" if value is None else b"T" if value else b"F")
    elif kind is int:
        parts.append(b"i%x;" % value if value >= 0 else b"i-%x;" % -value)
    elif kind is float:
        parts.append(b"f%s;" % value.hex().encode())
    elif kind is str or kind is bytes or kind is bytearray:
        data = value.encode("utf-8", "surrogatepass") if kind is str else bytes(value)
        parts.append(b"%s%d;" % (b"s" if kind is str else b"b" if kind is bytes else b"a", len(data)))
        parts.append(data)
    elif kind is list and value and all(type(item) is int for item in value):
        data = " ".join([f"{item:x}" for item in value]).encode()
        parts.append(b"I%d;" % len(data))
        parts.append(data)
    elif kind in TAGS:
        parts.append(b"%s%d;" % (TAGS[kind].encode(), len(value)))
        for item in value:
            _dump(item, parts, export)
    elif kind is dict:
        parts.append(b"d%d;" % len(value))
        for key, item in value.items():
            _dump(key, parts, export)
            _dump(item, parts, export)
    elif kind is complex:
        parts.append(b"c%s,%s;" % (value.real.hex().encode(), value.imag.hex().encode()))
    elif kind is range:
        parts.append(b"r")
        for item in (value.start, value.stop, value.step):
            _dump(item, parts, export)
    elif kind is type and value.__module__ == "builtins":
        parts.append(b"n")
        _dump(value.__name__, parts, export)
    elif kind is Remote:
        parts.append(b"o%d;" % object.__getattribute__(value, "_id"))
    elif kind.__name__ in ("Decimal", "Fraction") and kind.__module__ in ("decimal", "_pydecimal", "fractions"):
        parts.append(b"q" if kind.__name__ == "Decimal" else b"Q")
        _dump(str(value), parts, export)
    else:
        for base in PLAIN:  # subclasses, such as a Counter or a named tuple, travel as what they are built on
            if isinstance(value, base):
                return _dump(_plain(base, value), parts, export)
        if export is None:
            raise TypeError(f"cannot pass a {kind.__name__} to the program")
        parts.append(b"h%d;" % export(value))


def _plain(base: type, value: Any) -> Any:
    if base is dict:
        return {key: dict.__getitem__(value, key) for key in dict.__iter__(value)}
    if base is str:
        return str.__str__(value)
    if base is int:
        return int.__add__(value, 0)
    if base is float:
        return float.__add__(value, 0.0)
    return base(base.__iter__(value)) if hasattr(base, "__iter__") else complex(value.real, value.imag)


def load(data: bytes, remote: Callable[[int], Any] | None = None, local: Callable[[int], Any] | None = None) -> Any:
    """Decode data.

    Args:
        data: what `dump` returned there, or anything else.
        remote: makes the stand-in for a handle of theirs.
        local: returns the object of a handle of ours.

    Raises:
        ValueError: it is no such data.
    """
    try:
        value, end = _load(data, 0, remote, local)
    except (IndexError, TypeError, OverflowError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"no message: {error}") from None
    if end != len(data):
        raise ValueError("no message: bytes are left over")
    return value


def _load(data: bytes, at: int, remote: Any, local: Any) -> tuple[Any, int]:
    tag = chr(data[at])
    at += 1
    if tag in "NTF":
        return (None if tag == "N" else tag == "T"), at
    if tag == "r":
        ends = []
        for _ in range(3):
            item, at = _load(data, at, remote, local)
            ends.append(item)
        return range(*ends), at
    if tag in "qQ":
        text, at = _load(data, at, remote, local)
        if tag == "q":
            from decimal import Decimal as Exact
        else:
            from fractions import Fraction as Exact
        return Exact(text), at
    if tag == "n":
        name, at = _load(data, at, remote, local)
        kind = getattr(sys.modules["builtins"], name)
        if type(kind) is not type:
            raise ValueError("no message: no builtin type")
        return kind, at
    end = data.index(b";", at)
    head, at = data[at:end].decode("ascii"), end + 1
    if tag == "i":
        return int(head, 16), at
    if tag == "f":
        return float.fromhex(head), at
    if tag == "c":
        real, _, imaginary = head.partition(",")
        return complex(float.fromhex(real), float.fromhex(imaginary)), at
    count = int(head)
    if count < 0:
        raise ValueError("no message: a negative count")
    if tag == "h" and remote is not None:
        return remote(count), at
    if tag == "o" and local is not None:
        return local(count), at
    if count > len(data) - at:
        raise ValueError("no message: it is cut short")
    if tag in "sbaI":
        raw = data[at : at + count]
        if tag == "I":
            return [int(item, 16) for item in raw.decode("ascii").split()], at + count
        value = raw.decode("utf-8", "surrogatepass") if tag == "s" else raw if tag == "b" else bytearray(raw)
        return value, at + count
    if tag == "d":
        result: dict[Any, Any] = {}
        for _ in range(count):
            key, at = _load(data, at, remote, local)
            result[key], at = _load(data, at, remote, local)
        return result, at
    items = []
    for _ in range(count):
        item, at = _load(data, at, remote, local)
        items.append(item)
    return SEQUENCES[tag](items), at


def read_frame(descriptor: int) -> bytes:
    """Read four bytes of length, then as many bytes; EOFError where the other end closed."""
    size = int.from_bytes(_read(descriptor, 4), "little")
    if size > LONGEST_FRAME:
        raise ValueError(f"a message of {size} bytes: over {LONGEST_FRAME}")
    return _read(descriptor, size)


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size:
        part = posix.read(descriptor, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_frame(descriptor: int, data: bytes) -> None:
    """Write what `read_frame` reads."""
    data = len(data).to_bytes(4, "little") + data
    try:
        while data:
            data = data[posix.write(descriptor, data) :]
    except BrokenPipeError:
        raise EOFError from None


class GoneError(BaseException):
    """The other end is closed, or sends what is no message. No test's `except Exception` takes it for an answer."""


class Peer:
    """One end of the pipes between tests and program.

    The tests' end asks and answers nothing but calls of functions that the tests passed as arguments. The program's
    end, which has a `namespace`, answers everything, and calls `settle` before each answer.
    """

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        namespace: dict[str, Any] | None = None,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self.incoming, self.outgoing, self.namespace, self.settle = incoming, outgoing, namespace, settle
        self.objects: list[Any] = []
        self.classes: dict[tuple[str, ...], type] = {}
        self.raised: BaseException | None = None
        self.actions: dict[str, Callable[..., Any]] = {"callback": self._call_back}
        if namespace is not None:
            self.actions = {
                "load": self._load,
                "describe": self._describe,
                "resolve": self._resolve,
                "call": self._call,
                "get": lambda target, name: getattr(self.objects[target], name),
                "set": lambda target, name, value: setattr(self.objects[target], name, value),
                "do": lambda target, name, *values: SPECIAL[name](self.objects[target], *values),
            }

    def request(self, kind: str, *values: Any) -> Any:
        """Ask the other end; raise what it raised, as an exception of this end's own."""
        self._send((kind, *values))
        while True:
            message = self._receive()
            if message[0] == "return":
                return message[1]
            if message[0] == "raise":
                self.raised = self._exception(*message[1:])
                raise self.raised
            self._answer(message)

    def serve(self) -> None:
        """Answer requests until the other end closes."""
        while True:
            self._answer(self._receive())

    def call(self, target: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call the other end's object. Changes that a program makes to lists, dicts and sets are made here too."""
        if self.namespace is not None:
            return self.request("callback", target, arguments, keywords)
        result, changed = self.request("call", target, arguments, keywords)
        for old, new in zip(arguments, changed or (), strict=False):
            if type(old) is type(new) and type(old) in (list, bytearray):
                old[:] = new
            elif type(old) is type(new) and type(old) in (dict, set):
                old.clear()
                old.update(new)
        return result

    def exception_class(self, names: tuple[str, ...]) -> type[Exception]:
        """Return this end's class for a line of exception classes, the last of them a builtin one."""
        kind = getattr(sys.modules["builtins"], names[-1], None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            # SystemExit and the like: the program's end must not end the tests.
            kind = self.classes.setdefault(names[-1:], type(names[-1], (RuntimeError,), {}))
        for start in range(len(names) - 2, -1, -1):
            kind = self.classes.setdefault(names[start:], type(names[start], (kind,), {}))
        return kind

    def _exception(self, names: tuple[str, ...], text: str) -> BaseException:
        try:
            return self.exception_class(names)(text)
        except TypeError:  # such as UnicodeDecodeError, which wants five arguments
            return RuntimeError(f"{names[0]}: {text}")

    def _answer(self, message: tuple[Any, ...]) -> None:
        try:
            result = self.actions[message[0]](*message[1:])
            self.settle()
            self._send(("return", result))
        except GoneError:
            raise
        except BaseException as error:
            self.settle()
            try:
                text = str(error)
            except BaseException:
                text = ""
            self._send(("raise", _names(type(error)), text))

    def _load(self, program: str) -> None:
        exec(compile(program, "<program>", "exec"), self.namespace)

    def _call(self, target: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, Any]:
        mutable = any(type(item) in (list, dict, set, bytearray) for item in arguments)
        before = dump(arguments, self._export) if mutable else b""
        result = self.objects[target](*arguments, **keywords)
        return result, arguments if mutable and dump(arguments, self._export) != before else None

    def _call_back(self, target: int, arguments: Any, keywords: Any) -> Any:
        if type(arguments) is not tuple or type(keywords) is not dict:
            raise TypeError("no call")
        return self.objects[target](*arguments, **keywords)

    def _describe(self, name: str) -> tuple[str, Any]:
        try:
            value = self._resolve(name)
        except NameError:
            return "nothing", None
        if type(value) is type(sys):
            return "module", value.__name__
        if isinstance(value, type) and issubclass(value, BaseException):
            return "exception", _names(value)
        return "value", value

    def _resolve(self, name: str) -> Any:
        namespace = self.namespace or {}
        if name in namespace:
            return namespace[name]
        if "Solution" in namespace and hasattr(namespace["Solution"], name):  # as competition sites want it
            return getattr(namespace["Solution"](), name)
        raise NameError(f"the program defines no {name}")

    def _export(self, value: Any) -> int:
        if self.namespace is None and not callable(value):
            raise TypeError(f"cannot pass a {type(value).__name__} to the program")
        for index, known in enumerate(self.objects):
            if known is value:
                return index
        self.objects.append(value)
        return len(self.objects) - 1

    def _send(self, message: tuple[Any, ...]) -> None:
        data = dump(message, self._export)
        try:
            write_frame(self.outgoing, data)
        except EOFError:
            raise GoneError("the pipe is closed") from None

    def _receive(self) -> tuple[Any, ...]:
        try:
            message = load(read_frame(self.incoming), lambda index: Remote(self, index), self.objects.__getitem__)
        except (EOFError, ValueError, RecursionError) as error:
            raise GoneError(str(error) or "the pipe is closed") from None
        if type(message) is not tuple or not message:
            raise GoneError("no message: no tuple")
        return message


def _names(kind: type) -> tuple[str, ...]:
    names = [base.__name__ for base in kind.__mro__]
    builtin = next(index for index, base in enumerate(kind.__mro__) if base.__module__ == "builtins")
    return tuple(names[: builtin + 1])


class Remote:
    """An object of the other process."""

    def __init__(self, peer: Peer, index: int) -> None:
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_id", index)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it over there."""
        return self._peer.call(self._id, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        return self._peer.request("get", self._id, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.request("set", self._id, name, value)

    def __len__(self) -> int:
        return self._peer.request("do", self._id, "len")

    def __iter__(self) -> Any:
        return self._peer.request("do", self._id, "iter")

    def __next__(self) -> Any:
        return self._peer.request("do", self._id, "next")

    def __getitem__(self, key: Any) -> Any:
        return self._peer.request("do", self._id, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._peer.request("do", self._id, "set item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._peer.request("do", self._id, "delete item", key)

    def __contains__(self, item: Any) -> bool:
        return any(own == item for own in self)

    def __bool__(self) -> bool:
        return self._peer.request("do", self._id, "bool") is True

    def __str__(self) -> str:
        return self._peer.request("do", self._id, "str")

    def __repr__(self) -> str:
        return self._peer.request("do", self._id, "repr")

    def __enter__(self) -> Any:
        return self._peer.request("do", self._id, "enter")

    def __exit__(self, *exception: object) -> Any:
        return self._peer.request("do", self._id, "exit")

    def __eq__(self, other: object) -> bool:
        """Objects of the program are compared by the program; none equals plain data."""
        return type(other) is Remote and self._peer.request("do", self._id, "eq", other) is True

    def __hash__(self) -> int:
        return hash(("remote", self._id))


SPECIAL: dict[str, Callable[..., Any]] = {
    "len": len,
    "iter": iter,
    "next": next,
    "item": lambda value, key: value[key],
    "set item": lambda value, key, item: value.__setitem__(key, item),
    "delete item": lambda value, key: value.__delitem__(key),
    "enter": lambda value: value.__enter__(),
    "exit": lambda value: value.__exit__(None, None, None),
    "bool": bool,
    "str": str,
    "repr": repr,
    "eq": lambda one, other: bool(one == other),
}
