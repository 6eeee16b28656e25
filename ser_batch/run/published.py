"""What nodes have published, committed to the run: for whoever holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ser_batch.atomic import NO_FOLLOW, NOT_A_FILE, open_file, read_file
from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.run.attempts import Attempts, Manifest, Span
from ser_batch.run.folder import writing
from ser_batch.run.journal import Entry, Filesystem
from ser_batch.run.layout import ATTEMPTS, PLAN_ID, staged_by
from ser_batch.run.manifest import read_manifest
from ser_batch.run.parquet import footer_crc32
from ser_batch.run.planned import PlanFile
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.run.writer import RunWriter

__all__ = ["Collected", "Collector", "belongs", "done_parts", "is_done", "n_not_taken_in", "refuse_if_worked_on"]

#: Parts that are committed at once: one flush of the journal for all.
_GROUP = 64


@dataclass(eq=False)
class Collected:
    """What has become of a plan; counts are of the whole, or of one call of `Collector.take` where they say so."""

    writer: RunWriter
    #: Of the plan; of these, of which nothing is left to do; and that this call has committed, with so many files.
    n_parts: int
    n_done: int = 0
    n_committed: int = 0
    n_files: int = 0
    #: Time that nodes have spent on the parts committed by this call.
    wall_s: float = 0.0
    #: Parts that two nodes have done; the first counts.
    n_second: int = 0
    #: Manifests that are in the making.
    n_unread: int = 0
    #: Nodes at work: node -> what it says of itself.
    living: dict[str, dict[str, Any]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def refuse_if_worked_on(run_dir: Path) -> None:
    """Refuse to scan into a run on whose plan nodes are at work.

    Raises
    ------
    RunError
        They are; says where.
    """
    living: dict[str, dict[str, Any]] = {}
    for attempts in _attempts_of(run_dir):
        living |= attempts.living()
    if living:
        hosts = ", ".join(sorted({str(told.get("host", "?")) for told in living.values()})[:5])
        raise RunError(
            f"{run_dir} is being worked on by {len(living)} nodes ({hosts}). Wait for them or stop them; "
            f"`ser-batch complete {run_dir}` takes in what they have done, also while they work."
        )


def n_not_taken_in(run_dir: Path) -> int:
    """Count the parts that nodes have published, by whatever plan, and that the run does not have. Raises RunError."""
    store = RunStore(run_dir)
    store.look()
    n_parts = 0
    for attempts in _attempts_of(run_dir):
        for part in attempts.published():
            with suppress(OSError, ValueError):
                entry, has = attempts.manifest(part).entry, store.entries.get(part)
                n_parts += entry is not None and (has is None or has.tables["files"] != entry.tables["files"])
    return n_parts


def _attempts_of(run_dir: Path) -> Iterator[Attempts]:
    for folder in (run_dir / ATTEMPTS).glob("*"):
        if PLAN_ID.fullmatch(folder.name):
            yield Attempts(run_dir, folder.name)


def is_done(plan: PlanFile, place: int, entry: Entry | None) -> bool:
    """Tell whether a part of a plan, given by its place, has been committed; `entry` is what the run has of it."""
    if entry is None or entry.run_id != plan.run_id:
        return False
    return entry.tables["files"].sha256 != plan.parts[place].base


def belongs(plan: PlanFile, manifest: Mapping[str, Any]) -> bool:
    """Tell whether a plan is of the run whose ``run.json`` this is, or of one that is to take its place."""
    return not manifest or manifest.get("run_id") in (plan.run_id, plan.manifest.get("replaces", ""))


class Collector:
    """Commits what nodes have published of a plan, and sweeps what dead ones have left; for who holds the lock.

    It may be asked to as often as one likes, also while nodes are at work, and killed at any moment. Each time costs
    by what is new, so that a driver of many nodes may ask all the time.

    Parameters
    ----------
    run_dir : Path
    plan : PlanFile
    filesystem : Filesystem
        What the lock gives.
    interruptions : Interruptions
        Entered; signals wait while parts are committed.

    Raises
    ------
    RunError
        The run and the plan do not belong together, a part is damaged, or the disk is full or broken.
    """

    def __init__(self, run_dir: Path, plan: PlanFile, filesystem: Filesystem, interruptions: Interruptions) -> None:
        self._run_dir, self.plan = run_dir, plan
        self.writer, self._store, self._notices = _open(run_dir, plan, filesystem)
        self.writer.interruptions = interruptions
        self._attempts, self._place_of = Attempts(run_dir, plan.plan_id), plan.place_of
        #: Places of parts of which nothing is left to do.
        self._finished = done_parts(plan, self._store.entries)
        #: Parts whose manifests have been dealt with.
        self._seen: set[int] = set()

    @property
    def finished(self) -> set[int]:
        """Places of parts of the plan of which nothing is left to do; not to be changed."""
        return self._finished

    def take(self) -> Collected:
        """Commit what is new. Raises RunError as above."""
        attempts, seen = self._attempts, self._seen
        done = Collected(self.writer, len(self.plan.parts), notices=self._notices)
        self._notices = []
        # In this order: a node that begins meanwhile has left nothing; and what a dead one has published, it has
        # published before it was seen to be dead.
        with writing("the folder of nodes"):
            left = attempts.left()
            done.living = attempts.living()
            published = attempts.published() - seen
        group: list[Manifest] = []
        for manifest in self._manifests(published, done):
            seen.add(manifest.part)
            if self._is_to_commit(manifest, done):
                group.append(manifest)
            if len(group) == _GROUP:
                self._commit(group, done)
        if group:
            self._commit(group, done)
        done.n_done, done.n_second = len(self._finished), attempts.n_second()
        with writing("what nodes have left"):
            garbage = [path for path, node in left.items() if node not in done.living]
            attempts.sweep(garbage, self._spans(), keep_staged=done.n_unread > 0)
            # Which files could not be looked at stands in manifests alone.
            if done.n_done == done.n_parts and not done.living and not self.writer.n_kept:
                attempts.remove()
        reached("swept")
        return done

    @property
    def processors(self) -> list[str]:
        """Classes of the processors that computed the parts of the run."""
        return sorted({entry.cpu for entry in self._store.entries.values() if entry.cpu})

    def _spans(self) -> dict[Span, bool]:
        """Return the rows of each bundle, and whether nothing is left to do of them."""
        spans = {}
        for first, last in self.plan.bundles:
            end = self.plan.parts[last - 1]
            rows = self.plan.parts[first].first, end.first + end.n_rows
            spans[rows] = self._finished.issuperset(range(first, last))
        return spans

    def _manifests(self, parts: set[int], done: Collected) -> Iterator[Manifest]:
        """Yield the manifests that are what they should be; set others aside, and say so."""
        attempts = self._attempts
        for part in sorted(parts):
            try:
                manifest = attempts.manifest(part)
                problem = _problem_with(manifest, part, self.plan, self._place_of)
            except FileNotFoundError:
                continue
            except ValueError as error:
                if attempts.is_in_the_making(part):
                    done.notices.append(f"The manifest of part {part} cannot be read yet ({error}).")
                    done.n_unread += 1
                    continue
                problem = str(error)
            except OSError as error:
                raise RunError(f"The manifest of part {part} cannot be read: {error.strerror}.") from None
            if problem:
                aside = attempts.refuse(part)
                done.notices.append(
                    f"The manifest of part {part} is set aside as {aside}, and the part is processed again: {problem}."
                )
                continue
            yield manifest

    def _is_to_commit(self, manifest: Manifest, done: Collected) -> bool:
        place, entry = self._place_of[manifest.part], manifest.entry
        if entry is None:
            self._finished.add(place)
            self.writer.note_kept(manifest.n_kept)
            return False
        if place in self._finished:
            now = self._store.entries.get(manifest.part)
            if now is not None and now.tables["files"] == entry.tables["files"]:
                self.writer.note_kept(manifest.n_kept)
            return False
        if problem := _problem_with_staged(self._run_dir, entry):
            done.notices.append(
                f"Part {manifest.part} as node {manifest.node} on {manifest.host} published it {problem}; it is "
                f"processed again."
            )
            self._attempts.refuse(manifest.part)
            self._seen.discard(manifest.part)
            return False
        self.writer.note_kept(manifest.n_kept)
        return True

    def _commit(self, group: list[Manifest], done: Collected) -> None:
        self.writer.commit_staged(*(manifest.entry for manifest in group if manifest.entry is not None))
        self._finished.update(self._place_of[manifest.part] for manifest in group)
        done.n_committed += len(group)
        done.n_files += sum(manifest.entry.n_processed for manifest in group if manifest.entry is not None)
        done.wall_s += sum(manifest.wall_s for manifest in group)
        group.clear()


def _open(run_dir: Path, plan: PlanFile, filesystem: Filesystem) -> tuple[RunWriter, RunStore, list[str]]:
    there = read_manifest(run_dir) if (run_dir / "run.json").exists() else {}
    replaced = plan.manifest.get("replaces", "")
    if not belongs(plan, there):
        raise RunError(f"plan.json in {run_dir} is of another run than run.json. Plan again, or restore the one that "
                       f"belongs to the parts.")  # fmt: skip
    store = RunStore(run_dir, filesystem)
    with writing("the folder"):
        store.create(plan.manifest["tables"])
        notices = store.recover(there.get("run_id", ""), there.get("replaces", ""))
    is_written = there.get("run_id") == plan.run_id and there.get("fingerprint") == plan.manifest["fingerprint"]
    if replaced and not is_written:
        store.begin_anew()
    writer = RunWriter(run_dir, store, there if is_written else plan.manifest, is_written)
    for name in () if is_written else plan.beside:
        try:
            writer.put_beside(name, read_file(plan.folder / name, NO_FOLLOW))
        except OSError as error:
            raise RunError(f"{plan.folder / name} cannot be read: {error.strerror}. Plan again.") from None
    reached("collecting")
    return writer, store, notices


def _problem_with(manifest: Manifest, part: int, plan: PlanFile, places: dict[int, int]) -> str:
    """Say why a manifest is none of this plan; "" where it is one."""
    entry = manifest.entry
    if manifest.plan != plan.plan_id:
        return f"it is of plan {manifest.plan}, and this is {plan.plan_id}"
    if manifest.part != part or part not in places or (entry is not None and entry.part != part):
        return "it names another part"
    if manifest.base != plan.parts[places[part]].base:
        return "it was made from another state of the part"
    if entry is None:
        return "" if manifest.base else "it has no files"
    for name in ("run_id", "fingerprint"):
        if getattr(entry, name) != plan.manifest[name]:
            return f"its {name} is {getattr(entry, name)}, that of the plan {plan.manifest[name]}"
    if not entry.attempt.startswith(f"{plan.plan_id}/{manifest.node}-"):
        return "it names files that are not its node's"
    if sorted(entry.tables) != sorted(plan.manifest["tables"]):
        return f"it has the tables {', '.join(sorted(entry.tables))}"
    return ""


def _problem_with_staged(run_dir: Path, entry: Entry) -> str:
    """Say what is wrong with the files that a manifest names, by a cheap look at them; "" for nothing."""
    for name, written in entry.tables.items():
        path = staged_by(run_dir, entry.attempt, name)
        try:
            with open_file(path, NO_FOLLOW) as file:
                if file.seek(0, 2) != written.n_bytes or footer_crc32(file) != written.footer_crc32:
                    return f"has a damaged {name} ({path.name})"
        except FileNotFoundError:
            return f"is missing {name} ({path.name})"
        except OSError as error:
            if error.errno not in NOT_A_FILE:
                raise RunError(f"{path} cannot be read: {error.strerror}.") from None
            return f"has something else in the place of {name} ({path.name})"
    return ""


def done_parts(plan: PlanFile, entries: Mapping[int, Entry]) -> set[int]:
    """Return the places of the parts of a plan that a run has, by the entries of its journal."""
    return {place for place, item in enumerate(plan.parts) if is_done(plan, place, entries.get(item.part))}
