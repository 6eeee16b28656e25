"""What is known of some stretches of a run's audio: by listeners' answers, or by a table that a user brings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ser_batch.corpora.emotions import canonical_emotion, near_emotion
from ser_batch.errors import DataError
from ser_batch.reviews.answers import NOT_EMOTIONS, Stretch, read_answers, reviews_folder, stretch_of
from ser_batch.run.read import Run
from ser_batch.tables.match import match_rows
from ser_batch.tables.table import Table, read_table
from ser_batch.text import shown

__all__ = ["FEWEST_ANSWERS", "Answered", "answers_of_run", "answers_of_table", "grouped", "usable"]

#: From fewer, nothing is learnt.
FEWEST_ANSWERS = 20
#: A label that the model does not know joins when it has so many answers.
_FEWEST_OF_NEW_LABEL = 5
#: So many folders and more may stand for speakers, where nobody says who speaks.
_FEWEST_FOLDERS = 5

_EMOTION_COLUMNS = ("emotion", "label", "answer")


@dataclass(frozen=True, slots=True)
class Answered:
    """One stretch of audio and what is said to be heard in it."""

    clip_id: str
    start_s: float
    end_s: float
    #: Label -> its part; parts sum to 1.
    heard: dict[str, float]
    speaker: str = ""
    #: What is drawn or held out together with it.
    group: str = ""
    #: Of the recording, from 1; 0 for all of them.
    channel: int = 0


@dataclass
class Found:
    """Answers that can be used."""

    stretches: list[Answered]
    #: One line each: what is taken for granted, and what is left out and why.
    notices: list[str] = field(default_factory=list)


def answers_of_run(run: Run) -> Found:
    """Return what listeners answered about a run.

    Raises
    ------
    DataError
        There are none, they cannot be read, or they are of another run.
    """
    everything = read_answers(run.folder)
    found = Found([], list(everything.notices))
    ids = {"", str(run.info.get("run_id", "")), str(run.info.get("labelled", {}).get("run_id", ""))}
    own = [answer for answer in everything.answers if answer.run_id in ids]
    where = reviews_folder(run.folder)
    if not everything.answers:
        raise DataError(
            f"There are no answers in {where}. `ser-batch review {run.folder}` asks for them, or give a table with "
            f"clip_id and emotion by --labels."
        )
    if not own:
        raise DataError(f"The answers in {where} are of another run: move them back to it, and adapt that one.")
    if len(own) < len(everything.answers):
        n_others = len(everything.answers) - len(own)
        found.notices.append(f"{n_others} answers are of another run and are left out.")
    n_unnamed = sum(answer.answer in NOT_EMOTIONS for answer in own)
    if n_unnamed:
        found.notices.append(f"{n_unnamed} answers name no emotion ({', '.join(NOT_EMOTIONS)}) and are left out.")
    heard: dict[Stretch, list[str]] = {}
    for answer in own:
        if answer.answer not in NOT_EMOTIONS:
            heard.setdefault(answer.stretch, []).append(_label(answer.answer, run.labels))
    n_split = sum(len(set(labels)) > 1 for labels in heard.values())
    if n_split:
        found.notices.append(f"Reviewers disagree on {n_split} of {len(heard)} stretches: there each counts in part.")
    found.stretches = [
        Answered(clip_id, start_ms / 1_000, end_ms / 1_000, _parts(labels), channel=channel)
        for (clip_id, start_ms, end_ms, channel), labels in heard.items()
    ]
    return found


def answers_of_table(run: Run, path: Path) -> Found:
    """Return what a table says of files or stretches of a run: ``clip_id[, start_s, end_s], emotion[, speaker]``.

    Raises
    ------
    DataError
        It is no such table, its rows match no file, or two rows about one stretch differ.
    """
    table = read_table(path)
    emotion = table.find(_EMOTION_COLUMNS)
    if emotion is None:
        raise DataError(f"Table {path} has no column of emotions: name it one of {', '.join(_EMOTION_COLUMNS)}.")
    files = run.read("files", ["clip_id", "duration_s"], metadata=False)
    clip_ids, durations_s = files.column("clip_id").to_pylist(), files.column("duration_s").to_pylist()
    matching = match_rows(table, run.info.get("root", "."), clip_ids, columns=())
    found = Found([], [f"{path}: {_told(matching.unknown, table)}"] if matching.unknown else [])
    start, end, speaker = (table.find([name]) for name in ("start_s", "end_s", "speaker"))
    lines: dict[Stretch, int] = {}
    for row, place in enumerate(matching.places):
        label = table.columns[emotion][row]
        if place < 0 or not label or durations_s[place] is None:
            continue
        begin_s = _seconds(table, start, row, 0.0)
        end_s = _seconds(table, end, row, float(durations_s[place]))
        if not begin_s < end_s:
            raise DataError(
                f"Table {path}, line {table.lines[row]}: what begins at {begin_s:g} s cannot end at {end_s:g} s, as "
                f"{shown(clip_ids[place])} would. Mend start_s or end_s."
            )
        key = stretch_of(clip_ids[place], begin_s, end_s)
        item = Answered(
            clip_ids[place],
            begin_s,
            end_s,
            {_label(label, run.labels): 1.0},
            table.columns[speaker][row] if speaker else "",
        )
        if key not in lines:
            lines[key] = row
            found.stretches.append(item)
        elif table.columns[emotion][lines[key]] != label:
            raise DataError(
                f"Table {path}: lines {table.lines[lines[key]]} and {table.lines[row]} say of {shown(item.clip_id)} "
                f"{shown(table.columns[emotion][lines[key]])} and {shown(label)}. Remove one."
            )
    return found


def _told(unknown: dict[str, int], table: Table) -> str:
    name, row = next(iter(unknown.items()))
    return (
        f"{len(unknown):,} rows name files that the run does not have, and are left out, such as {shown(name)} in line "
        f"{table.lines[row]}."
    )


def _seconds(table: Table, column: str | None, row: int, otherwise: float) -> float:
    text = table.columns[column][row] if column else ""
    try:
        value = float(text.replace(",", ".")) if text else otherwise
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e9:
        raise DataError(f"Table {table.path}, line {table.lines[row]}: {column} must be seconds, not {shown(text)}.")
    return value


def _label(name: str, known: Sequence[str]) -> str:
    """Return a label by the name that the model has for it, else as it was written."""
    canonical = canonical_emotion(name)
    return canonical if canonical is not None and canonical in known else name.strip()


def _parts(labels: Sequence[str]) -> dict[str, float]:
    return {label: n / len(labels) for label, n in Counter(labels).items()}


def grouped(found: Found, run: Run, by: str) -> str:
    """Give each stretch its group, in place; return the sentence that says what stands for it.

    Parameters
    ----------
    by : str
        ``speaker``, ``folder`` or a column of the metadata; "" to guess.

    Raises
    ------
    DataError
        There is no such column, or it says nothing of the answered files.
    """
    items = found.stretches
    if by == "folder":
        return _set(found, [_folder(item.clip_id) for item in items], "folder, as told")
    if by in ("", "speaker") and all(item.speaker for item in items):
        return _set(found, [item.speaker for item in items], "speaker, by the table")
    if by or _has_column(run, "speaker"):
        column = by or "speaker"
        values = _column(run, column, {item.clip_id for item in items})
        names = [values.get(item.clip_id, "") for item in items]
        if not any(names):
            raise DataError(
                f"Nothing says which {column} the answered files are of. Give `scan --metadata` a TABLE that has a "
                f"column {column!r}, give --labels a table with a column speaker, or give --group folder."
            )
        # Of whom nothing is known: alone.
        names = [name or f"?{item.clip_id}" for name, item in zip(names, items, strict=True)]
        return _set(found, names, f"{column}, by the metadata")
    folders = [_folder(item.clip_id) for item in items]
    if len(set(folders)) >= _FEWEST_FOLDERS:
        return _set(found, folders, "folder, since nothing says who speaks (--group says otherwise)")
    names = [item.clip_id for item in items]
    return _set(
        found,
        names,
        "each file on its own, since nothing says who speaks: if few people speak, the gain that is told is too high. "
        "--group folder, or metadata with a column speaker, mends it",
    )


def _folder(clip_id: str) -> str:
    return str(PurePosixPath(clip_id).parent)


def _set(found: Found, names: Sequence[str], what: str) -> str:
    found.stretches = [replace(item, group=name) for item, name in zip(found.stretches, names, strict=True)]
    return f"Held out together, {len(set(names)):,} groups: {what}."


def _has_column(run: Run, name: str) -> bool:
    return run.metadata is not None and name in run.metadata.column_names


def _column(run: Run, name: str, clip_ids: Iterable[str]) -> dict[str, str]:
    if not _has_column(run, name):
        have = ", ".join(item for item in run.metadata.column_names if item != "clip_id") if run.metadata else ""
        raise DataError(
            f"The run has no metadata column {name!r}{f' (there are {have})' if have else ''}. --group takes speaker, "
            f"folder or a column of the table that was given to `scan --metadata`."
        )
    wanted = set(clip_ids)
    assert run.metadata is not None
    rows = zip(run.metadata.column("clip_id").to_pylist(), run.metadata.column(name).to_pylist(), strict=True)
    return {clip_id: "" if value is None else str(value) for clip_id, value in rows if clip_id in wanted}


def usable(found: Found, known: Sequence[str]) -> tuple[str, ...]:
    """Leave out, in place, what nothing can be learnt from; return the labels: those of the model, then new ones.

    Raises
    ------
    DataError
        Too few answers are left, or all are alike.
    """
    counts = Counter(label for item in found.stretches for label in item.heard)
    new = sorted(label for label in counts if label not in known)
    rare = [label for label in new if counts[label] < _FEWEST_OF_NEW_LABEL]
    if rare:
        found.notices.append(
            f"Left out: {', '.join(f'{shown(label)} ({counts[label]})' for label in rare)}, which the model does not "
            f"know and of which there are fewer than {_FEWEST_OF_NEW_LABEL} answers."
        )
        found.stretches = [item for item in found.stretches if not set(rare) & set(item.heard)]
    joining = [label for label in new if label not in rare]
    for label in joining:
        near = near_emotion(label)
        hint = f" If it is meant to be {near}, write it so." if near and near != label and near in known else ""
        found.notices.append(f"New label: {shown(label)}, of {counts[label]} answers.{hint}")
    left = Counter(label for item in found.stretches for label in item.heard)
    if len(found.stretches) < FEWEST_ANSWERS:
        raise DataError(
            f"{' '.join([*found.notices, ''])}{len(found.stretches)} answers can be used; from fewer than "
            f"{FEWEST_ANSWERS} nothing is learnt. Answer more, `ser-batch review` with --for adapt."
        )
    if len(left) < 2:
        raise DataError(
            f"All {len(found.stretches)} answers are {shown(next(iter(left)))}: from one label nothing is learnt. "
            f"Answer about other clips, too."
        )
    return (*known, *joining)
