"""Kinds of values in JSON that is read from disk: checked when it is read, so that nobody who uses it need do it again.

What was written by this package may have been edited, cut short, or written by somebody who wants to see what happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = [
    "AMOUNT",
    "AMOUNTS",
    "CARD",
    "COUNT",
    "COUNTS",
    "OBJECT",
    "OBJECTS",
    "TEXT",
    "TEXTS",
    "TIME",
    "Kind",
    "is_count",
    "is_number",
    "is_text",
    "list_of",
    "object_of",
    "or_null",
    "problem_with",
    "read_json",
    "shown",
]

#: Larger whole numbers fit neither a column nor a float.
_LARGEST = 2**63
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: how it is told, and what to call it."""

    holds: Callable[[Any], bool]
    words: str


def read_json(data: bytes | str) -> Any:
    """Return what a JSON document holds: text that can be text, finite numbers that fit a column, no key twice.

    Raises
    ------
    ValueError
        It is none, or holds what no reader could do anything with; the message says where.
    """
    try:
        value = json.loads(data, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if problem := next(_impossible(value, ""), ""):
        raise ValueError(problem)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return values


def _impossible(value: Any, name: str, depth: int = 0) -> Iterator[str]:
    """Find what no reader could do anything with, wherever it stands."""
    where = name.removeprefix(".") or "it"
    if depth > _DEEPEST:
        yield f"{where.split('.')[0]} is nested too deeply"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not is_text(key):
                yield f"{shown(key)} is no name of a field"
            yield from _impossible(item, f"{name}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _impossible(item, name, depth + 1)
    elif isinstance(value, str):
        if not is_text(value):
            yield f"{where} holds text that is no text: {shown(value)}"
    elif isinstance(value, int | float) and not _is_within_limits(value):
        yield f"{where} holds the number {shown(value)}, which is beyond all limits"


def is_text(value: Any) -> bool:
    """Tell whether a value is text that can be a name of the system: no NUL, no half of a character."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number of a size that anything here could have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_within_limits(value)


def _is_within_limits(value: float) -> bool:
    # Written so that NaN fails, and that no number of hundreds of digits becomes a float.
    return -_LARGEST < value < _LARGEST


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_time(value: Any) -> bool:
    """Tell whether a value is a time with its zone, so that two can be compared."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return what tells a list of such values."""
    return lambda value: isinstance(value, list) and all(map(holds, value))


def object_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return what tells an object of such values."""
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def or_null(kind: Kind) -> Kind:
    """Return the kind that may also be null."""
    return Kind(lambda value: value is None or kind.holds(value), f"{kind.words} or null")


TEXT = Kind(is_text, "text")
TEXTS = Kind(list_of(is_text), "a list of texts")
COUNT = Kind(is_count, "a whole number from 0")
COUNTS = Kind(object_of(is_count), "an object of whole numbers from 0")
AMOUNT = Kind(lambda value: is_number(value) and value >= 0, "a number from 0")
AMOUNTS = Kind(object_of(AMOUNT.holds), "an object of numbers from 0")
TIME = Kind(_is_time, "a time with its zone (ISO 8601)")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
OBJECTS = Kind(list_of(OBJECT.holds), "a list of objects")

_COUNTS_IN_ROWS = list_of(list_of(is_count))

#: What the card of a model may say, in its file and in ``run.json`` of the runs made with it.
CARD: Mapping[str, Kind] = {
    "created": or_null(TEXT),
    "temperature": or_null(AMOUNT),
    "training": or_null(OBJECT),
    "training.corpora": or_null(OBJECTS),
    "training.licences": or_null(TEXTS),
    "scores": or_null(OBJECT),
    "scores.uar": or_null(AMOUNT),
    "scores.chance": or_null(AMOUNT),
    "scores.uar_interval": Kind(
        lambda value: (
            value is None or (list_of(lambda end: end is None or is_number(end))(value) and len(value) in (0, 2))
        ),
        "two numbers, or null",
    ),
    "scores.corpora": or_null(AMOUNTS),
    "scores.confusion": Kind(
        lambda value: value is None or (_COUNTS_IN_ROWS(value) and all(len(row) == len(value) for row in value)),
        "as many rows as columns, of whole numbers from 0, or null",
    ),
}


def problem_with(values: Mapping[str, Any], fields: Mapping[str, Kind], needed: Collection[str] = ()) -> str:
    """Say what is wrong with `values`, "" where all is as `fields` has it; fields not `needed` may be absent.

    Parameters
    ----------
    values : mapping
        An object, as `read_json` returns it.
    fields : mapping
        Name, with dots for what lies in it -> kind.
    needed : collection of str
        Out of `fields`.
    """
    missing = ""
    for name, kind in fields.items():
        *outer, last = name.split(".")
        place: Any = values
        for key in outer:
            place = place.get(key) if isinstance(place, dict) else None
        if not isinstance(place, Mapping) or last not in place:
            if name in needed and not missing:
                missing = f"{name} is missing"
        elif not kind.holds(place[last]):
            return f"{name} must be {kind.words}, not {shown(place[last])}"
    return missing


def shown(value: Any) -> str:
    """Return a value as JSON, cut short."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
