"""Frozen config dataclasses to JSON and back, and the hash that names a config. Imports no torch.

Every value that is read is checked against the field's type, so that a slip in a hand-written file is one sentence
rather than a failure an hour into a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from fionalm.errors import UserError, choice_error

Config = TypeVar("Config")


def to_plain(config: Any) -> Any:
    """Return dataclasses as dicts, tuples as lists and paths as strings: what JSON holds."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def from_plain(cls: type[Config], values: Any, where: str = "") -> Config:
    """Build `cls` from `to_plain`'s values; absent fields take their defaults.

    Args:
        cls: a dataclass.
        values: a mapping of its fields.
        where: dotted path of `cls` in the whole config, for messages.

    Raises:
        UserError: an unknown field, or a value of another type; names its dotted path.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where or cls.__name__} was {values!r}: expected an object of {cls.__name__}'s fields")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in names:
            raise choice_error(f"field of {cls.__name__}", f"{prefix}{name}", [f"{prefix}{n}" for n in names])
    return cls(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def canonical_json(config: Any) -> str:
    """Return the one JSON text of a config: sorted keys, no spaces."""
    return json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(config: Any) -> str:
    """Return 16 hex digits of the SHA-256 of `canonical_json`: the same in every process and Python version.

    Equal configs have equal hashes: a whole number in a field of floats counts as the float.
    """
    config = from_plain(type(config), to_plain(config))
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:16]


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise choice_error(where, value, map(str, arguments))
        return value
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(pairs))
    elif origin is list and isinstance(value, list | tuple):
        return [_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise UserError(f"{where} was {value!r}: expected {getattr(hint, '__name__', None) if origin is None else hint}")


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """Take the first type that fits; where none does, the error of the type that the value looks most like."""
    if value is None and type(None) in choices:
        return None
    errors = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _convert(choice, value, where)
        except UserError as error:
            # A mapping is meant for a dataclass: its own message names the field inside that is wrong.
            looks_alike = isinstance(value, Mapping) == dataclasses.is_dataclass(choice)
            errors.append((looks_alike, error))
    raise max(errors, key=lambda pair: pair[0])[1]
