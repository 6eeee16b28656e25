"""What ``run.json`` must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ser_batch.kinds import (
    AMOUNT,
    AMOUNTS,
    CARD,
    COUNT,
    COUNTS,
    OBJECT,
    OBJECTS,
    TEXT,
    TEXTS,
    TIME,
    Kind,
    is_count,
    is_text,
    list_of,
    object_of,
)
from ser_batch.run.layout import TABLES

__all__ = ["FIELDS", "STATES"]

#: What a run may be: its scan is at work or was killed; was stopped; ended, but a file found has no row yet; is whole.
STATES = ("running", "interrupted", "incomplete", "complete")


def _is_setting(value: Any) -> bool:
    return isinstance(value, str | int | float) or TEXTS.holds(value)


def _is_labels(value: Any) -> bool:
    return TEXTS.holds(value) and all(value) and len(set(value)) == len(value)


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item in TABLES for item in value)


#: Field, with dots for what lies in it -> kind. All but the first may be absent.
FIELDS: Mapping[str, Kind] = {
    "schema_version": Kind(lambda value: is_count(value) and value > 0, "a whole number from 1"),
    "run_id": TEXT,
    "replaces": TEXT,
    "tool_version": TEXT,
    "created": TIME,
    "updated": TIME,
    "state": Kind(lambda value: value in STATES, f"one of {', '.join(STATES)}"),
    "config": Kind(object_of(object_of(_is_setting)), "an object of sections, each an object of settings"),
    "config.predict.abstain": AMOUNT,
    "config.predict.labels": TEXTS,
    "fingerprint": TEXT,
    "settings": OBJECT,
    "tables": Kind(_are_tables, f"a list of tables: {', '.join(TABLES)}"),
    "segments": OBJECT,
    "segments.note": TEXT,
    "embeddings": OBJECT,
    "embeddings.n_numbers": COUNT,
    "embeddings.note": TEXT,
    "labels": Kind(_is_labels, "a list of distinct names"),
    "model": OBJECT,
    "model.name": TEXT,
    "model.sha256": TEXT,
    "model.listening_sha256": TEXT,
    "model.needs": Kind(
        list_of(lambda need: isinstance(need, list) and len(need) == 2 and is_text(need[0]) and is_count(need[1])),
        "a list of [extractor, version]",
    ),
    **{f"model.{name}": kind for name, kind in CARD.items()},
    "plugins": OBJECTS,
    "plugin_files": TEXTS,
    "host": OBJECT,
    "device": Kind(object_of(is_text), "an object of texts"),
    "root": TEXT,
    "inputs": TEXTS,
    "files_from": TEXT,
    "metadata": OBJECT,
    "metadata.path": Kind(
        lambda value: is_text(value) and value not in ("", ".", "..") and "/" not in value,
        "the name of a file in the folder of the run",
    ),
    "counts": COUNTS,
    "emotions": COUNTS,
    "failures": COUNTS,
    "unlisted": TEXTS,
    "needs_media": COUNTS,
    "audio_s": AMOUNT,
    "shard_size": COUNT,
    "wall_s": AMOUNT,
    "stage_s": AMOUNTS,
    "visit": OBJECT,
    "visit.begun": TIME,
    "visit.n_found": COUNT,
    "visit.n_files": COUNT,
    "visit.n_commits_before": COUNT,
}
