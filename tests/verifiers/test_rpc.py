"""The codec between tests and program: exact for plain data, safe for any bytes, and calls over real pipes."""

from __future__ import annotations

import collections
import enum
import math
import os
import threading
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fionalm.verifiers.rpc import GoneError, Peer, Remote, dump, load, read_frame, write_frame

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.fractions(),
    st.decimals(allow_nan=False),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9)),
    st.sampled_from([int, str, ValueError, object]),
)
HASHABLE = ATOMS | st.tuples(ATOMS, ATOMS) | st.frozensets(st.integers(), max_size=3)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_plain_data_comes_back_the_same(value: Any) -> None:
    back = load(dump(value))
    assert back == value
    assert type(back) is type(value)


@given(st.lists(st.integers()))
def test_lists_of_numbers(value: list[int]) -> None:
    assert load(dump(value)) == value


def test_extremes() -> None:
    for value in (10**10_000, -(2**63), math.inf, -math.inf, "\ud800", [True, 1, 1.0], {1: [{}], (): b""}, set()):
        back = load(dump(value))
        assert back == value
        assert type(back) is type(value)
    assert repr(load(dump([True, 1, 1.0, -0.0]))) == "[True, 1, 1.0, -0.0]"
    assert math.isnan(load(dump(math.nan)))


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"l", b"d", b"s", b"i", b"3", b";", b"-", b"h", b"n"])).map(b"".join)
)
def test_any_bytes_are_decoded_to_plain_data_or_refused(data: bytes) -> None:
    try:
        value = load(data)
    except ValueError:
        return
    assert load(dump(value)) == value or value != value or "nan" in repr(value)


@given(VALUES, st.data())
def test_cut_messages_are_refused(value: Any, data: st.DataObject) -> None:
    message = dump(value)
    with pytest.raises(ValueError):
        load(message[: data.draw(st.integers(0, len(message) - 1))])


def test_subclasses_travel_as_what_they_are_built_on() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    class Color(enum.IntEnum):
        RED = 4

    point = collections.namedtuple("point", "x y")(1, 2)
    counter = collections.Counter("aab")
    back = load(
        dump([Liar(7), Color.RED, point, counter, collections.OrderedDict(a=1), collections.deque([1])], lambda _: 0),
        str,
    )
    assert back == [7, 4, (1, 2), {"a": 2, "b": 1}, {"a": 1}, "0"]
    assert [type(item) for item in back] == [int, int, tuple, dict, dict, str]
    assert load(dump([Decimal("1.50"), Fraction(1, 3)])) == [Decimal("1.50"), Fraction(1, 3)]


def test_only_builtin_types_are_looked_up() -> None:
    for name in ("eval", "open", "nothing", "__import__"):
        with pytest.raises(ValueError):
            load(b"n" + dump(name))


PROGRAM = """
class Missing(KeyError): pass
class Worse(Missing): pass
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    def moved(self, by): return Point(self.x + by)
class Always:
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __lt__(self, other): return True
    def __contains__(self, item): return True
    def __iter__(self): return iter([1])
    def __len__(self): return 3
def fail(kind): raise {"worse": Worse, "value": ValueError, "exit": SystemExit, "unicode": UnicodeError}[kind]("why")
def apply(function, *values): return [function(value) for value in values]
def sort(values): values.sort()
def empty(table): table.clear(); return 1
def count(n):
    for i in range(n): yield i
def always(): return Always()
number = 3
"""


@pytest.fixture
def peer() -> Iterator[Peer]:
    to_program, from_program = os.pipe(), os.pipe()
    theirs = Peer(to_program[0], from_program[1], {"__name__": "program"})

    def serve() -> None:
        with pytest.raises(GoneError):
            theirs.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    ours = Peer(from_program[0], to_program[1])
    ours.request("load", PROGRAM)
    yield ours
    os.close(to_program[1])
    thread.join()
    for descriptor in (to_program[0], *from_program):
        os.close(descriptor)


def get(peer: Peer, name: str) -> Any:
    return peer.request("resolve", name)


def test_calls_change_arguments_in_place(peer: Peer) -> None:
    values, table = [3, 1, 2], {1: 2}
    assert get(peer, "sort")(values) is None
    assert values == [1, 2, 3]
    assert get(peer, "empty")(table) == 1
    assert table == {}


def test_the_program_may_call_what_it_was_given_and_nothing_else(peer: Peer) -> None:
    assert get(peer, "apply")(lambda value: value * 2, 1, 2) == [2, 4]
    peer.request("load", "def look(function): return function.__globals__")
    with pytest.raises(KeyError):
        get(peer, "look")(lambda: None)
    with pytest.raises(TypeError, match="cannot pass a object"):
        get(peer, "apply")(object())


def test_exceptions_are_this_sides_own(peer: Peer) -> None:
    fail = get(peer, "fail")
    kind, names = peer.request("describe", "Missing")
    assert kind == "exception"
    with pytest.raises(peer.exception_class(names)):
        fail("worse")
    with pytest.raises(KeyError):
        fail("worse")
    with pytest.raises(ValueError, match="why"):
        fail("value")
    with pytest.raises(RuntimeError):
        fail("exit")
    with pytest.raises(Exception, match="why"):
        fail("unicode")


def test_objects_stay_where_they_are(peer: Peer) -> None:
    point = get(peer, "Point")(1)
    assert type(point) is Remote
    assert point.x == 1
    assert point.moved(2).x == 3
    assert point.moved(2) == get(peer, "Point")(3)
    assert point != get(peer, "Point")(3)
    point.x = 5
    assert point.x == 5
    assert list(get(peer, "count")(3)) == [0, 1, 2]
    assert peer.request("describe", "number") == ("value", 3)
    assert peer.request("describe", "nowhere") == ("nothing", None)


def test_an_object_that_equals_everything_equals_no_data(peer: Peer) -> None:
    always = get(peer, "always")()
    assert always != 3
    assert not always == [1]  # noqa: SIM201
    assert always not in [1, 2]
    assert 7 not in always
    for operation in (
        lambda: always - 3,
        lambda: always < 3,
        lambda: abs(always),
        lambda: 3 - always,
        lambda: float(always),
    ):
        with pytest.raises(TypeError):
            operation()


def test_frames() -> None:
    readable, writable = os.pipe()
    write_frame(writable, b"abc")
    assert read_frame(readable) == b"abc"
    os.write(writable, b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="a message of"):
        read_frame(readable)
    os.close(writable)
    with pytest.raises(EOFError):
        read_frame(readable)
    os.close(readable)
