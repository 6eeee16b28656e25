"""Conditions on the rows of a run, as programs give them and as people type them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ser_batch.errors import RunError
from ser_batch.text import did_you_mean

if TYPE_CHECKING:
    from ser_batch.run.layout import TableName
    from ser_batch.run.read import Run

__all__ = [
    "Condition",
    "Where",
    "check_clauses",
    "check_column",
    "clauses_of",
    "expression_of",
    "may_hold",
    "parse_conditions",
    "pushed_down",
]

#: (column, operator, value).
Condition = tuple[str, str, Any]

#: ``[(column, operator, value), …]``, all to hold; or a list of such lists, one of them to hold.
Where = Sequence[Condition] | Sequence[Sequence[Condition]]

_OPERATORS = ("=", "==", "!=", "<", ">", "<=", ">=", "in", "not in")


def clauses_of(where: Where | None) -> list[list[Condition]]:
    """Bring `where` to a list of alternatives, each a list of conditions.

    Raises
    ------
    RunError
        Something in it is no condition, or has an operator that does not exist.
    """
    if not where:
        return []
    alternatives: Any = [where] if isinstance(where[0], tuple) else where
    clauses = [list(alternative) for alternative in alternatives]
    for condition in (condition for clause in clauses for condition in clause):
        if not (isinstance(condition, tuple) and len(condition) == 3 and isinstance(condition[0], str)):
            raise RunError(f"A condition is (column, operator, value), not {condition!r}.")
        if condition[1] not in _OPERATORS:
            raise RunError(
                f"Condition {condition!r}: unknown operator {condition[1]!r}; known are {' '.join(_OPERATORS)}."
            )
    return clauses


def check_clauses(clauses: Sequence[Sequence[Condition]], enums: Mapping[str, Sequence[str]], table: str) -> None:
    """Raise a `RunError` for a value that its column cannot have: it would select nothing, or everything, in silence.

    Parameters
    ----------
    clauses : sequence of sequences of conditions
    enums : mapping
        Column -> all values that it can have, for those of which this is known.
    table : str
        What to call the table.
    """
    for column, operator, value in (condition for clause in clauses for condition in clause):
        if column not in enums or operator not in ("=", "==", "!=", "in", "not in"):
            continue
        known = enums[column]
        for item in value if isinstance(value, list | tuple | set | frozenset) else [value]:
            if isinstance(item, str) and item not in known:
                hint = did_you_mean(item, known) or f" It is one of {', '.join(known) or 'none'}."
                raise RunError(f"No row of {table} can have the {column} {item!r}.{hint}")


def check_column(name: str, known: Sequence[str], folder: Path, table: str) -> None:
    """Raise a `RunError` that names the nearest known column, unless `name` is known."""
    if name not in known:
        hint = did_you_mean(name, known) or f" Columns: {', '.join(known)}."
        raise RunError(f"Table {table} of {folder} has no column {name!r}.{hint}")


def pushed_down(clauses: list[list[Condition]], joined: set[str]) -> list[list[Condition]]:
    """Return the conditions that the Parquet reader can check: those on joined columns wait for the join."""
    if not joined:
        return clauses
    if len(clauses) > 1:
        return []
    rest = [condition for condition in clauses[0] if condition[0] not in joined]
    return [rest] if rest else []


def may_hold(condition: Condition, low: str, high: str) -> bool:
    """Tell whether a part whose names lie from `low` to `high` may hold a row that fits the condition."""
    column, operator, value = condition
    if column != "clip_id":
        return True
    if operator in ("=", "==", "in"):
        names = value if operator == "in" else [value]
        return any(low <= str(name) <= high for name in names)
    if operator in ("<", "<="):
        return low <= str(value)
    return high >= str(value) if operator in (">", ">=") else True


def expression_of(clauses: list[list[Condition]]) -> pc.Expression | None:
    """Return what pyarrow filters by; None where all rows are kept."""
    return pq.filters_to_expression(clauses) if clauses else None


def parse_conditions(texts: Sequence[str], run: Run, table: TableName) -> list[Condition] | None:
    """Turn conditions into `where` of `ser_batch.load_results`: ``emotion == fear``, ``status in ok,partial``.

    Raises
    ------
    RunError
        A condition that cannot be read, an unknown column, or a value that does not fit its column.
    """
    extra = run.metadata
    schema = run.schema(table)
    kinds = {field.name: field.type for field in [*(extra.schema if extra is not None else ()), *schema]}
    conditions = [_parsed(text, kinds, run, table) for text in texts]
    check_clauses([conditions], run.enums(extra), str(run.folder / table))
    return conditions or None


def _parsed(text: str, kinds: dict[str, pa.DataType], run: Run, table: TableName) -> Condition:
    found = re.fullmatch(r"\s*([^\s<>=!]+)\s*(==|!=|<=|>=|=|<|>|\bnot in\b|\bin\b)\s*(.*?)\s*", text, re.DOTALL)
    if not found:
        raise RunError(
            f"The condition {text!r} cannot be read. Write a column, one of {' '.join(_OPERATORS)}, and a value: "
            f"'emotion == fear'."
        )
    column, operator, value = found.groups()
    check_column(column, list(kinds), run.folder, table)
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
