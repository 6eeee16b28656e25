"""Conditions as people type them on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ser_batch.errors import RunError
from ser_batch.run.read import OPERATORS, Run, TableName, check_column

__all__ = ["parse_conditions"]


def parse_conditions(texts: Sequence[str], run: Run, table: TableName) -> list[tuple[str, str, Any]] | None:
    """Turn conditions into `where` of `ser_batch.load_results`: ``emotion == fear``, ``status in ok,partial``.

    Raises
    ------
    RunError
        A condition that cannot be read, an unknown column, or a value that does not fit its column.
    """
    extra = run.metadata
    schema = run.schema(table)
    kinds = {field.name: field.type for field in [*(extra.schema if extra is not None else ()), *schema]}
    return [_parsed(text, kinds, run.folder, table) for text in texts] or None


def _parsed(text: str, kinds: dict[str, pa.DataType], folder: Path, table: str) -> tuple[str, str, Any]:
    found = re.fullmatch(r"\s*([^\s<>=!]+)\s*(==|!=|<=|>=|=|<|>|\bnot in\b|\bin\b)\s*(.*?)\s*", text, re.DOTALL)
    if not found:
        raise RunError(
            f"The condition {text!r} cannot be read. Write a column, one of {' '.join(OPERATORS)}, and a value: "
            f"'emotion == fear'."
        )
    column, operator, value = found.groups()
    check_column(column, list(kinds), folder, table)
    values = [item.strip() for item in value.split(",")] if operator.endswith("in") else [value]
    typed = [_typed(item.strip("'\""), kinds[column], text) for item in values]
    return column, operator, typed if operator.endswith("in") else typed[0]


def _typed(value: str, kind: pa.DataType, text: str) -> Any:
    try:
        if pa.types.is_boolean(kind):
            return {"true": True, "false": False}[value.lower()]
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return float(value)
        if pa.types.is_temporal(kind):
            return pa.scalar(value).cast(kind)
    except (KeyError, ValueError, pa.ArrowException):
        raise RunError(f"The condition {text!r}: {value!r} is not a value of type {kind}.") from None
    return value
