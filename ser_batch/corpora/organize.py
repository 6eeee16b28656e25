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
from ser_batch.corpora.emotions import EMOTIONS
from ser_batch.corpora.folders import SPEAKERS_FILE
from ser_batch.corpora.labels import LABEL_COLUMNS, label_rows
from ser_batch.errors import ConfigError, DataError, InputError
from ser_batch.records import LabelledClip

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
    #: Emotion -> clips, for what the corpus calls by a name that no folder can have.
    not_known: Counter[str] = field(default_factory=Counter)
    #: Clips that lie twice in the source, byte by byte and with the same name.
    n_repeated: int = 0

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


def plan_sorting(clips: Iterable[LabelledClip], dest: Path, emotions: Collection[str]) -> Sorting:
    """Decide where each clip goes; nothing is written.

    The name of a file in `dest` is its speaker, an underscore and its own name, so that training finds the speaker
    again. A name that other audio has already gets a part of the hash of its content, so nothing is ever overwritten,
    and planning the same source again finds each clip where it is.

    Parameters
    ----------
    clips
        Of one or more corpora.
    dest : Path
        Need not exist.
    emotions
        Canonical names of the emotions to take.
    """
    sorting = Sorting()
    # Case is folded: some file systems take a.wav and A.wav for one file.
    taken: dict[str, Path] = {}
    for clip in clips:
        if clip.emotion not in EMOTIONS:
            sorting.not_known[clip.emotion] += 1
            continue
        if clip.emotion not in emotions:
            sorting.not_wanted[clip.emotion] += 1
            continue
        source = Path(clip.path)
        try:
            target, known = _name_for(source, dest / clip.emotion / _file_name(clip), taken)
        except OSError as error:
            raise InputError(f"Cannot compare {source} with what is in {dest}: {error.strerror}.") from error
        if known is not None and str(target).casefold() in taken:
            sorting.n_repeated += 1
            continue
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
    table = dest / SPEAKERS_FILE
    listed = {row["file"] for row in label_rows(table, ("file", "speaker"))} if table.is_file() else set()
    for done, item in enumerate(sorting.placements, start=1):
        # Asked for copies, links of an earlier visit become files of their own.
        if not item.is_there or (item.target.is_symlink() and not link):
            _put(Path(item.clip.path), item.target, link)
        progress(done)
    _list_speakers(
        dest, [item for item in sorting.placements if item.target.relative_to(dest).as_posix() not in listed]
    )


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


def _list_speakers(dest: Path, placements: Sequence[Placement]) -> None:
    """Add speaker and sex of clips that ``speakers.csv`` lacks; rows that are there stay as they are."""
    path = dest / SPEAKERS_FILE
    # label_rows has refused what is not UTF-8 or has no header.
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else "file,speaker,sex\n"
    header = [name.strip() for name in next(csv.reader(io.StringIO(text, newline="")))]
    keys = [next((key for key, names in LABEL_COLUMNS.items() if name in names), "") for name in header]
    added = io.StringIO()
    writer = csv.writer(added, lineterminator="\n")
    for item in placements:
        clip = item.clip
        values = {
            "file": item.target.relative_to(dest).as_posix(),
            "speaker": clip.speaker,
            "sex": clip.sex,
            "emotion": clip.emotion,
        }
        if clip.speaker or clip.sex:
            writer.writerow([values.get(key, "") for key in keys])
    if not added.getvalue():
        return
    try:
        write_atomic(path, text + ("" if text.endswith("\n") else "\n") + added.getvalue())
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}.") from error
