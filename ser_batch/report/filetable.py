"""The rows of the report's table of files, as compact JSON for the browser."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from ser_batch.report.survey import Survey
from ser_batch.report.tallies import Chunk
from ser_batch.run.copy import is_copy
from ser_batch.run.read import Run
from ser_batch.storage.address import is_url

__all__ = ["AudioPlace", "FileTable", "as_script_json", "file_table", "find_audio"]

#: Most bytes of JSON for the table, so that the report stays well below 5 MB.
_MOST_BYTES = 2_600_000

_LONGEST_TEXT = 300
_N_LOOKED_FOR = 12


@dataclass(frozen=True)
class FileTable:
    """What the browser gets, and what was left out."""

    payload: dict[str, Any]
    n_shown: int
    n_files: int


@dataclass(frozen=True)
class AudioPlace:
    """Where the recordings are, seen from the report."""

    #: Relative URL that `clip_id` is appended to; "" where the recordings cannot be found.
    url: str
    #: What to tell when some or all recordings cannot be played.
    notice: str = ""


def find_audio(run: Run, report_folder: Path, root: Path | None, sample: pa.Table | None) -> AudioPlace:
    """Return the relative link from the report to the recordings, and a notice when they are not where they were.

    Parameters
    ----------
    run : Run
        An opened run.
    report_folder : Path
        Folder in which the report will lie.
    root : Path or None
        Folder that holds the recordings now; None = where they were scanned.
    sample : pyarrow.Table or None
        Rows of the files table, to look for some of them.
    """
    told = str(root) if root else str(run.info.get("root") or "")
    if not told:
        return AudioPlace("", "The run does not say where its recordings are: they cannot be played from here.")
    if is_url(told):
        notice = f"The recordings are in {told}, from where a page cannot play them."
        return AudioPlace("", f"{notice} `ser-batch report --audio FOLDER` says where a copy of them is.")
    if is_copy(report_folder):
        return AudioPlace(
            "", f"The recordings are in {told}, and this page in a bucket, from where it cannot play them."
        )
    folder = Path(told).absolute()
    # os.path and not Path, which raises where a folder may not be looked into or has a name that none can have.
    if not os.path.isdir(folder):  # noqa: PTH112
        notice = f"The recordings are no longer at {folder}: they cannot be played."
        return AudioPlace("", f"{notice} `ser-batch report --audio FOLDER` says where they are now.")
    try:
        url = Path(os.path.relpath(folder, report_folder.absolute())).as_posix() + "/"
    except ValueError:  # another drive on Windows
        url = folder.as_uri() + "/"
    names = sample.column("clip_id").to_pylist() if sample is not None else []
    looked_for = [name for name in names[:: max(1, len(names) // _N_LOOKED_FOR)] if "\\x" not in name]
    n_missing = sum(not os.path.isfile(folder / name) for name in looked_for)  # noqa: PTH113
    notice = ""
    if n_missing:
        notice = f"{n_missing} of {len(looked_for)} recordings looked for in {folder} are not there to be played."
    return AudioPlace(quote(os.fsencode(url), safe="/:"), notice)


def file_table(survey: Survey, audio: AudioPlace, moments_s: dict[str, float], included: bool = True) -> FileTable:
    """Return the table's JSON: as many rows of `survey.table` as fit, evenly chosen; none unless `included`.

    Each row holds, in the order of ``fields``: clip_id, status, places of the emotion and of the second most probable
    one in ``labels`` (-1 for none), confidence, second probability, margin, duration in s, flags as bits in the order
    of ``flags``, strongest moment in s, the reason of a file that is not ok, then the user's metadata.
    """
    table = survey.table
    fields = ["clip_id", "status", "emotion", "second", "confidence", "second_p", "margin", "duration_s", "flags"]
    fields += ["moment_s", "reason"]
    extra = [name for name in (table.column_names if table is not None else []) if name not in survey.columns]
    rows = _rows(survey, table, extra, moments_s) if table is not None and included else []
    texts = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    step = 1
    while sum(len(text.encode("utf-8", "surrogatepass")) for text in texts[::step]) > _MOST_BYTES:
        step += 1
    payload = {
        "labels": list(survey.labels),
        "flags": [flag.name for flag in survey.flags],
        "fields": fields + extra,
        "metadata": extra,
        "audio": audio.url,
        "rows": rows[::step],
    }
    return FileTable(payload, len(rows[::step]), survey.n_present)


def _rows(survey: Survey, table: pa.Table, extra: list[str], moments_s: dict[str, float]) -> list[list[Any]]:
    chunk = Chunk(table, survey.labels)
    n = len(table)
    nothing = np.full(n, np.nan)
    second = np.full(n, -1)
    second_p = nothing
    if survey.labels:
        probabilities = np.column_stack([chunk.numbers(f"p_{label}") for label in survey.labels])
        ranked = np.argsort(-np.nan_to_num(probabilities), axis=1, kind="stable")
        if len(survey.labels) > 1:
            second = np.where(chunk.emotion >= 0, ranked[:, 1], -1)
            second_p = probabilities[np.arange(n), ranked[:, 1]]
    flags = np.zeros(n, np.int64)
    for bit, flag in enumerate(survey.flags):
        flags |= flag.holds(chunk.numbers(flag.column)).astype(np.int64) << bit
    names = table.column("clip_id").to_pylist()
    columns: list[list[Any]] = [
        names,
        chunk.status.tolist(),
        chunk.emotion.tolist(),
        second.tolist(),
        _rounded(chunk.numbers("confidence") if survey.labels else nothing, 3),
        _rounded(second_p, 3),
        _rounded(chunk.numbers("margin") if survey.labels else nothing, 3),
        _rounded(chunk.numbers("duration_s"), 2),
        flags.tolist(),
        [
            round(moments_s[name], 2) if several and name in moments_s else None
            for name, several in zip(names, chunk.numbers("n_windows") > 1, strict=True)
        ],
        [_reason(row) for row in table.select(["status", "stage", "error_type", "error_message"]).to_pylist()],
    ]
    for name in extra:
        columns.append(
            [None if value is None else str(value)[:_LONGEST_TEXT] for value in table.column(name).to_pylist()]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _reason(row: dict[str, Any]) -> str:
    if row["status"] == "ok":
        return ""
    parts = [row["stage"], row["error_type"], row["error_message"]]
    return ": ".join(part for part in parts if part)[:_LONGEST_TEXT]


def _rounded(values: np.ndarray[Any, np.dtype[np.float64]], digits: int) -> list[float | None]:
    return [None if math.isnan(value) else round(value, digits) for value in values.tolist()]


def as_script_json(value: Any) -> Markup:
    """Return JSON that may stand inside a script element: no ``<`` can end it, no lone surrogate can break the file."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
