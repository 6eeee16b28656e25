"""The outcomes of a shard as the tables of its part, new or written anew: the same wherever it was processed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from ser_batch.dsp.kernel_cache import processor_class
from ser_batch.records import ClipOutcome, Status
from ser_batch.run.layout import TableName
from ser_batch.run.plan import Shard
from ser_batch.run.rows import RowMaker
from ser_batch.run.store import RunStore
from ser_batch.stages.ingredients import Ingredients
from ser_batch.stages.reach import is_out_of_reach
from ser_batch.storage.address import is_url

__all__ = ["Made", "make_part", "row_maker"]


class Made(NamedTuple):
    """What is to be written of a shard."""

    #: None where the part stays as it is.
    tables: dict[TableName, pa.Table]
    #: Files that could not be looked at, of which the run keeps what it had.
    kept: set[str]


def row_maker(ingredients: Ingredients, manifest: Mapping[str, Any]) -> RowMaker:
    """Return what makes the rows of a run; each part says which class of processor computed it."""
    provenance = {key: manifest[key] for key in ("run_id", "fingerprint", "tool_version")}
    return RowMaker(
        ingredients.labels,
        ingredients.specs,
        provenance | {"cpu": processor_class()},
        ingredients.config.predict.abstain,
        ingredients.n_embedding,
        ingredients.has_segments,
        has_etags=is_url(manifest["root"]),
    )


def make_part(shard: Shard, outcomes: Sequence[ClipOutcome], rows: RowMaker, store: RunStore) -> Made:
    """Return the tables of a shard; for a part that exists, with the rows of it that stay.

    Raises
    ------
    RunError
        A part that is written anew cannot be read.
    """
    kept: set[str] = set()
    if shard.is_rewrite and (kept := _to_keep(shard, outcomes, store)):
        if shard.is_outdated:
            return Made({}, kept)
        outcomes = [outcome for outcome in outcomes if outcome.ref.clip_id not in kept]
    lost = [
        ClipOutcome(ref, Status.SKIPPED, "", "Vanished", "gone before it was processed with these settings")
        for ref in shard.lost
    ]
    outcomes = sorted([*outcomes, *lost], key=lambda outcome: outcome.ref.clip_id)
    tables = rows.tables(outcomes)
    if shard.is_rewrite:
        replaced = pa.array([outcome.ref.clip_id for outcome in outcomes], pa.string())
        for name, table in tables.items():
            if store.has(name, shard.part):
                tables[name] = rows.merged(name, store.read(name, shard.part), table, replaced)
        tables["files"] = rows.marked(tables["files"], shard.vanished)
    return Made(tables, kept)


def _to_keep(shard: Shard, outcomes: Sequence[ClipOutcome], store: RunStore) -> set[str]:
    """Return the files of a part that could not be looked at, and of which it has more than that."""
    missed = {outcome.ref.clip_id for outcome in outcomes if is_out_of_reach(outcome)}
    if not missed:
        return missed
    rows = store.read("files", shard.part).select(["clip_id", "status"]).to_pylist()
    return {row["clip_id"] for row in rows if row["status"] != Status.FAILED} & missed
