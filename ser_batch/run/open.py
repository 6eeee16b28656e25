"""A run that is open for writing: locked, mended, planned; shards are committed to it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ser_batch import hooks
from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.records import ClipOutcome, Status
from ser_batch.run.journal import Filesystem
from ser_batch.run.lock import lock_for_writing, refuse_if_written
from ser_batch.run.manifest import new_manifest, read_manifest
from ser_batch.run.metadata import FileTable
from ser_batch.run.plan import Plan, Shard, make_plan, read_index
from ser_batch.run.rows import RowMaker
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.run.summary import RunSummary, gaps_of, summarise
from ser_batch.stages.discover import FileList, Found
from ser_batch.stages.ingredients import Ingredients, differences
from ser_batch.stages.progress import Progress
from ser_batch.stages.watch import end_orphans

if TYPE_CHECKING:
    import pluggy

__all__ = ["OpenRun", "open_run", "preview_run"]

#: What a folder may hold and still become a run: what a scan makes before its ``run.json``.
_BEGINNINGS = {"files", "windows", "journal.jsonl", "metadata.csv", "metadata.parquet", "files-from.list"}
_SCRATCH = ".scratch-"
#: Folders that could not be listed which run.json names.
_MOST_UNLISTED = 20


@contextmanager
def open_run(
    run_dir: Path, ingredients: Ingredients, found: Found, mode: str, interruptions: Interruptions
) -> Iterator[OpenRun]:
    """Open a run for writing, or begin one.

    Parameters
    ----------
    run_dir : Path
    ingredients : Ingredients
        What this scan is made of.
    found : Found
        The files of this scan.
    mode : str
        One of `ser_batch.engine.MODES`.
    interruptions : Interruptions
        Entered; signals wait while a part is committed.

    Raises
    ------
    RunError
        The folder holds something else, is in use, or was made from other audio or with other settings.
    """
    _claim(run_dir)
    with ExitStack() as stack:
        with _said("the folder"):
            stack.enter_context(lock_for_writing(run_dir))
        reached("locked")
        manifest = _manifest_for(run_dir, mode, ingredients, found)
        store = RunStore(run_dir)
        with _said("the folder"):
            store.create()
            if mode == "restart":
                store.clear()
                manifest = {}
            notices = store.recover()
        for scratch in run_dir.glob(f"{_SCRATCH}*"):
            end_orphans(scratch)
            shutil.rmtree(scratch, ignore_errors=True)
        reached("recovered")
        plan = _plan(store, manifest, mode, ingredients, found)
        reached("planned")
        run = OpenRun(run_dir, store, ingredients, plan, manifest, notices)
        run.interruptions = interruptions
        try:
            yield run
        except BaseException:
            run.interrupted()
            raise


def preview_run(run_dir: Path, ingredients: Ingredients, found: Found, mode: str) -> Plan:
    """Return what `open_run` would plan, and refuse what it would refuse, without writing anything.

    Raises
    ------
    RunError
        As for `open_run`.
    """
    _check_ours(run_dir)
    there = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{run_dir} cannot be used for a run: {there} is not to be written.")
    refuse_if_written(run_dir)
    manifest = _manifest_for(run_dir, mode, ingredients, found)
    store = RunStore(run_dir)
    if mode != "restart":
        store.look()
    return _plan(store, manifest, mode, ingredients, found)


def _manifest_for(run_dir: Path, mode: str, ingredients: Ingredients, found: Found) -> dict[str, Any]:
    """Return ``run.json``, empty for a new run; refuse to go on with results of other audio or other settings."""
    manifest = read_manifest(run_dir) if (run_dir / "run.json").exists() else {}
    if mode == "retry" and not manifest:
        raise RunError(f"{run_dir} is not a run, so there is nothing to try again.")
    if mode in ("resume", "retry"):
        _check_same(run_dir, manifest, ingredients, found)
    return manifest


def _plan(store: RunStore, manifest: dict[str, Any], mode: str, ingredients: Ingredients, found: Found) -> Plan:
    index = read_index(store, ingredients.fingerprint())
    if mode in ("resume", "retry") and not manifest and not index.is_current.all():
        raise RunError(f"{store.run_dir} has parts made with other settings, but no run.json that says which. {_CURES}")
    return make_plan(found, index, ingredients.config.run.shard_size, retry=mode == "retry")


_CURES = (
    "`ser-batch scan` keeps both with --new-run DIR, processes what this concerns again in this run with --recompute "
    "changed, and deletes its results and begins again with --restart."
)


def _claim(run_dir: Path) -> None:
    """Make the folder, unless it is there and holds something else."""
    _check_ours(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{run_dir} cannot be used for a run: {error.strerror}.") from None


def _check_ours(run_dir: Path) -> None:
    """Refuse a folder that holds something else than a run."""
    try:
        names = {path.name for path in run_dir.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RunError(f"{run_dir} is a file. Give a folder that is new, empty or a run.") from None
    except OSError as error:
        raise RunError(f"{run_dir} cannot be used for a run: {error.strerror}.") from None
    foreign = {name for name in names - _BEGINNINGS if not name.startswith(".")}
    if "run.json" not in names and foreign:
        raise RunError(
            f"{run_dir} exists and is not a run of ser-batch (it holds {sorted(foreign)[0]!r}). "
            f"Give a folder that is new, empty or a run."
        )


def _check_same(run_dir: Path, manifest: dict[str, Any], ingredients: Ingredients, found: Found) -> None:
    """Refuse to mix results: of other audio, or made otherwise."""
    if not manifest:
        return
    if manifest.get("root") != found.root:
        raise RunError(
            f"{run_dir} was made from {manifest.get('root')}, this scan is of {found.root}. Give the same inputs, or "
            f"another run folder. If audio was moved, `ser-batch scan --recompute changed` keeps what is unchanged."
        )
    if manifest.get("fingerprint") != ingredients.fingerprint():
        lines = "\n  ".join(differences(manifest.get("settings", {}), ingredients.settings()))
        raise RunError(f"{run_dir} was made with other settings:\n  {lines}\n{_CURES}")


class OpenRun:
    """A run that this process holds; made by `open_run`."""

    interruptions: Interruptions

    def __init__(
        self,
        run_dir: Path,
        store: RunStore,
        ingredients: Ingredients,
        plan: Plan,
        manifest: dict[str, Any],
        notices: Sequence[str],
    ) -> None:
        self.run_dir, self.plan, self.notices = run_dir, plan, tuple(notices)
        self.config = ingredients.config
        self._store, self._ingredients, self._manifest = store, ingredients, manifest
        self._begun = False
        self._silenced: set[str] = set()

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing at all to do."""
        same_place = self._manifest.get("root") == self.plan.found.root
        return self.plan.is_empty and same_place and self._manifest.get("state") == "complete"

    def begin(
        self,
        manager: pluggy.PluginManager,
        inputs: Any,
        about: FileTable | None,
        device: Mapping[str, str] | None,
    ) -> None:
        """Write down what this visit is; `device` says where the network computes, None that it does not."""
        manifest = new_manifest(self._ingredients, manager, self._manifest)
        if isinstance(inputs, FileList):
            manifest["files_from"] = self._listed(inputs)
        else:
            manifest["inputs"] = [os.path.abspath(os.fspath(path)) for path in inputs]  # noqa: PTH100
        manifest["root"] = self.plan.found.root
        manifest["device"] = self._manifest.get("device", {}) if device is None else dict(device)
        manifest["visit"] = {
            "begun": manifest["updated"],
            "n_found": len(self.plan.found),
            "n_files": self.plan.n_files,
            "n_commits_before": len(self._store.commits),
        }
        if about is not None:
            manifest["metadata"] = {"path": self._kept(about)}
        self._manifest = manifest
        self._rows = RowMaker(
            self._ingredients.labels,
            self._ingredients.specs,
            {key: manifest[key] for key in ("run_id", "fingerprint", "tool_version")},
            self.config.predict.abstain,
        )
        self._begun = True
        self._write_manifest()
        reached("manifest-written")

    def _listed(self, inputs: FileList) -> str:
        """Return where the list of files can be read again, for a later `retry`."""
        if inputs.source != "-":
            return os.path.abspath(inputs.source)  # noqa: PTH100 - resolve() would follow links
        path = self.run_dir / "files-from.list"
        with _said("the list of files"):
            Filesystem().replace(path, b"\0".join(os.fsencode(name) for name in inputs.paths) + b"\0")
        return os.path.abspath(path)  # noqa: PTH100

    def _kept(self, about: FileTable) -> str:
        """Keep the table about the files with the run; return its name there."""
        with _said("metadata"):
            Filesystem().replace(self.run_dir / "metadata.parquet", about.as_parquet())
        return "metadata.parquet"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder inside the run for what workers write; gone at the end, or when the run is next opened."""
        with _said("worker files"):
            folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.run_dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, shard: Shard, outcomes: Sequence[ClipOutcome]) -> None:
        """Write a shard as a part, or into the part it belongs to.

        Raises
        ------
        RunError
            The disk is full or broken; what was committed before is whole.
        """
        lost = [
            ClipOutcome(ref, Status.SKIPPED, "", "Vanished", "gone before it was processed with these settings")
            for ref in shard.lost
        ]
        outcomes = sorted([*outcomes, *lost], key=lambda outcome: outcome.ref.clip_id)
        tables = {"files": self._rows.files(outcomes), "windows": self._rows.windows(outcomes)}
        if shard.is_rewrite:
            replaced = pa.array([outcome.ref.clip_id for outcome in outcomes], pa.string())
            for name, table in tables.items():
                tables[name] = self._rows.merged(self._store.read(name, shard.part), table, replaced)
            tables["files"] = self._rows.marked(tables["files"], shard.vanished)
        with self.interruptions.deferred(), _said(f"part {shard.part}"):
            self._store.commit(shard.part, tables, len(shard.refs))
        reached("shard-committed")

    def tell(self, manager: pluggy.PluginManager, outcomes: Sequence[ClipOutcome], progress: Progress) -> None:
        """Let plugins observe finished files; one that fails is said once and never stops the run."""
        for plugin, error in hooks.clip_finished(manager, outcomes):
            if plugin not in self._silenced:
                self._silenced.add(plugin)
                progress.say(f"{error} (Said once.)")

    def complete(self, wall_s: float) -> None:
        """Write down what the run has come to."""
        found = self.plan.found
        totals = summarise(self._store, self._ingredients.labels)
        counts = {"found": len(found), **totals.pop("counts")}
        counts |= {"hidden_skipped": found.n_hidden, "unmatched": found.n_unmatched}
        counts |= {"system_skipped": found.n_system, "unlisted": len(found.unreadable)}
        self._manifest |= totals
        self._manifest["unlisted"] = found.unreadable[:_MOST_UNLISTED]
        self._manifest |= {"counts": counts, "wall_s": self._manifest["wall_s"] + wall_s, "state": "complete"}
        self._write_manifest()
        reached("run-completed")

    def interrupted(self) -> None:
        """Write down that the run ended early; if even that fails, what is there says it too."""
        if self._begun and self._manifest["state"] == "running":
            self._manifest["state"] = "interrupted"
            with suppress(RunError):
                self._write_manifest()

    def summary(self, n_processed: int) -> RunSummary:
        manifest = self._manifest
        return RunSummary(
            run_dir=self.run_dir,
            n_processed=n_processed,
            **{key: manifest.get(key, {}) for key in ("run_id", "counts", "emotions", "failures", "audio_s", "wall_s")},
            gaps=gaps_of(manifest),
        )

    def _write_manifest(self) -> None:
        self._manifest["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        data = json.dumps(self._manifest, indent=2).encode() + b"\n"
        with _said("run.json"):
            Filesystem().replace(self.run_dir / "run.json", data)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Turn an error of the disk into what to do about it."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"Cannot write {what} of the run: {error.strerror or error}. What was committed is whole. Mend the disk or "
            f"free some space, and give the same command again: it goes on from there."
        ) from error
