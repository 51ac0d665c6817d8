"""Frozen dataclasses as configuration: YAML fills them, an unknown key is an error that names file and key."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], source: str) -> T:
    """Fill the dataclass ``cls`` from ``mapping``; missing keys keep their defaults.

    Nested dataclasses take nested mappings, tuples take lists, ``X | None`` takes null, ``Literal`` its values.
    ``source`` names the file (or parameter set) in errors. Raises ``ValueError`` naming source and key.
    """
    return _fill(cls, mapping, source, "")


def load_yaml(cls: type[T], path: str | Path) -> T:
    """``from_mapping`` of a YAML file. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, expected a YAML file for {cls.__name__}")
    try:
        mapping = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    return from_mapping(cls, {} if mapping is None else mapping, str(path))


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as plain dicts, lists and scalars, ready for JSON or YAML."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def refuse_unread(config: Any, names: Iterable[str], where: str, prefix: str = "") -> None:
    """Raises ``ValueError`` for a field among ``names`` that holds something else than its default.

    where: in which nothing reads these fields, for the sentence; prefix: what stands before their names.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    for name in names:
        if getattr(config, name) != defaults[name]:
            raise ValueError(
                f"{prefix}{name}: got settings that nothing reads {where}, expected none; leave {prefix}{name} out"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _fill(cls: type[T], mapping: Any, source: str, prefix: str) -> T:
    if not isinstance(mapping, Mapping):
        raise ValueError(
            f"{source}: {prefix.rstrip('.') or 'top level'}: got {type(mapping).__name__}, expected keys and values"
        )
    hints = typing.get_type_hints(cls)
    known = [item.name for item in dataclasses.fields(cls) if item.init]  # type: ignore[arg-type]
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise ValueError(f"{source}: unknown key {prefix}{unknown[0]}, expected one of {', '.join(known)}")
    values = {key: _value(hints[key], value, source, prefix + key) for key, value in mapping.items()}
    try:
        return cls(**values)
    except TypeError as error:
        missing = [
            item.name
            for item in dataclasses.fields(cls)  # type: ignore[arg-type]
            if item.name not in values
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ]
        raise ValueError(f"{source}: missing key {prefix}{missing[0] if missing else error}") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _value(hint: Any, value: Any, source: str, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, source, key)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{source}: {key}: got {value!r}, expected one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, source, key)
    if dataclasses.is_dataclass(hint):
        return _fill(typing.cast(type, hint), value, source, key + ".")
    if origin in (dict, Mapping) or typing.get_origin(hint) is not None:
        return value
    return _scalar(hint, value, source, key)


def _tuple(arguments: tuple[Any, ...], value: Any, source: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{source}: {key}: got {value!r}, expected a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_value(arguments[0], item, source, f"{key}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise ValueError(f"{source}: {key}: got {len(value)} values, expected {len(arguments)}")
    return tuple(
        _value(hint, item, source, f"{key}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _scalar(hint: Any, value: Any, source: str, key: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool, dict, list) and isinstance(value, hint):
        return value
    if hint is Any or hint is Path:
        return hint(value) if hint is Path else value
    raise ValueError(f"{source}: {key}: got {value!r}, expected {getattr(hint, '__name__', hint)}")
