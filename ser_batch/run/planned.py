"""The plan of a scan as files that nodes read: all that `work` needs, so that it needs no options.

``plan.json`` says what the scan is made of and which parts there are; ``.attempts/PLAN/plan.parquet`` holds the files,
a row each, in the order of the parts, with a row group per bundle. Both are written once; ``plan.json`` comes last.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch._version import __version__
from ser_batch.atomic import open_file, read_file
from ser_batch.errors import RunError, SerBatchError
from ser_batch.kinds import is_text, problem_with, read_json
from ser_batch.records import ClipRef, Segment, SegmentSource
from ser_batch.run.attempts import check_folder
from ser_batch.run.fields import FIELDS, PLAN_FIELDS
from ser_batch.run.folder import writing
from ser_batch.run.journal import Filesystem
from ser_batch.run.layout import ATTEMPTS, PLAN_ID
from ser_batch.run.manifest import config_of_run, library_versions
from ser_batch.run.parquet import footer_crc32, openable
from ser_batch.run.plan import Plan, Shard
from ser_batch.run.store import RunStore
from ser_batch.run.writer import Census
from ser_batch.segments.marked import MOST_CHANNELS
from ser_batch.stages.discover import NOT_SEEN_NS
from ser_batch.stages.ingredients import Ingredients

if TYPE_CHECKING:
    import pluggy

    from ser_batch.config import Config

__all__ = ["PLAN_FILE", "PlanFile", "PlannedPart", "read_plan", "remove_plan", "write_plan"]

PLAN_FILE = "plan.json"
_ROWS = "plan.parquet"
_VERSION = 1
_CURE = "Plan again: `ser-batch scan … --plan-only` keeps what the run has; or restore it from a copy."

#: What ``run.json`` is to say, of what nodes need.
_NEEDED = ("run_id", "fingerprint", "tool_version", "root", "config", "tables", "labels", "wall_s")

#: A bundle is worth 45 s of a node with 16 cores, of which one does so much in a second; but there are so many of them
#: that tens of nodes have work to the end.
_BUNDLE_CORE_S = 45.0 * 16
_CORE_FILES_PER_S, _CORE_BYTES_PER_S = 100.0, 12e6
_FEWEST_BUNDLES = 256
#: Files at which a node looks to see whether it has the archive.
_N_PROBES = 20

_SCHEMA = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        #: To be processed; gone; gone, and its results belong to other settings.
        pa.field("kind", pa.int8(), nullable=False),
        pa.field("clip_id", pa.string(), nullable=False),
        #: Where it is not the root with the clip_id below it; names need not be UTF-8.
        pa.field("path", pa.binary()),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("segments", pa.string()),
    ]
)
_PROCESS, _GONE, _LOST = range(3)


class PlannedPart(NamedTuple):
    """One part of a plan."""

    part: int
    #: Its first row in the plan, and how many it has.
    first: int
    n_rows: int
    #: Checksum of its table ``files`` as it was when it was planned; "" for a new part. Whoever commits compares it.
    base: str
    is_outdated: bool


class PlanFile:
    """A plan as nodes see it; made by `write_plan` and `read_plan`.

    Attributes
    ----------
    plan_id : str
        12 hexadecimal digits.
    parts : list of PlannedPart
        In the order of their numbers.
    bundles : list of (int, int)
        First part and past the last one, as places in `parts`.
    """

    def __init__(self, run_dir: Path, values: Mapping[str, Any]) -> None:
        self.run_dir, self._values = run_dir, values
        self.plan_id: str = values["plan_id"]
        #: What ``run.json`` says, or is to say once the first part is committed.
        self.manifest: dict[str, Any] = dict(values["run"])
        self.run_id: str = self.manifest["run_id"]
        self.root: str = self.manifest["root"]
        self.promise: str = values["promise"]
        self.tool_version: str = values["tool_version"]
        self.versions: Mapping[str, str] = values["versions"]
        self.installed_plugins: tuple[str, ...] = tuple(values["plugins"]["installed"])
        self.built_in_plugins: tuple[str, ...] = tuple(values["plugins"]["built_in"])
        #: path, sha256 and text of each file.
        self.plugin_files: list[dict[str, str]] = values["plugins"]["files"]
        self.beside: list[str] = values["beside"]
        self.parts: list[PlannedPart] = []
        first = 0
        for part, n_rows, base, is_outdated in values["parts"]:
            self.parts.append(PlannedPart(part, first, n_rows, base, is_outdated))
            first += n_rows
        starts = [*values["bundles"], len(self.parts)]
        self.bundles = list(itertools.pairwise(starts))
        self._rows_of: tuple[int, pa.Table] | None = None

    @property
    def folder(self) -> Path:
        """Where nodes work on it."""
        return self.run_dir / ATTEMPTS / self.plan_id

    @property
    def n_files(self) -> int:
        """Rows of the plan: files to be processed, and those of parts that are written anew which are gone."""
        return self.parts[-1].first + self.parts[-1].n_rows

    @property
    def place_of(self) -> dict[int, int]:
        """Number of a part -> place in `parts`."""
        return {planned.part: place for place, planned in enumerate(self.parts)}

    @property
    def census(self) -> Census:
        values = self._values["census"]
        return Census(**{**values, "first_unlisted": tuple(values["first_unlisted"])})

    def config(self) -> Config:
        """Return the configuration of the scan."""
        return config_of_run(self.manifest)

    def bundle_of(self, place: int) -> int:
        """Return the bundle of a part, given by its place in `parts`."""
        starts = self._values["bundles"]
        low, high = 0, len(starts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if starts[middle] <= place else (low, middle - 1)
        return low

    def shard(self, place: int) -> Shard:
        """Return the work of a part, given by its place in `parts`.

        Raises
        ------
        RunError
            The plan is damaged.
        """
        planned = self.parts[place]
        with self._readable():
            rows = self._bundle_rows(self.bundle_of(place), planned)
            kinds = rows.column("kind").to_pylist()
            refs = [self._ref(row) for row in rows.to_pylist()]
            ids = [ref.clip_id for ref, kind in zip(refs, kinds, strict=True) if kind != _PROCESS]
            return Shard(
                planned.part,
                [ref for ref, kind in zip(refs, kinds, strict=True) if kind == _PROCESS],
                bool(planned.base),
                pa.array(ids, pa.string()),
                [ref for ref, kind in zip(refs, kinds, strict=True) if kind == _LOST],
                planned.is_outdated,
            )

    def probes(self) -> list[ClipRef]:
        """Return some files, from all over the archive, that could be looked at when it was planned."""
        places = range(0, len(self.parts), max(1, len(self.parts) // _N_PROBES))
        found: list[ClipRef] = []
        for place in places:
            refs = [ref for ref in self.shard(place).refs if ref.mtime_ns != NOT_SEEN_NS]
            found += refs[: max(1, _N_PROBES // len(places))]
        return found

    def _bundle_rows(self, bundle: int, planned: PlannedPart) -> pa.Table:
        if self._rows_of is None or self._rows_of[0] != bundle:
            path = openable(self.folder) / _ROWS
            with open_file(path) as file:
                if footer_crc32(file) != self._values["rows_footer_crc32"]:
                    raise OSError("its footer is not what was written")
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                self._rows_of = bundle, _checked(file.read_row_group(bundle, use_threads=False))
        rows = self._rows_of[1].slice(planned.first - self.parts[self.bundles[bundle][0]].first, planned.n_rows)
        if len(rows) != planned.n_rows or set(rows.column("part").to_pylist()) - {planned.part}:
            raise ValueError(f"part {planned.part} is not where it should be")
        names = rows.column("clip_id").to_pylist()
        if len(set(names)) < len(names):
            raise ValueError(f"part {planned.part} has a file twice")
        return rows

    def _ref(self, row: Mapping[str, Any]) -> ClipRef:
        path = os.fsdecode(row["path"]) if row["path"] is not None else _below(self.root, row["clip_id"])
        source = _source_of(row["segments"]) if row["segments"] else None
        return ClipRef(row["clip_id"], path, row["size_bytes"], row["mtime_ns"], source, etag=row["etag"])

    def _readable(self) -> _Readable:
        return _Readable(self.folder / _ROWS)


#: What reading a plan raises that is damaged, or was edited into something else.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, pa.ArrowException)


class _Readable:
    """Says of what is wrong with a plan which file it is, and the cure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, _UNREADABLE):
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(f"{self._path} cannot be read ({reason}). {_CURE}") from error


def _checked(rows: pa.Table) -> pa.Table:
    """Return rows of a plan that nodes can work on.

    Raises
    ------
    ValueError
        They are none.
    """
    if not rows.schema.equals(_SCHEMA) or any(
        rows.column(item.name).null_count for item in _SCHEMA if not item.nullable
    ):
        raise ValueError("its columns are not those of a plan")
    if not {*rows.column("kind").unique().to_pylist()} <= {_PROCESS, _GONE, _LOST}:
        raise ValueError("it has a row of no known kind")
    if any(n_bytes < 0 for n_bytes in rows.column("size_bytes").to_pylist()):
        raise ValueError("it has a file of less than no bytes")
    paths = (path for path in rows.column("path").to_pylist() if path is not None)
    if not all(name and is_text(name) for name in rows.column("clip_id").to_pylist()) or any(
        b"\0" in path for path in paths
    ):
        raise ValueError("it has a name that no file can have")
    return rows


def _below(root: str, name: str) -> str:
    return os.path.join(root, name)  # noqa: PTH118 - Path normalises names


def write_plan(
    run_dir: Path,
    plan: Plan,
    store: RunStore,
    ingredients: Ingredients,
    manager: pluggy.PluginManager,
    manifest: Mapping[str, Any],
    beside: Mapping[str, bytes | memoryview],
) -> PlanFile:
    """Write a plan into a run.

    Parameters
    ----------
    run_dir : Path
        Of the run, which this process holds.
    plan : Plan
    store : RunStore
        Of the run.
    ingredients : Ingredients
        What the scan is made of.
    manager : pluggy.PluginManager
        Its plugins.
    manifest : mapping
        What ``run.json`` says or is to say.
    beside : mapping
        Files that are to be written with ``run.json``, if that is still to be done: name -> content.

    Raises
    ------
    OSError
        The disk is full or broken.
    """
    plan_id, filesystem = uuid.uuid4().hex[:12], store.filesystem
    folder = run_dir / ATTEMPTS / plan_id
    check_folder(folder.parent)
    folder.mkdir(parents=True)
    rows = _RowWriter(openable(folder) / _ROWS, plan)
    for shard in plan.shards():
        entry = store.entries.get(shard.part)
        rows.add(shard, entry.tables["files"].sha256 if shard.is_rewrite and entry else "", plan.found.root)
    rows.close()
    for name, data in beside.items():
        filesystem.write(folder / name, data)
    with (folder / _ROWS).open("rb") as file:
        crc32, n_bytes = footer_crc32(file), file.seek(0, io.SEEK_END)
    recipe = ingredients.recipe
    files = [Path(file) for file in dict.fromkeys(recipe.files)]
    known = {*recipe.built_in, *(file.name for file in files)}
    values = {
        "version": _VERSION,
        "plan_id": plan_id,
        "tool_version": __version__,
        "run": dict(manifest),
        "promise": ingredients.promise(),
        "versions": library_versions(),
        "plugins": {
            "installed": sorted(name for name, _ in manager.list_name_plugin() if name not in known),
            "built_in": list(recipe.built_in),
            "files": [_plugin_file(file) for file in files],
        },
        "census": asdict(Census.of(plan.found)),
        "beside": list(beside),
        "rows_bytes": n_bytes,
        "rows_footer_crc32": crc32,
        "parts": rows.parts,
        "bundles": rows.bundles,
    }
    filesystem.flush_folder(folder)
    filesystem.replace(run_dir / PLAN_FILE, json.dumps(values).encode() + b"\n")
    return PlanFile(run_dir, values)


def _plugin_file(path: Path) -> dict[str, str]:
    data = path.read_bytes()
    absolute = os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    return {"path": absolute, "sha256": hashlib.sha256(data).hexdigest(), "text": data.decode("utf-8", "replace")}


class _RowWriter:
    """Writes the rows of a plan, a bundle at a time."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._file = path, path.open("xb")
        self._writer = pq.ParquetWriter(self._file, _SCHEMA, compression="zstd", write_page_checksum=True)
        self._most_files = max(1, plan.n_files // _FEWEST_BUNDLES)
        self._waiting: list[pa.Table] = []
        self._n_files, self._core_s = 0, 0.0
        #: part, rows, base, is_outdated.
        self.parts: list[tuple[int, int, str, bool]] = []
        #: First part of each bundle, as a place in `parts`.
        self.bundles: list[int] = []

    def add(self, shard: Shard, base: str, root: str) -> None:
        core_s = len(shard.refs) / _CORE_FILES_PER_S
        core_s += sum(ref.size_bytes for ref in shard.refs) / _CORE_BYTES_PER_S
        is_full = self._n_files + len(shard.refs) > self._most_files or self._core_s + core_s > _BUNDLE_CORE_S
        if self._waiting and is_full:
            self._flush()
        if not self._waiting:
            self.bundles.append(len(self.parts))
        rows = _rows_of(shard, root)
        self._waiting.append(rows)
        self._n_files += len(shard.refs)
        self._core_s += core_s
        self.parts.append((shard.part, len(rows), base, shard.is_outdated))

    def _flush(self) -> None:
        rows = pa.concat_tables(self._waiting)
        self._writer.write_table(rows, row_group_size=max(len(rows), 1))
        self._waiting, self._n_files, self._core_s = [], 0, 0.0

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()
        self._file.flush()
        Filesystem().flush(self._file.fileno())
        self._file.close()


def _rows_of(shard: Shard, root: str) -> pa.Table:
    lost = {ref.clip_id: ref for ref in shard.lost}
    gone = [lost.get(clip_id, ClipRef(clip_id, "", 0, 0)) for clip_id in shard.vanished.to_pylist()]
    refs = [*shard.refs, *gone]
    kinds = [_PROCESS] * len(shard.refs) + [_LOST if ref.clip_id in lost else _GONE for ref in gone]
    columns: dict[str, Sequence[Any]] = {
        "part": [shard.part] * len(refs),
        "kind": kinds,
        "clip_id": [ref.clip_id for ref in refs],
        "path": [_odd_path(ref, root) for ref in refs],
        "size_bytes": [ref.size_bytes for ref in refs],
        "mtime_ns": [ref.mtime_ns for ref in refs],
        "etag": [ref.etag for ref in refs],
        "segments": [ref.segments and _source_text(ref.segments) for ref in refs],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in _SCHEMA], schema=_SCHEMA)


def _odd_path(ref: ClipRef, root: str) -> bytes | None:
    return None if ref.path in ("", _below(root, ref.clip_id)) else os.fsencode(ref.path)


def _source_text(source: SegmentSource) -> str:
    return json.dumps([source.key, source.paths, [_told(segment) for segment in source.segments], source.note])


def _told(segment: Segment) -> list[Any]:
    return [segment.start_s, segment.end_s, segment.channel, segment.speaker, segment.text, segment.source]


def _source_of(text: str) -> SegmentSource:
    key, paths, segments, note = json.loads(text)
    if not -(2**63) <= int(key) < 2**63:
        raise ValueError("it has a key that is none")
    return SegmentSource(int(key), tuple(map(str, paths)), _segments_of(segments), str(note))


def _segments_of(values: Iterable[Sequence[Any]]) -> tuple[Segment, ...]:
    found = tuple(
        Segment(float(start_s), float(end_s), int(channel), str(speaker), str(text), str(source))
        for start_s, end_s, channel, speaker, text, source in values
    )
    if not all(0 <= item.start_s <= item.end_s < math.inf and 0 <= item.channel <= MOST_CHANNELS for item in found):
        raise ValueError("it has a segment that is none")
    return found


def read_plan(run_dir: Path) -> PlanFile | None:
    """Return the plan of a run, None where it has none.

    Raises
    ------
    RunError
        ``plan.json`` is damaged, was edited into something else, or is of another version.
    """
    path = run_dir / PLAN_FILE
    try:
        values = read_json(read_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}). {_CURE}") from None
    problem = problem_with(values, PLAN_FIELDS, PLAN_FIELDS) if isinstance(values, dict) else "it is no plan"
    problem = problem or problem_with(values["run"], FIELDS, _NEEDED)
    if not problem and values["version"] != _VERSION:
        problem = f"it is of version {values['version']}, and this ser-batch knows {_VERSION}"
    if problem:
        raise RunError(f"{path} cannot be read ({problem}). {_CURE}")
    try:
        plan = PlanFile(run_dir, values)
        plan.config()
        _ = plan.census
        starts, numbers = values["bundles"], [item.part for item in plan.parts]
        if starts != sorted(set(starts)) or starts[:1] != [0] or starts[-1] >= len(plan.parts):
            raise ValueError("its bundles and parts do not fit")
        if numbers != sorted(set(numbers)):
            raise ValueError("a part is there twice, or out of order")
    except (TypeError, ValueError, KeyError, SerBatchError) as error:
        raise RunError(f"{path} cannot be read ({error}). {_CURE}") from None
    return plan


def remove_plan(run_dir: Path) -> None:
    """Take the plan away with all that nodes have left of it; what they publish now is for nothing. Raises RunError."""
    check_folder(run_dir / ATTEMPTS)
    with writing(PLAN_FILE), suppress(FileNotFoundError):
        (run_dir / PLAN_FILE).unlink()
    for folder in (run_dir / ATTEMPTS).glob("*"):
        if PLAN_ID.fullmatch(folder.name) and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)


def plan_of(run_dir: Path) -> PlanFile:
    """Return the plan of a run.

    Raises
    ------
    RunError
        It has none, or it is damaged.
    """
    plan = read_plan(run_dir)
    if plan is None:
        raise RunError(f"{run_dir} has no plan.json. Make one: `ser-batch scan INPUT -o {run_dir} --plan-only`.")
    return plan
