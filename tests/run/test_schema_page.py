"""docs/results-schema.md describes every column of a run, in order, with its type and its null rule."""

from __future__ import annotations

import re
from functools import partial

import pyarrow as pa
import pytest
from repository import REPOSITORY
from synthetic_run import LABELS

from ser_batch.config import Config
from ser_batch.hooks import register_extractors
from ser_batch.plugins import PluginRecipe
from ser_batch.records import FeatureSpec, Status
from ser_batch.run.schema import (
    METADATA_KEY,
    SCHEMA_VERSION,
    TIMING_COLUMNS,
    files_schema,
    segments_schema,
    windows_schema,
)

PAGE = (REPOSITORY / "docs/results-schema.md").read_text(encoding="utf-8")

#: Stand for as many columns as the model has labels, and the extractors have features.
PROBABILITIES, FEATURES = "p_<emotion>", "<extractor>__<name>_<unit>"


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    found = re.findall(r"^\| `(.+?)` \| (.+) \|$", section(heading), re.MULTILINE)
    return [[name, *rest.split(" | ")] for name, rest in found]


def built_in_specs() -> tuple[FeatureSpec, ...]:
    extractors = register_extractors(PluginRecipe(entry_points=()).build(), Config())
    return tuple(extractor.spec for _, extractor in extractors.values())


def type_name(kind: pa.DataType) -> str:
    return "enum" if pa.types.is_dictionary(kind) else str(kind)


@pytest.mark.parametrize(
    ("heading", "make"),
    [
        ("files", files_schema),
        ("windows", windows_schema),
        ("segments", partial(segments_schema, n_embedding=128)),
    ],
)
def test_every_column_is_described_in_order_with_type_and_null_rule(heading: str, make: object) -> None:
    specs = built_in_specs()
    features = [column for spec in specs for column in spec.columns]
    expected: list[tuple[str, str, bool]] = []
    # Of files in a bucket; elsewhere their versions have no names.
    for field in make(LABELS, specs, {}, has_etags=True) if heading == "files" else make(LABELS, specs, {}):
        name = PROBABILITIES if field.name.startswith("p_") else FEATURES if field.name in features else field.name
        row = (name, type_name(field.type), field.nullable)
        if row not in expected:
            expected.append(row)
    described = [(name, kind, null != "never") for name, kind, null, _ in rows(heading)]
    assert described == expected


def test_every_feature_of_the_built_in_extractors_is_described_in_order() -> None:
    expected = [column for spec in built_in_specs() for column in spec.columns]
    assert [name for name, _ in rows("Features")] == expected


def test_the_page_names_the_version_the_states_and_the_key_of_the_provenance() -> None:
    assert PAGE.startswith(f"# Results schema, version {SCHEMA_VERSION}\n")
    (states,) = (meaning for name, _, _, meaning in rows("files") if name == "status")
    assert re.findall(r"`(\w+)`", states) == [str(status) for status in Status]
    assert f"key `{METADATA_KEY.decode()}`" in PAGE
    assert all(f"`{column}`" in PAGE for column in TIMING_COLUMNS)
