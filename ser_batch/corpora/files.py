"""Files of a corpus, found by the walk of a scan."""

from __future__ import annotations

from pathlib import Path

from ser_batch.audio.formats import FILM_SUFFIXES
from ser_batch.errors import InputError
from ser_batch.stages.discover import discover

__all__ = ["audio_files", "is_film", "media_files"]


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files below `folder`, films apart, linked folders included, in the order of their names.

    Raises
    ------
    InputError
        The folder, or one below it, cannot be listed.
    """
    return [path for path in media_files(folder) if not is_film(path)]


def media_files(folder: Path) -> list[Path]:
    """Return the audio files and the films below `folder`, as `audio_files` does."""
    found = discover([folder])
    if found.unreadable:
        raise InputError(f"Folder {found.unreadable[0]}. Make it readable, or move it out of {folder}.")
    inside = len(found.root.rstrip("/")) + 1
    # Below the folder as it was named: messages and tables show what the user typed.
    return [folder / found.ref(index).path[inside:] for index in range(len(found))]


def is_film(path: Path) -> bool:
    """Whether a file is a film by its suffix: corpora come with some, whose sound is not learnt from."""
    return path.suffix.lower() in FILM_SUFFIXES
