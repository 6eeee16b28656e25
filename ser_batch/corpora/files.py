"""Files of a corpus, found by the walk of a scan."""

from __future__ import annotations

from pathlib import Path

from ser_batch.errors import InputError
from ser_batch.stages.discover import discover

__all__ = ["VIDEO_SUFFIXES", "audio_files", "media_files"]

#: Corpora come with videos; what is not read of them is counted.
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".flv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp")


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files below `folder`, linked folders included, in the order of their names.

    Raises
    ------
    InputError
        The folder, or one below it, cannot be listed.
    """
    return _found(folder, ())


def media_files(folder: Path) -> list[Path]:
    """Return the audio files and the videos below `folder`, as `audio_files` does."""
    return _found(folder, ("*", *(f"*{suffix}" for suffix in VIDEO_SUFFIXES)))


def _found(folder: Path, include: tuple[str, ...]) -> list[Path]:
    found = discover([folder], include)
    if found.unreadable:
        raise InputError(f"Folder {found.unreadable[0]}. Make it readable, or move it out of {folder}.")
    inside = len(found.root.rstrip("/")) + 1
    # Below the folder as it was named: messages and tables show what the user typed.
    return [folder / found.ref(index).path[inside:] for index in range(len(found))]
