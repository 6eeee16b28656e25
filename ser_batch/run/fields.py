"""What ``run.json`` and ``plan.json`` must hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
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
    read_json,
)
from ser_batch.plugins import BUILT_IN
from ser_batch.run.layout import PLAN_ID, TABLES

__all__ = ["FIELDS", "PLAN_FIELDS", "STATES"]

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
    "config.audio.sample_rate_hz": AMOUNT,
    "config.predict.model": TEXT,
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
        lambda value: is_text(value) and "/" not in value and PurePath(value).stem == "metadata",
        "the name of a table in the folder of the run, such as metadata.parquet",
    ),
    "labelled": OBJECT,
    "labelled.run_id": TEXT,
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


def _is_part(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and is_count(value[0])
        and is_count(value[1])
        and is_text(value[2])
        and isinstance(value[3], bool)
    )


def _is_plugin(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(is_text(value.get(key)) for key in ("path", "sha256", "text"))
        and PurePath(value["path"]).name not in ("", "..")
    )


def _is_promise(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(read_json(value), dict)
    except ValueError:
        return False


#: The same of ``plan.json``; all must be there.
PLAN_FIELDS: Mapping[str, Kind] = {
    "version": COUNT,
    "plan_id": Kind(lambda value: isinstance(value, str) and bool(PLAN_ID.fullmatch(value)), "12 hexadecimal digits"),
    "tool_version": TEXT,
    "run": OBJECT,
    "promise": Kind(_is_promise, "text that holds an object of JSON"),
    "versions": Kind(object_of(is_text), "an object of texts"),
    "plugins": OBJECT,
    "plugins.installed": TEXTS,
    "plugins.built_in": Kind(list_of(lambda name: is_text(name) and name in BUILT_IN), "a list of built-in plugins"),
    "plugins.files": Kind(list_of(_is_plugin), "a list of files"),
    "census": OBJECT,
    **{f"census.{name}": COUNT for name in ("found", "hidden_skipped", "unmatched", "system_skipped", "unlisted")},
    "census.first_unlisted": TEXTS,
    "beside": Kind(list_of(lambda name: name in ("metadata.parquet", "files-from.list")), "a list of files of a run"),
    "rows_bytes": COUNT,
    "rows_footer_crc32": COUNT,
    "parts": Kind(list_of(_is_part), "a list of parts"),
    "bundles": Kind(list_of(is_count), "a list of whole numbers"),
}
