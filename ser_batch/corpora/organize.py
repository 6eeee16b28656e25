"""Sorts the clips of a corpus as downloaded into folders named by emotion, the shape of ``data/raw``."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.atomic import open_atomic, write_atomic
from ser_batch.corpora.files import audio_files
from ser_batch.corpora.folders import SPEAKERS_FILE
from ser_batch.corpora.labels import label_columns, table_beside
from ser_batch.errors import ConfigError, DataError, InputError
from ser_batch.records import LabelledClip
from ser_batch.tables.match import match_rows
from ser_batch.tables.table import Table, read_table, with_rows

__all__ = ["Placement", "Sorting", "check_destination", "place", "plan_sorting"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one clip goes."""

    clip: LabelledClip
    target: Path
    #: The destination holds the very same audio under this name already.
    is_there: bool


@dataclass(slots=True)
class Sorting:
    """What goes where, and what stays behind."""

    placements: list[Placement] = field(default_factory=list)
    #: Emotion -> clips, for emotions that were not asked for.
    not_wanted: Counter[str] = field(default_factory=Counter)
    #: Emotion -> clips, for what is a code of the corpus alone.
    not_known: Counter[str] = field(default_factory=Counter)

    def n_clips(self, emotion: str) -> int:
        """Clips in the folder of one emotion."""
        return sum(item.clip.emotion == emotion for item in self.placements)

    def speakers(self, emotion: str | None = None) -> set[str]:
        """Speakers of one emotion, or of all; ``""`` is not among them."""
        wanted = (item.clip for item in self.placements if emotion in (None, item.clip.emotion))
        return {clip.speaker for clip in wanted if clip.speaker}


def check_destination(source: Path, dest: Path) -> None:
    """Refuse a destination that would mix with the source.

    Raises
    ------
    ConfigError
        One of the two lies in the other, or the destination is a file.
    """
    if dest.exists() and not dest.is_dir():
        raise ConfigError(f"DEST {dest} is a file; give a folder.")
    inner, outer = dest.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ConfigError(
            f"DEST {dest} and SRC {source} lie in one another: what is sorted would mix with the download. "
            f"Give a DEST outside of SRC, and keep SRC out of DEST."
        )


def plan_sorting(clips: Iterable[LabelledClip], dest: Path, emotions: Collection[str] | None) -> Sorting:
    """Decide where each clip goes; nothing is written.

    The name of a file in `dest` is its speaker, an underscore and its own name, so that training finds the speaker
    again. A name that other audio has already gets a part of the hash of its content, so nothing is ever overwritten,
    and planning the same source again finds each clip where it is.

    Parameters
    ----------
    clips
        Of one or more corpora; no audio twice.
    dest : Path
        Need not exist.
    emotions
        The emotions to take; None takes all that have a name.
    """
    sorting = Sorting()
    # Case is folded: some file systems take a.wav and A.wav for one file.
    taken: dict[str, Path] = {}
    for clip in clips:
        if clip.emotion == f"{clip.corpus}-{clip.category}":
            sorting.not_known[clip.emotion] += 1
            continue
        if emotions is not None and clip.emotion not in emotions:
            sorting.not_wanted[clip.emotion] += 1
            continue
        source = Path(clip.path)
        try:
            target, known = _name_for(source, dest / _plain(clip.emotion) / _file_name(clip), taken)
        except OSError as error:
            raise InputError(f"Cannot compare {source} with what is in {dest}: {error.strerror}.") from error
        taken[str(target).casefold()] = source
        sorting.placements.append(Placement(clip, target, known is not None))
    return sorting


def _file_name(clip: LabelledClip) -> str:
    name = _plain(Path(clip.path).name).lstrip(".")
    if clip.speaker:
        return f"{_plain(clip.speaker).replace('_', '-')}_{name}"
    # What stands before an underscore would be taken for a speaker.
    return name.replace("_", "-")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() and letter not in "/\\" else "-" for letter in text)


def _name_for(source: Path, wanted: Path, taken: dict[str, Path]) -> tuple[Path, Path | None]:
    """Return the name in the destination, and the file that is there already with the very same content."""
    target = wanted
    for is_second in (False, True):
        if is_second:
            digits = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
            target = wanted.with_name(f"{wanted.stem}-{digits}{wanted.suffix}")
        # A link that leads nowhere holds nothing that could be lost.
        other = taken.get(str(target).casefold()) or (target if target.exists() else None)
        if other is None or other.samefile(source) or filecmp.cmp(source, other, shallow=False):
            return target, other
    raise DataError(f"{target} exists and holds other audio than {source}, whose hash is in that name. Remove it.")


def place(
    sorting: Sorting, dest: Path, *, link: bool = False, progress: Callable[[int], None] = lambda done: None
) -> None:
    """Copy or link what is planned, and list the speakers in ``speakers.csv``; run again, it goes on where it ended.

    Parameters
    ----------
    sorting : Sorting
        From `plan_sorting` for the same `dest`.
    dest : Path
        Made where missing.
    link : bool
        Make symbolic links to the absolute paths of the sources in place of copies.
    progress : callable
        Told the number of clips done.

    Raises
    ------
    InputError
        A file cannot be read or written; the message names it.
    DataError
        There is a ``speakers.csv`` already that cannot be used.
    """
    # Read first: a list that cannot be used should not wait for the copies.
    table, listed = _listed(sorting, dest)
    for done, item in enumerate(sorting.placements, start=1):
        # Asked for copies, links of an earlier visit become files of their own.
        if not item.is_there or (item.target.is_symlink() and not link):
            _put(Path(item.clip.path), item.target, link)
        progress(done)
    _list_speakers(dest, table, [item for item in sorting.placements if item.target not in listed])


def _put(source: Path, target: Path, link: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.unlink(missing_ok=True)  # a link whose file is gone
            target.symlink_to(source.resolve())
        else:
            with source.open("rb") as file, open_atomic(target) as copy:
                shutil.copyfileobj(file, copy)
    except OSError as error:
        cure = "Where links are not possible, use --copy. " if link else ""
        raise InputError(
            f"Cannot make {target} from {source}: {error.strerror}. {cure}What is sorted stays: run the command again "
            f"to go on."
        ) from error


def _listed(sorting: Sorting, dest: Path) -> tuple[Table | None, set[Path]]:
    """Return the list of speakers that is there, and the files that it knows."""
    path = table_beside(dest, Path(SPEAKERS_FILE).stem) if dest.is_dir() else None
    if path is None:
        return None, set()
    table = read_table(path)
    columns = label_columns(table, ("file", "speaker"))
    files = sorted({*audio_files(dest), *(item.target for item in sorting.placements)})
    names = [file.relative_to(dest).as_posix() for file in files]
    matching = match_rows(table, dest, names, key=columns["file"], columns=columns.values())
    return table, {files[place] for place in matching.row_of}


def _list_speakers(dest: Path, table: Table | None, placements: Sequence[Placement]) -> None:
    """Add speaker, sex and corpus of clips that the list lacks; rows that are there stay as they are."""
    rows = [
        {
            "file": item.target.relative_to(dest).as_posix(),
            "speaker": item.clip.speaker,
            "sex": item.clip.sex,
            "corpus": item.clip.corpus,
        }
        for item in placements
        if item.clip.speaker or item.clip.sex
    ]
    if not rows:
        return
    path = table.path if table else dest / SPEAKERS_FILE
    if table is None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        data = text.getvalue().encode()
    else:
        named = label_columns(table, ("file", "speaker"))
        data = with_rows(table, ({named[key]: value for key, value in row.items() if key in named} for row in rows))
    try:
        write_atomic(path, data)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.") from error
