"""A run labelled anew: what its network heard is stored, so that another last layer needs no audio.

Part by part, in flat memory: rows, features and embeddings stay, and what the model says of them is made again. The
new run is what a scan with that model would have written, and the same scan goes on with it.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch._version import __version__
from ser_batch.atomic import NO_FOLLOW, read_file
from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.pooling import Pooled, pool_clips
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.resources import lasting_name
from ser_batch.run.folder import claim, clear_scratch, writing
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.lock import lock_for_reading, lock_for_writing
from ser_batch.run.manifest import manifest_so_far, read_manifest
from ser_batch.run.read import Run, do_not_fit, open_run
from ser_batch.run.schema import Contents, matrix_of, schema_of
from ser_batch.run.store import RunStore
from ser_batch.run.summary import RunSummary
from ser_batch.run.writer import Census, RunWriter
from ser_batch.stages.ingredients import card_of, fingerprint_of
from ser_batch.stages.progress import Progress

__all__ = ["label_run"]

#: Parts that are in hand at once: one is computed while another is compressed.
_AT_ONCE = 2
#: Small parts are joined up to so many windows: a file of a hundred columns has its price, however few its rows.
_WINDOWS_PER_PART = 8_192


def label_run(
    source: Path,
    target: Path,
    classifier: CheckedClassifier,
    model: str,
    interruptions: Interruptions,
    progress: Progress | None = None,
) -> RunSummary:
    """Write a run with the labels of another model, or of the same one among other labels.

    Parameters
    ----------
    source : Path
        A run with embeddings; only read.
    target : Path
        A folder that is new or empty, or holds what an earlier call made of `source`, which is replaced.
    classifier : CheckedClassifier
        Its `listening_sha256` must be that of the run.
    model : str
        The name or path that it was loaded by, for the configuration of the new run.
    interruptions : Interruptions
        Entered; signals wait while a part is committed.
    progress : Progress, optional
        Is told how it goes, in files.

    Raises
    ------
    RunError
        `source` is no run, is being written, has no embeddings or those of another network; `target` holds something
        else, or cannot be written.
    """
    with ExitStack() as stack:
        info = read_manifest(source)
        stack.enter_context(lock_for_reading(source))
        _check_fit(source, info, classifier)
        if source.resolve() == target.resolve():
            raise RunError(f"{target} is the run itself. Give a new folder with -o: what is there stays as it is.")
        claim(target)
        with writing("the lock"):
            store = RunStore(target, stack.enter_context(lock_for_writing(target)))
        work = _Labelling(source, info, store, classifier, model)
        return work.run(interruptions, progress or Progress())


def _check_fit(source: Path, info: dict[str, Any], classifier: CheckedClassifier) -> None:
    run = open_run(source)
    _ = run.schema("embeddings")
    heard, own = info.get("model", {}).get("listening_sha256", ""), classifier.listening_sha256
    if heard != own:
        by = info.get("model", {}).get("name", "another model")
        instead = f"listens otherwise ({own[:12]})" if own else "does not tell what it hears"
        raise RunError(
            f"The embeddings of {source} are those of {by!r} ({heard[:12]}), and model {classifier.name!r} {instead}: "
            f"it must hear the audio. Scan with it, or label with a model that differs from {by!r} in its last layer "
            f"alone, as those of `ser-batch adapt` do."
        )
    if run.has_table("segments") and _has_unheard(run):
        raise RunError(
            f"{source} has segments/ of which nothing is stored that could be labelled: it was made before scans kept "
            f"what is heard in them. Scan again with --model {classifier.name}."
        )


def _has_unheard(run: Run) -> bool:
    """Tell whether segments have a label, but nothing that was heard."""
    is_labelled = pc.field("emotion").is_valid()
    if "embeddings" in run.schema("segments").names:
        is_labelled &= pc.field("embeddings").is_null()
    return any(map(len, run.tables("segments", ["clip_id"], is_labelled)))


class _Labelling:
    """One run in the making."""

    def __init__(
        self, source: Path, info: dict[str, Any], store: RunStore, classifier: CheckedClassifier, model: str
    ) -> None:
        self._source, self._info, self._classifier = source, info, classifier
        self._reader, self._store = RunStore(source), store
        self._reader.look(info.get("replaces", ""))
        self._begin_s = time.monotonic()
        self._dropped = {*_PREDICTIONS, *(f"p_{label}" for label in info.get("labels") or ())}
        self._manifest = self._new_manifest(model)
        self._labels = classifier.labels
        self._abstain = float(self._manifest.get("config", {}).get("predict", {}).get("abstain", 0.0))
        provenance = {key: self._manifest[key] for key in ("run_id", "fingerprint", "tool_version", "tables")}
        contents = Contents(self._labels, (), classifier.n_embedding)
        #: Columns of predictions, and metadata, of each table.
        self._schemas = {name: schema_of(name, contents, provenance) for name in self._manifest["tables"]}

    def run(self, interruptions: Interruptions, progress: Progress) -> RunSummary:
        target, manifest = self._store.run_dir, self._manifest
        old = manifest_so_far(target)
        if old and old.get("labelled", {}).get("run_id") != manifest["labelled"]["run_id"]:
            raise RunError(f"{target} is a run already, and not one that was labelled from {self._source}. Give "
                           f"a new folder with -o.")  # fmt: skip
        with writing("the folder"):
            self._store.create(manifest["tables"])
            self._store.recover(old.get("run_id", ""), old.get("replaces", ""))
            clear_scratch(target)
        if old:
            manifest["replaces"] = old["run_id"]
            self._store.begin_anew()
        writer, groups = RunWriter(target, self._store, manifest), self._groups()
        writer.interruptions = interruptions
        self._put_beside(writer)
        n_files = 0
        try:
            for number, tables in enumerate(self._made(groups)):
                with interruptions.deferred(), writing(f"part {number}"):
                    writer.commit_staged(self._store.stage(number, tables, len(tables["files"])))
                n_files += len(tables["files"])
                progress.step("parts", number + 1, len(groups))
            wall_s = time.monotonic() - self._begin_s
            writer.finish(Census.of_run(self._info), wall_s, manifest["labelled"]["was_complete"])
            return writer.summary(n_files)
        except BaseException:
            writer.interrupted()
            raise
        finally:
            progress.end()

    def _put_beside(self, writer: RunWriter) -> None:
        """Take along the tables that lie beside the run: about its files, and which these were."""
        for name in (self._manifest.get("metadata", {}).get("path", ""), _LIST):
            if not name:
                continue
            try:
                writer.put_beside(name, read_file(self._source / name, NO_FOLLOW))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise RunError(f"{self._source / name} cannot be read: {error.strerror}. Mend or delete it.") from None

    def _groups(self) -> list[list[int]]:
        """Return parts of the old run that make one of the new run."""
        groups: list[list[int]] = []
        n_windows = _WINDOWS_PER_PART
        for number in self._reader.parts():
            entry = self._reader.entries.get(number)
            n_more = entry.tables["windows"].n_rows if entry else _WINDOWS_PER_PART
            if n_windows + n_more > _WINDOWS_PER_PART:
                groups.append([])
                n_windows = 0
            groups[-1].append(number)
            n_windows += n_more
        return groups

    def _made(self, groups: Sequence[Sequence[int]]) -> Iterator[dict[TableName, pa.Table]]:
        """Yield the tables of each group, made a little ahead."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            waiting = [pool.submit(self._part, group) for group in groups[:_AT_ONCE]]
            try:
                for ahead in range(len(groups)):
                    yield waiting.pop(0).result()
                    if ahead + _AT_ONCE < len(groups):
                        waiting.append(pool.submit(self._part, groups[ahead + _AT_ONCE]))
            finally:
                pool.shutdown(cancel_futures=True)

    def _part(self, group: Sequence[int]) -> dict[TableName, pa.Table]:
        old = {name: self._joined(name, [self._reader.read(name, part) for part in group]) for name in self._schemas}
        files, heard = old["files"], old["embeddings"]
        counts = np.asarray(files.column("n_windows").to_numpy())
        if (counts < 0).any() or counts.sum() != len(old["windows"]):
            raise _does_not_fit(self._reader.path("windows", group[0]), "the rows of files/")
        labelled = np.flatnonzero(counts)
        clip = np.repeat(np.arange(len(labelled)), counts[labelled])
        for name in ("windows", "embeddings"):
            _check_rows(self._reader.path(name, group[0]), old[name], files.column("clip_id"), labelled[clip])
        begin_s = time.perf_counter()
        probabilities = self._classifier.label(matrix_of(heard.column("embedding")))
        pooled = self._pooled(probabilities, np.asarray(heard.column("weight").to_numpy()), clip)
        per_window_s = (time.perf_counter() - begin_s) / max(len(clip), 1)
        of_files = _prediction_columns(self._labels, pooled, labelled, len(files), self._abstain)
        of_files["time_predict_s"] = _placed(counts[labelled] * per_window_s, labelled, len(files))
        of_windows = {f"p_{label}": pa.array(probabilities[:, i]) for i, label in enumerate(self._labels)}
        behind = "channel" if "channel" in old["windows"].column_names else "end_s"
        last = "segments_key" if "segments_key" in files.column_names else "n_windows"
        return {
            **({"segments": self._segments(old["segments"])} if "segments" in old else {}),
            "embeddings": heard.replace_schema_metadata(self._schemas["embeddings"].metadata),
            "windows": self._replaced("windows", old["windows"], of_windows, after=behind),
            "files": self._replaced("files", files, of_files, after=last),
        }

    def _joined(self, name: TableName, parts: Sequence[pa.Table]) -> pa.Table:
        """Return the rows of some parts in the order of a part; a run that grew has its new files in its last ones."""
        if len(parts) == 1:
            return parts[0]
        try:
            rows = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
        except pa.ArrowException as error:
            raise do_not_fit(self._source / name, error) from error
        ids = rows.column("clip_id")
        if pc.all(pc.less_equal(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py() is not False:
            return rows
        return rows.sort_by([(key, "ascending") for key in TABLES[name].keys])

    def _segments(self, old: pa.Table) -> pa.Table:
        """Return the segments with other labels: each is pooled over its own windows, like a file."""
        n_windows = np.zeros(len(old), np.int64)
        heard, weights = np.zeros((0, self._classifier.n_embedding), np.float16), np.zeros(0, np.float32)
        if "embeddings" in old.column_names:
            lists = old.column("embeddings").combine_chunks()
            n_windows = np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False))
            heard = matrix_of(pa.chunked_array([lists.flatten()]))
            weighed = old.column("weights").combine_chunks()
            if not pc.fill_null(pc.list_value_length(weighed), 0).equals(pa.array(n_windows, pa.int32())):
                raise _does_not_fit(self._source / "segments", "itself")
            weights = weighed.flatten().to_numpy()
        labelled = np.flatnonzero(n_windows)
        which = np.repeat(np.arange(len(labelled)), n_windows[labelled])
        pooled = self._pooled(self._classifier.label(heard), weights, which)
        columns = _prediction_columns(self._labels, pooled, labelled, len(old), self._abstain)
        return self._replaced("segments", old, columns, after="context_s")

    def _pooled(self, probabilities: NDArray[np.float32], weights: NDArray[np.float32], clip: NDArray[Any]) -> Pooled:
        if isinstance(self._classifier.inner, CheckpointClassifier):
            return pool_clips(probabilities, weights, clip)
        # A model of a plugin pools by a rule of its own.
        ends = np.flatnonzero(np.diff(clip, append=-1)) + 1
        found = [
            self._classifier.pool(probabilities[first:last], weights[first:last])
            for first, last in pairwise([0, *ends])
        ]
        return Pooled(
            np.array([self._labels.index(item.emotion) for item in found], np.int64),
            np.array([item.probabilities for item in found], np.float32).reshape(-1, len(self._labels)),
            *(np.array([getattr(item, name) for item in found]) for name in ("confidence", "entropy", "margin")),
        )

    def _new_manifest(self, model: str) -> dict[str, Any]:
        info, classifier, now = self._info, self._classifier, datetime.now(UTC).isoformat(timespec="seconds")
        manifest = copy.deepcopy(info)
        for key in ("replaces", "visit", "stage_s"):
            manifest.pop(key, None)
        labels = list(classifier.labels)
        manifest.setdefault("config", {}).setdefault("predict", {})
        own = getattr(classifier.inner, "labels", labels)
        among = [] if len(own) == len(labels) else labels
        manifest["config"]["predict"] |= {"model": lasting_name(model), "labels": among}
        manifest.setdefault("settings", {})
        manifest["settings"] |= {"model weights": classifier.sha256, "labels": labels}
        if manifest.get("files_from") == str(self._source.absolute() / _LIST):
            manifest["files_from"] = str(self._store.run_dir.absolute() / _LIST)
        return manifest | {
            "run_id": uuid.uuid4().hex,
            "tool_version": __version__,
            "created": now,
            "updated": now,
            "state": "running",
            "fingerprint": fingerprint_of(manifest["settings"]),
            "labels": labels,
            "model": card_of(classifier),
            "wall_s": 0.0,
            "device": {"requested": "cpu", "chosen": "cpu", "note": "labelled from embeddings, without audio"},
            "visit": {
                "begun": now,
                "n_found": info.get("counts", {}).get("found", 0),
                "n_files": open_run(self._source).n_rows("files"),
                "n_commits_before": 0,
            },
            "labelled": {
                "from": str(self._source.absolute()),
                "run_id": str(info.get("run_id", "")),
                "model": str(info.get("model", {}).get("name", "")),
                "labels": list(info.get("labels") or ()),
                "was_complete": info.get("state", "complete") == "complete",
            },
        }

    def _replaced(self, table: TableName, old: pa.Table, columns: dict[str, pa.Array], after: str) -> pa.Table:
        """Return a table with other predictions: its own go, those in `columns` come, in the order of its schema."""
        fresh = self._schemas[table]
        kept = [name for name in old.column_names if name not in self._dropped]
        at = kept.index(after) + 1
        names = [*kept[:at], *(name for name in fresh.names if name in columns and name not in kept), *kept[at:]]
        fields = [fresh.field(name) if name in columns else old.schema.field(name) for name in names]
        arrays = [
            columns[field.name].cast(field.type) if field.name in columns else old[field.name] for field in fields
        ]
        return pa.table(arrays, schema=pa.schema(fields, metadata=fresh.metadata))


#: Lies beside a run that was made from a list of files.
_LIST = "files-from.list"
_PREDICTIONS = ("emotion", "confidence", "entropy", "margin", "uncertain")


def _check_rows(path: Path, rows: pa.Table, clip_ids: pa.ChunkedArray, places: NDArray[np.int64]) -> None:
    """See that the rows of a table by window are those that the files promise, in their order."""
    expected = clip_ids.take(pa.array(places))
    if len(rows) != len(places) or pc.any(pc.not_equal(rows.column("clip_id"), expected)).as_py():
        raise _does_not_fit(path, "the rows of files/")


def _does_not_fit(path: Path, what: str) -> RunError:
    return RunError(f"{path} does not fit {what}. `ser-batch verify` says more; scan again.")


def _placed(values: NDArray[Any], places: NDArray[np.int64], n_rows: int) -> pa.Array:
    """Return a column with values in some places and null elsewhere."""
    column, missing = np.zeros(n_rows, np.float32), np.ones(n_rows, bool)
    column[places], missing[places] = values, False
    return pa.array(column, mask=missing)


def _prediction_columns(
    labels: Sequence[str], pooled: Pooled, places: NDArray[np.int64], n_rows: int, abstain: float
) -> dict[str, pa.Array]:
    which, missing = np.zeros(n_rows, np.int32), np.ones(n_rows, bool)
    which[places], missing[places] = pooled.best, False
    uncertain = np.zeros(n_rows, bool)
    uncertain[places] = pooled.confidence < abstain
    names = pa.array(labels).take(pa.array(which, mask=missing))
    columns = {
        "emotion": names.dictionary_encode(),
        **{name: _placed(getattr(pooled, name), places, n_rows) for name in ("confidence", "entropy", "margin")},
        "uncertain": pa.array(uncertain, mask=missing),
    }
    for index, label in enumerate(labels):
        columns[f"p_{label}"] = _placed(pooled.probabilities[:, index], places, n_rows)
    return columns
