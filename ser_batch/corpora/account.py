"""What became of every file that was found: taken, passed over, or there twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.errors import DataError
from ser_batch.records import LabelledClip

__all__ = ["Account", "Reading", "without_twins"]


@dataclass(slots=True)
class Account:
    """The files of one corpus in one folder: found = taken + passed over + twice."""

    folder: Path
    #: Name of the corpus; ``""`` for files of which nobody knows what they are.
    corpus: str
    n_found: int = 0
    n_taken: int = 0
    #: Files whose very same audio is taken from another file.
    n_twice: int = 0
    #: Reason -> files.
    passed_over: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Say it in one line."""
        passed = self.passed_over.total()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.passed_over.most_common())
        terms = [f"{self.n_taken:,} taken"]
        terms += [f"{passed:,} passed over ({reasons})"] if passed else []
        terms += [f"{self.n_twice:,} twice"] if self.n_twice else []
        return f"{self.corpus or 'unknown'}, {self.folder}: {self.n_found:,} files found = {' + '.join(terms)}."


@dataclass(slots=True)
class Reading:
    """Labelled clips, and what became of all files beside them."""

    clips: list[LabelledClip] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Say what was found, a line for each corpus in each folder, and what readers had to remark."""
        yield from (account.line() for account in self.accounts)
        yield from self.remarks


def without_twins(clips: Sequence[LabelledClip]) -> tuple[list[LabelledClip], list[LabelledClip]]:
    """Part clips into those to keep and those that hold the very same bytes as one that is kept.

    Raises
    ------
    DataError
        The same audio is there as two emotions or of two speakers.
    """
    by_size: dict[int, list[LabelledClip]] = {}
    for clip in clips:
        by_size.setdefault(_size_of(clip.path), []).append(clip)
    first: dict[bytes, LabelledClip] = {}
    twins: list[LabelledClip] = []
    # Empty files are broken files, not the same audio.
    for group in (group for size, group in by_size.items() if size and len(group) > 1):
        # Who speaks is known of one of two twins, perhaps.
        for clip in sorted(group, key=lambda clip: (not clip.speaker, len(Path(clip.path).parts), clip.path)):
            other = first.setdefault(_digest(clip.path), clip)
            if other is clip:
                continue
            if clip.emotion != other.emotion or (clip.speaker and clip.speaker != other.speaker):
                raise DataError(
                    f"{other.path} and {clip.path} hold the very same audio, but as {other.emotion} of "
                    f"{other.speaker or 'somebody'} and {clip.emotion} of {clip.speaker or 'somebody'}. Remove one."
                )
            twins.append(clip)
    dropped = {clip.path for clip in twins}
    return [clip for clip in clips if clip.path not in dropped], twins


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # said when it is to be read


def _digest(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path.encode(errors="surrogateescape")
