"""A run that is open for writing: locked, mended, planned; shards are committed to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.records import ClipOutcome, Status
from ser_batch.run.folder import check_ours, clear_scratch, writing
from ser_batch.run.journal import Filesystem
from ser_batch.run.layout import tables_of
from ser_batch.run.lock import refuse_if_written
from ser_batch.run.manifest import manifest_so_far, new_manifest
from ser_batch.run.metadata import FileTable
from ser_batch.run.place import Place
from ser_batch.run.plan import Plan, Shard, make_plan, part_size, read_index
from ser_batch.run.planned import PlanFile, plan_of, read_plan, remove_plan, write_plan
from ser_batch.run.published import Collector, belongs, n_not_taken_in, refuse_if_worked_on
from ser_batch.run.shards import make_part, row_maker
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.run.summary import RunSummary
from ser_batch.run.writer import Census, RunWriter
from ser_batch.stages.discover import NOT_SEEN_NS, FileList, Found
from ser_batch.stages.ingredients import Ingredients, differences
from ser_batch.storage.address import is_url, local_or_url

if TYPE_CHECKING:
    import pluggy

__all__ = ["OpenRun", "open_run", "preview_run"]


@contextmanager
def open_run(
    place: Place, ingredients: Ingredients, found: Found, mode: str, interruptions: Interruptions
) -> Iterator[OpenRun]:
    """Open a run for writing, or begin one.

    Parameters
    ----------
    place : Place
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
    run_dir = place.folder
    with ExitStack() as stack:
        filesystem = stack.enter_context(place.held())
        reached("locked")
        refuse_if_worked_on(run_dir)
        collected = _collected(run_dir, mode, filesystem, interruptions)
        manifest = _manifest_for(run_dir, mode, ingredients, found)
        store = RunStore(run_dir, filesystem)
        with writing("the folder"):
            store.create(tables_of(ingredients.n_embedding, ingredients.has_segments))
            notices = store.recover(manifest.get("run_id", ""), manifest.get("replaces", ""))
            clear_scratch(run_dir)
        reached("recovered")
        if mode == "restart":
            _refuse_to_lose(store, manifest, found)
            manifest = {"replaces": store.run_id()}
            store.begin_anew()
        elif not manifest:
            # Parts whose run.json is lost keep their identity.
            manifest = {"run_id": store.run_id()}
        plan = _plan(store, manifest, mode, ingredients, found)
        reached("planned")
        if plan.held:
            notices.append(
                f"{len(plan.held):,} parts that were made with other settings stay as they are: some of their files "
                f"cannot be looked at now. The next scan tries again."
            )
        run = OpenRun(place, store, ingredients, plan, manifest, list(dict.fromkeys([*collected, *notices])))
        run.interruptions = interruptions
        if run.is_complete:
            # Of a restart that was planned: whoever scans the run as it is has thought better of it.
            remove_plan(run_dir)
        try:
            yield run
        except BaseException:
            run.interrupted()
            raise


def _collected(run_dir: Path, mode: str, filesystem: Filesystem, interruptions: Interruptions) -> list[str]:
    """Commit what nodes have published of a plan, also before a restart, which may fail; return what is to be said."""
    try:
        plan = read_plan(run_dir)
    except RunError as error:
        if mode != "restart" and (n_parts := n_not_taken_in(run_dir)):
            raise RunError(
                f"{error} Nodes have published {n_parts:,} parts by it that the run does not have: with the plan from "
                f"a copy, `ser-batch complete {run_dir}` takes them in; delete it, and they are done again."
            ) from None
        return [str(error)]
    manifest = manifest_so_far(run_dir)
    if plan is None or not belongs(plan, manifest):
        return []
    done = Collector(run_dir, plan, filesystem, interruptions).take()
    if done.n_committed:
        done.notices.append(f"{done.n_committed:,} parts that nodes have done were taken in.")
    return done.notices


def preview_run(run_dir: Path, ingredients: Ingredients, found: Found, mode: str) -> Plan:
    """Return what `open_run` would plan, and refuse what it would refuse, without writing anything.

    Raises
    ------
    RunError
        As for `open_run`.
    """
    check_ours(run_dir)
    there = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"{run_dir} cannot be used for a run: {there} is not to be written.")
    refuse_if_written(run_dir)
    refuse_if_worked_on(run_dir)
    manifest = _manifest_for(run_dir, mode, ingredients, found)
    store = RunStore(run_dir)
    store.look(manifest.get("replaces", ""))
    if mode == "restart":
        _refuse_to_lose(store, manifest, found)
        store.begin_anew()
    return _plan(store, manifest, mode, ingredients, found)


def _refuse_to_lose(store: RunStore, manifest: Mapping[str, Any], found: Found) -> None:
    """Refuse a restart that would lose results whose files cannot be looked at now, so that none can be had again."""
    chunks = (zip(chunk.clip_ids, chunk.mtimes_ns, strict=True) for chunk in found.files.chunks())
    unseen = pa.array((name for chunk in chunks for name, time_ns in chunk if time_ns == NOT_SEEN_NS), pa.string())
    if manifest.get("root") != found.root or not (len(unseen) or found.unlisted):
        return
    n_lost, first = 0, ""
    with suppress(RunError):  # parts that cannot be read hold nothing that could be lost
        for _, rows in store.columns(("clip_id", "status")):
            names = rows.column("clip_id")
            is_unseen = pc.is_in(names, value_set=unseen)
            for prefix in found.unlisted:
                is_unseen = pc.or_(is_unseen, pc.starts_with(names, prefix))
            is_result = pc.not_equal(rows.column("status").cast(pa.string()), str(Status.FAILED))
            lost = names.filter(pc.and_(is_unseen, is_result))
            n_lost, first = n_lost + len(lost), first or (lost[0].as_py() if len(lost) else "")
    if n_lost:
        raise RunError(
            f"{n_lost:,} files of which {store.run_dir} has results cannot be looked at now, such as {first}: "
            f"`scan --restart` would lose them. Is all of the archive mounted? `scan --recompute changed` keeps them."
        )


def _manifest_for(run_dir: Path, mode: str, ingredients: Ingredients, found: Found) -> dict[str, Any]:
    """Return ``run.json``, empty for a new run; refuse to go on with results of other audio or other settings."""
    manifest = manifest_so_far(run_dir)
    if mode == "retry" and not manifest:
        raise RunError(f"{run_dir} is not a run, so there is nothing to try again.")
    if mode in ("resume", "retry"):
        _check_same(run_dir, manifest, ingredients, found)
    return manifest


def _plan(store: RunStore, manifest: dict[str, Any], mode: str, ingredients: Ingredients, found: Found) -> Plan:
    index = read_index(store, ingredients.fingerprint())
    if mode in ("resume", "retry") and "fingerprint" not in manifest and not index.is_current:
        raise RunError(f"{store.run_dir} has parts made with other settings, but no run.json that says which. {_CURES}")
    # By the settings; else as the run began, which may have been smaller.
    most_parts = store.filesystem.most_parts
    shard_size = ingredients.config.run.shard_size or manifest.get("shard_size") or part_size(len(found), most_parts)
    return make_plan(found, index, shard_size, retry=mode == "retry")


_CURES = (
    "`ser-batch scan` keeps both with --new-run DIR, processes what this concerns again in this run with --recompute "
    "changed, and deletes its results and begins again with --restart."
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


class OpenRun(RunWriter):
    """A run that this process holds and scans into; made by `open_run`."""

    def __init__(
        self,
        place: Place,
        store: RunStore,
        ingredients: Ingredients,
        plan: Plan,
        manifest: dict[str, Any],
        notices: Sequence[str],
    ) -> None:
        super().__init__(place.folder, store, manifest)
        self._place = place
        self.plan, self.notices = plan, tuple(map(place.told, notices))
        self.config = ingredients.config
        self._ingredients = ingredients
        #: The first of the files that could not be looked at.
        self._first_kept = ""

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing at all to do."""
        same_place = self._manifest.get("root") == self.plan.found.root
        is_whole = not self._store.lost and self._manifest.get("state") == "complete"
        return self.plan.is_empty and same_place and is_whole

    def begin(
        self,
        manager: pluggy.PluginManager,
        inputs: Any,
        about: FileTable | None,
        device: Mapping[str, str] | None,
    ) -> None:
        """Say what this visit is; `device` says where the network computes, None that it does not.

        It is written down now, unless it takes the place of what the run has: then with the first part, so that nothing
        of the run is changed before a worker has shown that it can do the work.
        """
        old = self._manifest
        manifest = new_manifest(self._ingredients, manager, old)
        if not isinstance(inputs, FileList):
            paths = map(local_or_url, map(os.fspath, inputs))
            manifest["inputs"] = [path if is_url(path) else os.path.abspath(path) for path in paths]  # noqa: PTH100
        elif inputs.source != "-":
            manifest["files_from"] = os.path.abspath(inputs.source)  # noqa: PTH100 - resolve() would follow links
        else:
            # Kept for a later `retry`.
            name = self._place.name
            here = os.path.abspath(self.run_dir / "files-from.list")  # noqa: PTH100 - resolve() would follow links
            manifest["files_from"] = f"{name}/files-from.list" if is_url(name) else here
            self.put_beside("files-from.list", b"\0".join(os.fsencode(name) for name in inputs.paths) + b"\0")
        manifest["root"] = self.plan.found.root
        manifest["shard_size"] = self.plan.shard_size
        manifest["device"] = old.get("device", {}) if device is None else dict(device)
        manifest["visit"] = {
            "begun": manifest["updated"],
            "n_found": len(self.plan.found),
            "n_files": self.plan.n_files,
            "n_commits_before": len(self._store.commits),
        }
        if about is not None:
            manifest["metadata"] = {"path": "metadata.parquet"}
            self.put_beside("metadata.parquet", about.as_parquet())
        self._manifest = manifest
        self._rows = row_maker(self._ingredients, manifest)
        remove_plan(self.run_dir)
        if "replaces" not in manifest and old.get("fingerprint", manifest["fingerprint"]) == manifest["fingerprint"]:
            self._write_down()

    def commit(self, shard: Shard, outcomes: Sequence[ClipOutcome]) -> None:
        """Write a shard as a part, or into the part it belongs to.

        Raises
        ------
        RunError
            The disk is full or broken; what was committed before is whole.
        """
        made = make_part(shard, outcomes, self._rows, self._store)
        self.note_kept(len(made.kept))
        self._first_kept = self._first_kept or min(made.kept, default="")
        if not made.tables:
            return
        with self.interruptions.deferred(), writing(f"part {shard.part}"):
            entry = self._store.stage(shard.part, made.tables, len(shard.refs))
            self.commit_staged(entry)

    @property
    def kept_notice(self) -> str:
        """Say which files could not be looked at, so that the run keeps what it had of them; "" for none."""
        if not self._n_kept:
            return ""
        return (
            f"{self._n_kept:,} files could not be looked at, such as {self._first_kept}: what the run has of them "
            f"stays as it was. The next scan tries again."
        )

    def complete(self, wall_s: float) -> None:
        """Write down what the run has come to."""
        self.finish(Census.of(self.plan.found), wall_s)

    def summary(self, n_processed: int) -> RunSummary:
        return replace(super().summary(n_processed), run_dir=self._place.name)

    def leave_to_nodes(self, manager: pluggy.PluginManager) -> PlanFile:
        """Write the plan for nodes, which do the work; see `ser_batch.run.planned`."""
        with self.interruptions.deferred(), writing("the plan"):
            plan = write_plan(self.run_dir, self.plan, self._store, self._ingredients, manager, self._manifest,
                              self._beside)  # fmt: skip
        self.postpone()
        return plan

    def collector(self) -> Collector:
        """Return what commits what nodes do of the plan that was left to them."""
        return Collector(self.run_dir, plan_of(self.run_dir), self._store.filesystem, self.interruptions)
