"""How work tells what it does; this silent one is for programs, the terminal's is in `cli`."""

from __future__ import annotations

from collections.abc import Sequence

from ser_batch.records import ClipOutcome

__all__ = ["Progress"]


class Progress:
    """Told how work goes; does nothing with it. Subclasses show it. All methods are called in the parent process."""

    def begin(self, n_files: int, n_found: int) -> None:
        """Work begins: `n_files` are to be processed of `n_found`."""

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        """Some files are done, in no particular order."""

    def step(self, what: str, done: int, total: int) -> None:
        """Work that is counted in other things than files, such as epochs: `done` of `total` are done."""

    def say(self, text: str) -> None:
        """Something that people should know. May hold text from file names or plugins: escape it."""

    def end(self) -> None:
        """Work ended, well or not."""
