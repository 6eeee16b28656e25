"""A run that this process holds: parts are committed to it, and ``run.json`` says what it has come to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ser_batch.doubts import doubts_of_run
from ser_batch.errors import RunError
from ser_batch.interrupt import Interruptions
from ser_batch.records import Status
from ser_batch.run.folder import writing
from ser_batch.run.journal import Entry
from ser_batch.run.steps import reached
from ser_batch.run.store import RunStore
from ser_batch.run.summary import RunSummary, gaps_of, summarise
from ser_batch.stages.discover import Found

__all__ = ["Census", "RunWriter"]

#: Folders that could not be listed which run.json names.
_MOST_UNLISTED = 20


@dataclass(frozen=True, slots=True)
class Census:
    """What a walk through the archive came to, for the counts of a run."""

    found: int
    hidden_skipped: int
    unmatched: int
    system_skipped: int
    #: Folders.
    unlisted: int
    #: The first of these folders, and why.
    first_unlisted: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Found) -> Census:
        unlisted = found.unreadable
        counts = found.n_hidden, found.n_unmatched, found.n_system, len(unlisted)
        return cls(len(found), *counts, tuple(unlisted[:_MOST_UNLISTED]))

    @classmethod
    def of_run(cls, manifest: Mapping[str, Any]) -> Census:
        """Return that of the last scan of a run, by its ``run.json``."""
        counts = manifest.get("counts", {})
        numbers = {item.name: counts.get(item.name, 0) for item in fields(cls)}
        return cls(**numbers | {"first_unlisted": tuple(manifest.get("unlisted", ()))})

    def counts(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "first_unlisted"}


class RunWriter:
    """Commits parts to a run and writes its ``run.json``; for the process that holds the lock.

    Parameters
    ----------
    run_dir : Path
    store : RunStore
        Recovered.
    manifest : mapping
        What ``run.json`` is to say.
    is_written : bool
        Whether it says so already. If not, it is written with the first part, so that nothing of the run is changed
        before somebody has shown that the work can be done.
    """

    interruptions: Interruptions

    def __init__(self, run_dir: Path, store: RunStore, manifest: Mapping[str, Any], is_written: bool = False) -> None:
        self.run_dir, self._store = run_dir, store
        self._manifest: dict[str, Any] = dict(manifest)
        self._is_written = is_written
        #: Files to be written with run.json: name -> content.
        self._beside: dict[str, bytes | memoryview] = {}
        #: Files that could not be looked at, of which the run keeps what it had.
        self._n_kept = 0

    def put_beside(self, name: str, data: bytes | memoryview) -> None:
        """Have a file written with ``run.json``."""
        self._beside[name] = data

    def note_kept(self, n_files: int) -> None:
        """Take in that some files could not be looked at, so that the run is not whole."""
        self._n_kept += n_files

    def commit_staged(self, *entries: Entry) -> None:
        """Commit parts that are staged; interruptions wait.

        Raises
        ------
        RunError
            The disk is full or broken; what was committed before is whole.
        """
        with self.interruptions.deferred(), writing(f"part {entries[0].part}"):
            if not self._is_written:
                self._write_down()
            self._store.commit(*entries)
        reached("shard-committed")

    def _write_down(self) -> None:
        for name, data in self._beside.items():
            with writing(name):
                self._store.filesystem.replace(self.run_dir / name, data)
        self._beside.clear()
        self._write_manifest()
        self._is_written = True
        reached("manifest-written")

    def finish(self, census: Census, wall_s: float, may_be_whole: bool = True) -> None:
        """Write down what the run has come to.

        Parameters
        ----------
        census : Census
            Of the walk that planned it.
        wall_s : float
            Time that was spent on it since this was last written down, by all who worked on it.
        may_be_whole : bool
            False where it is known that something is missing.
        """
        totals = summarise(self._store, tuple(self._manifest["labels"]))
        counts = census.counts() | totals.pop("counts")
        if not self._is_written:
            self._write_down()
        self._manifest.pop("replaces", None)
        self._manifest |= totals
        self._manifest["unlisted"] = list(census.first_unlisted)
        n_rows = sum(counts[status] for status in Status)
        is_current = all(entry.fingerprint == self._manifest["fingerprint"] for entry in self._store.entries.values())
        is_whole = n_rows == counts["found"] + counts["vanished"] and is_current and not self._n_kept and may_be_whole
        if is_whole:
            with writing("the journal"):
                self._store.give_up_lost()
        self._manifest["state"] = "complete" if is_whole else "incomplete"
        self._manifest |= {"counts": counts, "wall_s": self._manifest["wall_s"] + wall_s}
        self._write_manifest()
        reached("run-completed")

    def postpone(self) -> None:
        """Write down that the run is planned, and that others are to do the work."""
        if self._is_written:
            self._manifest["state"] = "incomplete"
            self._write_manifest()

    def interrupted(self) -> None:
        """Write down that the run ended early; if even that fails, what is there says it too."""
        if self._is_written and self._manifest["state"] == "running":
            self._manifest["state"] = "interrupted"
            with suppress(RunError):
                self._write_manifest()

    @property
    def n_kept(self) -> int:
        """Files that could not be looked at, of which the run keeps what it had."""
        return self._n_kept

    @property
    def is_written(self) -> bool:
        """Whether ``run.json`` says what this run is."""
        return self._is_written

    @property
    def state(self) -> str:
        """What ``run.json`` says, one of `ser_batch.run.fields.STATES`."""
        return str(self._manifest.get("state", ""))

    def summary(self, n_processed: int) -> RunSummary:
        manifest = self._manifest
        return RunSummary(
            run_dir=self.run_dir,
            n_processed=n_processed,
            doubts=tuple(doubts_of_run(manifest, manifest.get("emotions", {}))),
            **{key: manifest.get(key, {}) for key in ("run_id", "counts", "emotions", "failures", "audio_s", "wall_s")},
            gaps=gaps_of(manifest),
        )

    def _write_manifest(self) -> None:
        self._manifest["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        data = json.dumps(self._manifest, indent=2).encode() + b"\n"
        with writing("run.json"):
            self._store.filesystem.replace(self.run_dir / "run.json", data)
