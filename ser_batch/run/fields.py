"""What ``run.json`` and a line of the journal must hold; checked when they are read, so that nobody else need do it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["COUNT", "FIELDS", "STATES", "TEXT", "TIME", "Kind", "problem_with"]

#: What a run may be: its scan is at work or was killed; was stopped; ended, but a file found has no row yet; is whole.
STATES = ("running", "interrupted", "incomplete", "complete")

#: Larger whole numbers fit neither a column nor a float.
_LARGEST = 2**63
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value: how it is told, and what to call it."""

    holds: Callable[[Any], bool]
    words: str


def _is_text(value: Any) -> bool:
    """Tell whether a value is text that can be a name of the system: no NUL, no half of a character."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_within_limits(value)


def _is_within_limits(value: float) -> bool:
    # Written so that NaN fails, and that no number of hundreds of digits becomes a float.
    return -_LARGEST < value < _LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_time(value: Any) -> bool:
    """Tell whether a value is a time with its zone, so that two can be compared."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _object_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _is_setting(value: Any) -> bool:
    return isinstance(value, str | int | float) or _list_of(_is_text)(value)


def _is_labels(value: Any) -> bool:
    return _list_of(_is_text)(value) and all(value) and len(set(value)) == len(value)


TEXT = Kind(_is_text, "text")
COUNT = Kind(_is_count, "a whole number from 0")
_AMOUNT = Kind(lambda value: _is_number(value) and value >= 0, "a number from 0")
_AMOUNTS = Kind(_object_of(_AMOUNT.holds), "an object of numbers from 0")
_COUNTS = Kind(_object_of(_is_count), "an object of whole numbers from 0")
_TEXTS = Kind(_list_of(_is_text), "a list of texts")
TIME = Kind(_is_time, "a time with its zone (ISO 8601)")
_OBJECT = Kind(_is_object, "an object")
_OBJECTS = Kind(_list_of(_is_object), "a list of objects")


def _or_null(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.holds(value), f"{kind.words} or null")


#: Field of ``run.json``, with dots for what lies in it -> kind. All but the first may be absent.
FIELDS: Mapping[str, Kind] = {
    "schema_version": Kind(lambda value: _is_count(value) and value > 0, "a whole number from 1"),
    "run_id": TEXT,
    "replaces": TEXT,
    "tool_version": TEXT,
    "created": TIME,
    "updated": TIME,
    "state": Kind(lambda value: value in STATES, f"one of {', '.join(STATES)}"),
    "config": Kind(_object_of(_object_of(_is_setting)), "an object of sections, each an object of settings"),
    "fingerprint": TEXT,
    "settings": _OBJECT,
    "labels": Kind(_is_labels, "a list of distinct names"),
    "model": _OBJECT,
    "model.name": TEXT,
    "model.sha256": TEXT,
    "model.needs": Kind(
        _list_of(lambda need: isinstance(need, list) and len(need) == 2 and _is_text(need[0]) and _is_count(need[1])),
        "a list of [extractor, version]",
    ),
    "model.created": _or_null(TEXT),
    "model.temperature": _or_null(_AMOUNT),
    "model.training": _or_null(_OBJECT),
    "model.training.corpora": _or_null(_OBJECTS),
    "model.training.licences": _or_null(_TEXTS),
    "model.scores": _or_null(_OBJECT),
    "model.scores.uar": _or_null(_AMOUNT),
    "model.scores.uar_interval": Kind(
        lambda value: value is None or _list_of(lambda end: end is None or _is_number(end))(value),
        "a list of numbers, or null",
    ),
    "model.scores.corpora": _or_null(_AMOUNTS),
    "plugins": _OBJECTS,
    "plugin_files": _TEXTS,
    "host": _OBJECT,
    "device": Kind(_object_of(_is_text), "an object of texts"),
    "root": TEXT,
    "inputs": _TEXTS,
    "files_from": TEXT,
    "metadata": _OBJECT,
    "metadata.path": Kind(
        lambda value: _is_text(value) and value not in ("", ".", "..") and "/" not in value,
        "the name of a file in the folder of the run",
    ),
    "counts": _COUNTS,
    "emotions": _COUNTS,
    "failures": _COUNTS,
    "unlisted": _TEXTS,
    "needs_media": _COUNTS,
    "audio_s": _AMOUNT,
    "wall_s": _AMOUNT,
    "stage_s": _AMOUNTS,
    "visit": _OBJECT,
    "visit.begun": TIME,
    "visit.n_found": COUNT,
    "visit.n_files": COUNT,
    "visit.n_commits_before": COUNT,
}


def problem_with(values: Mapping[str, Any], fields: Mapping[str, Kind]) -> str:
    """Say what is wrong with `values`, "" where all is as `fields` has it; fields that are absent are let be."""
    for name, kind in fields.items():
        *outer, last = name.split(".")
        place: Any = values
        for key in outer:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, Mapping) and last in place and not kind.holds(place[last]):
            return f"{name} must be {kind.words}, not {_shown(place[last])}"
    return next(_insane(values, ""), "")


def _insane(value: Any, name: str, depth: int = 0) -> Iterator[str]:
    """Find what no reader could do anything with, wherever it stands."""
    if depth > _DEEPEST:
        yield f"{name.split('.')[1]} is nested too deeply"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not _is_text(key):
                yield f"{_shown(key)} is no name of a field"
            yield from _insane(item, f"{name}.{key}", depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _insane(item, name, depth + 1)
    elif isinstance(value, str):
        if not _is_text(value):
            yield f"{name[1:]} holds text that is no text: {_shown(value)}"
    elif isinstance(value, int | float) and not _is_within_limits(value):
        yield f"{name[1:]} holds the number {_shown(value)}, which is beyond all limits"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
