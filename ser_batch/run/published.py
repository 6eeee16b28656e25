"""What nodes have published, committed to the run: for whoever holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.run.attempts import Attempts, Manifest, living_nodes
from ser_batch.run.folder import writing
from ser_batch.run.journal import Entry, Filesystem
from ser_batch.run.layout import ATTEMPTS, staged_by
from ser_batch.run.manifest import read_manifest
from ser_batch.run.parquet import footer_crc32
from ser_batch.run.planned import PlanFile
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.run.writer import RunWriter

__all__ = ["Collected", "belongs", "collect", "is_done", "refuse_if_worked_on"]

#: Parts that are committed at once: one flush of the journal for all.
_GROUP = 64


@dataclass(eq=False)
class Collected:
    """What has become of a plan."""

    writer: RunWriter
    #: Of the plan; and of these, that are committed now, and by this call.
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
    #: Classes of the processors that computed the parts of the run.
    processors: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def refuse_if_worked_on(run_dir: Path) -> None:
    """Refuse to scan into a run on whose plan nodes are at work.

    Raises
    ------
    RunError
        They are; says where.
    """
    living: dict[str, dict[str, Any]] = {}
    for folder in (run_dir / ATTEMPTS).glob("*/nodes"):
        living |= living_nodes(folder)
    if living:
        hosts = ", ".join(sorted({str(told.get("host", "?")) for told in living.values()})[:5])
        raise RunError(
            f"{run_dir} is being worked on by {len(living)} nodes ({hosts}). Wait for them or stop them; "
            f"`ser-batch complete {run_dir}` takes in what they have done, also while they work."
        )


def is_done(plan: PlanFile, place: int, entry: Entry | None) -> bool:
    """Tell whether a part of a plan, given by its place, has been committed; `entry` is what the run has of it."""
    if entry is None or entry.run_id != plan.run_id:
        return False
    return entry.tables["files"].sha256 != plan.parts[place].base


def belongs(plan: PlanFile, manifest: Mapping[str, Any]) -> bool:
    """Tell whether a plan is of the run whose ``run.json`` this is, or of one that is to take its place."""
    return not manifest or manifest.get("run_id") in (plan.run_id, plan.manifest.get("replaces", ""))


def collect(run_dir: Path, plan: PlanFile, filesystem: Filesystem, interruptions: Interruptions) -> Collected:
    """Commit all that nodes have published of a plan, and sweep what dead ones have left; for who holds the lock.

    It may be called as often as one likes, also while nodes are at work, and killed at any moment.

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
    writer, store, notices = _open(run_dir, plan, filesystem)
    writer.interruptions = interruptions
    attempts, done = Attempts(run_dir, plan.plan_id), Collected(writer, len(plan.parts), notices=notices)
    # In this order: what a dead node has published, it has published before it was seen to be dead.
    done.living = attempts.living()
    place_of, group = plan.place_of, []
    stays: set[int] = set()
    for manifest in _manifests(attempts, plan, done):
        place = place_of[manifest.part]
        if manifest.entry is None:
            stays.add(manifest.part)
            writer.note_kept(manifest.n_kept)
            continue
        now = store.entries.get(manifest.part)
        if is_done(plan, place, now):
            if now is not None and now.tables["files"] == manifest.entry.tables["files"]:
                writer.note_kept(manifest.n_kept)
            continue
        if problem := _problem_with_staged(run_dir, manifest.entry):
            notices.append(f"Part {manifest.part} as node {manifest.node} on {manifest.host} published it {problem}; "
                           f"it is processed again.")  # fmt: skip
            attempts.refuse(manifest.part)
            continue
        writer.note_kept(manifest.n_kept)
        group.append(manifest)
        if len(group) == _GROUP:
            _commit(group, done)
    if group:
        _commit(group, done)
    entries = store.entries
    finished = [
        is_done(plan, place, entries.get(planned.part)) or planned.part in stays
        for place, planned in enumerate(plan.parts)
    ]
    done.n_done, done.n_second = sum(finished), attempts.n_second()
    done.processors = sorted({entry.cpu for entry in entries.values() if entry.cpu})
    with writing("what nodes have left"):
        spans = {}
        for first, last in plan.bundles:
            end = plan.parts[last - 1]
            spans[plan.parts[first].first, end.first + end.n_rows] = all(finished[first:last])
        attempts.sweep(done.living, spans, keep_staged=done.n_unread > 0)
        # Which files could not be looked at stands in manifests alone.
        if all(finished) and not done.living and not writer.n_kept:
            attempts.remove()
    reached("swept")
    return done


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
            writer.put_beside(name, (plan.folder / name).read_bytes())
        except OSError as error:
            raise RunError(f"{plan.folder / name} cannot be read: {error.strerror}. Plan again.") from None
    reached("collecting")
    return writer, store, notices


def _manifests(attempts: Attempts, plan: PlanFile, done: Collected) -> Iterator[Manifest]:
    """Yield the manifests that are what they should be; set others aside, and say so."""
    places = plan.place_of
    for part in sorted(attempts.published()):
        try:
            manifest = attempts.manifest(part)
            problem = _problem_with(manifest, part, plan, places)
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
            with path.open("rb") as file:
                if (
                    path.is_symlink()
                    or file.seek(0, 2) != written.n_bytes
                    or footer_crc32(file) != written.footer_crc32
                ):
                    return f"has a damaged {name} ({path.name})"
        except FileNotFoundError:
            return f"is missing {name} ({path.name})"
    return ""


def _commit(group: list[Manifest], done: Collected) -> None:
    done.writer.commit_staged(*(manifest.entry for manifest in group if manifest.entry is not None))
    done.n_committed += len(group)
    done.n_files += sum(manifest.entry.n_processed for manifest in group if manifest.entry is not None)
    done.wall_s += sum(manifest.wall_s for manifest in group)
    group.clear()


def done_parts(plan: PlanFile, entries: Mapping[int, Entry]) -> set[int]:
    """Return the places of the parts of a plan that a run has, by the entries of its journal."""
    return {place for place, item in enumerate(plan.parts) if is_done(plan, place, entries.get(item.part))}
