"""Frozen dataclasses from TOML tables; unknown keys, missing keys and wrong types are errors that say where."""

import tomllib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import ConfigError


def load[T](cls: type[T], path: Path, what: str) -> T:
    """Read `path`, `what` for messages ("rig file"). Raises ConfigError naming the file, the key and what is allowed."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{what} {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} is not TOML: {error}") from None
    return _build(cls, data, where=str(path))


def _build(cls: type, data: Any, where: str) -> Any:
    """Dataclass from nested dicts."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a table, got {data!r}")
    hints = get_type_hints(cls)
    unknown = set(data) - {f.name for f in fields(cls)}
    if unknown:
        valid = ", ".join(f.name for f in fields(cls))
        raise ConfigError(f"{where}: unknown key {', '.join(sorted(unknown))}; valid keys: {valid}")
    missing = [f.name for f in fields(cls) if f.name not in data and f.default is f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{where}: missing key {', '.join(missing)}")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is UnionType:
        return _convert_to_one(get_args(hint), value, where)
    if get_origin(hint) is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, get_args(hint)))}, got {value!r}")
        return value
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and type(value) is int:  # not bool, which is an int, too
        return float(value)
    if hint is Path and type(value) is str:
        return Path(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _convert_to_one(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """TOML has no None: a key that is not there is one. Of several types the first that fits counts."""
    possible = [hint for hint in hints if hint is not NoneType]
    for hint in possible[:-1]:
        try:
            return _convert(hint, value, where)
        except ConfigError:
            pass
    return _convert(possible[-1], value, where)
