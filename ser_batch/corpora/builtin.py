"""Readers of labelled corpora as downloaded, and of ``data/raw/<emotion>/``: file names -> emotion, speaker, sex.

A plugin adds a corpus of its own with the hook ``register_corpora``.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ser_batch.errors import DataError, InputError, PluginError, SerBatchError
from ser_batch.hookspecs import hookimpl
from ser_batch.records import Corpus, LabelledClip

__all__ = [
    "AUDIO_SUFFIXES",
    "BUILT_IN_CORPORA",
    "EMOTIONS",
    "LABEL_COLUMNS",
    "canonical_emotion",
    "detect_corpus",
    "label_rows",
    "read_corpus",
    "register_corpora",
]

#: Names under which emotions are known, each with what corpora and people call it.
EMOTIONS: dict[str, tuple[str, ...]] = {
    "anger": ("angry", "ang", "hot anger"),
    "disgust": ("disgusted", "dis"),
    "fear": ("fearful", "fea", "anxiety", "anxious", "afraid", "scared"),
    "happiness": ("happy", "hap", "joy", "joyful", "amusement", "elation"),
    "sadness": ("sad",),
    "surprise": ("surprised", "sur", "ps", "pleasant surprise", "pleasant surprised"),
    "neutral": ("neu",),
    "calm": (),
    "boredom": ("bored",),
    "distress": (),
}
_BY_NAME = {name: emotion for emotion, names in EMOTIONS.items() for name in (emotion, *names)}

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".au"})


def canonical_emotion(name: str) -> str | None:
    """Return the canonical name of an emotion, or None where nobody knows it."""
    return _BY_NAME.get(name.strip().lower().replace("_", " ").replace("-", " "))


def _audio_files(folder: Path) -> list[Path]:
    found = []
    for root, directories, names in os.walk(folder):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        found += [
            Path(root, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in AUDIO_SUFFIXES and not name.startswith(".")
        ]
    return found


@dataclass(frozen=True, slots=True)
class _NamePattern:
    """Reads a corpus whose file names tell everything."""

    corpus: str
    pattern: re.Pattern[str]
    emotions: dict[str, str]
    sex: Callable[[str], str] = lambda speaker: ""

    def __call__(self, folder: Path) -> Iterable[LabelledClip]:
        for path in _audio_files(folder):
            match = self.pattern.fullmatch(path.stem)
            if match:
                code, speaker = match["emotion"].lower(), match["speaker"]
                emotion = self.emotions.get(code, f"{self.corpus}-{code}")
                name = f"{self.corpus}-{speaker.lower()}"
                yield LabelledClip(str(path), emotion, name, self.sex(speaker), self.corpus, code)

    def looks_like(self, _folder: Path, names: Sequence[str]) -> bool:
        hits = sum(self.pattern.fullmatch(Path(name).stem) is not None for name in names)
        return hits > 0.9 * len(names) > 0


_RAVDESS = _NamePattern(
    "ravdess",
    # modality-channel-emotion-intensity-statement-repetition-actor; channel 01 is speech, 02 song
    re.compile(r"\d\d-01-(?P<emotion>0[1-8])-\d\d-\d\d-\d\d-(?P<speaker>\d\d)"),
    {
        "01": "neutral",
        "02": "calm",
        "03": "happiness",
        "04": "sadness",
        "05": "anger",
        "06": "fear",
        "07": "disgust",
        "08": "surprise",
    },
    lambda actor: "male" if int(actor) % 2 else "female",
)
_EMOGATOR = _NamePattern(
    "emogator",
    re.compile(r"(?P<speaker>\d{6})-(?P<emotion>\d\d)-\d+"),
    {
        "02": "happiness",  # amusement
        "03": "anger",
        "10": "disgust",
        "11": "distress",
        "13": "happiness",  # elation
        "15": "fear",
        "24": "sadness",
        "27": "surprise",  # negative
        "28": "surprise",  # positive
    },
)
_CREMA_D = _NamePattern(
    "crema-d",
    # The level is XX, LO, MD or HI, and a single X in one file of the release.
    re.compile(r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}", re.IGNORECASE),
    {name: _BY_NAME[name] for name in ("ang", "dis", "fea", "hap", "neu", "sad")},
)
_TESS = _NamePattern(
    "tess",
    # Two speakers, OAF and YAF; one file of the release is called OA_bite_neutral.
    re.compile(r"(?P<speaker>[OY]A)F?_\w+_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)", re.IGNORECASE),
    {name: _BY_NAME[name] for name in ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad")},
    lambda _: "female",
)
_EMO_DB = _NamePattern(
    "emo-db",
    re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]?"),
    {
        "w": "anger",
        "l": "boredom",
        "e": "disgust",
        "a": "fear",
        "f": "happiness",
        "t": "sadness",
        "n": "neutral",
    },
    lambda speaker: "male" if speaker in ("03", "10", "11", "12", "15") else "female",
)

#: Column names that label files use for the same thing.
LABEL_COLUMNS = {
    "file": ("file", "file_id", "filename", "path"),
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id", "actor", "ActorID"),
    "sex": ("sex", "gender", "Sex"),
}
_LABEL_FILES = ("labels.tsv", "labels.csv", "data.tsv")


def label_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a label file with the keys of `LABEL_COLUMNS`, ``""`` where it has no such column.

    Raises
    ------
    DataError
        The file is not UTF-8, or lacks one of the columns in `needed`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"Labels file {path} is not UTF-8: {error}.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    chosen = {key: next((name for name in names if name in header), None) for key, names in LABEL_COLUMNS.items()}
    for key in needed:
        if chosen[key] is None:
            raise DataError(
                f"Labels file {path} has no column {key!r} (nor {', '.join(LABEL_COLUMNS[key][1:])}). "
                f"Its columns are: {', '.join(header) or 'none'}."
            )
    return [{key: (row.get(name or "") or "").strip() for key, name in chosen.items()} for row in reader]


def _read_crema_d(folder: Path) -> Iterable[LabelledClip]:
    """Read the names of the files, and the sexes from the table that lies beside AudioWAV/ in the download."""
    tables = (parent / "VideoDemographics.csv" for parent in (folder, folder.parent))
    table = next((path for path in tables if path.is_file()), None)
    rows = label_rows(table, ("speaker", "sex")) if table else []
    sexes = {f"crema-d-{row['speaker']}": row["sex"].lower() for row in rows}
    for clip in _CREMA_D(folder):
        yield replace(clip, sex=sexes.get(clip.speaker, ""))


def _read_labelled(corpus: str) -> Callable[[Path], Iterable[LabelledClip]]:
    def read(folder: Path) -> Iterable[LabelledClip]:
        labels = next((folder / name for name in _LABEL_FILES if (folder / name).is_file()), None)
        if labels is None:
            raise DataError(f"No {' or '.join(_LABEL_FILES)} in {folder}.")
        prefix = folder.name if corpus == "labels" else corpus
        for row in label_rows(labels, ("file", "emotion", "speaker")):
            names = (row["file"], f"samples/{row['file']}", f"{row['file']}.wav", f"samples/{row['file']}.wav")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                raise DataError(f"Labels file {labels} names {row['file']!r}, which is not in {folder}.")
            emotion = canonical_emotion(row["emotion"]) or row["emotion"]
            speaker = f"{prefix}-{row['speaker'].lower()}" if row["speaker"] else ""
            yield LabelledClip(str(path), emotion, speaker, row["sex"].lower(), prefix, row["emotion"])

    return read


def _has_labels(folder: Path, _names: Sequence[str]) -> bool:
    return any((folder / name).is_file() for name in _LABEL_FILES)


def _is_nemo(folder: Path, names: Sequence[str]) -> bool:
    pattern = re.compile(r"[A-Z]{2}\d_(anger|fear|happiness|neutral|sadness|surprised)_\d+")
    hits = sum(pattern.fullmatch(Path(name).stem) is not None for name in names)
    return _has_labels(folder, names) and hits > 0.9 * len(names) > 0


def _is_raw(folder: Path, _names: Sequence[str]) -> bool:
    return any(canonical_emotion(item.name) for item in folder.iterdir() if item.is_dir())


def _read_raw(folder: Path) -> Iterable[LabelledClip]:
    """Read ``<emotion>/`` folders; speakers from ``speakers.csv``, else the name up to its first underscore."""
    listed: dict[str, dict[str, str]] = {}
    if (folder / "speakers.csv").is_file():
        listed = {row["file"]: row for row in label_rows(folder / "speakers.csv", ("file", "speaker"))}
    clips: list[LabelledClip] = []
    unlisted: list[int] = []
    for directory in sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")):
        emotion = canonical_emotion(directory.name)
        if emotion is None:
            near = difflib.get_close_matches(directory.name.lower(), list(_BY_NAME), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"Folder {directory} names an emotion that nobody knows.{hint} Known: {', '.join(EMOTIONS)}. "
                f"Rename the folder, or move it out of {folder}."
            )
        files = _audio_files(directory)
        if not files:
            raise DataError(f"Folder {directory} holds no audio: add clips of {emotion}, or remove the empty folder.")
        for path in files:
            relative = path.relative_to(folder).as_posix()
            row = listed.get(relative) or listed.get(path.name) or {}
            token = path.stem.split("_", 1)[0] if "_" in path.stem else ""
            speaker = row.get("speaker") or ("" if canonical_emotion(token) else token)
            corpus = next((name for name in _DOWNLOADS if speaker.startswith(f"{name}-")), folder.name)
            unlisted += [] if row else [len(clips)]
            clips.append(LabelledClip(str(path), emotion, speaker, row.get("sex", "").lower(), corpus, emotion))
    tokens = {clips[index].speaker for index in unlisted}
    # A leading token that never comes again numbers the clips; it does not name who speaks.
    if len(tokens) == len(unlisted) and tokens.isdisjoint(row["speaker"] for row in listed.values()):
        for index in unlisted:
            clips[index] = replace(clips[index], speaker="")
    return clips


_EMOBOX_RAVDESS = ("01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22")

BUILT_IN_CORPORA: tuple[Corpus, ...] = (
    Corpus(
        "ravdess",
        "RAVDESS speech (Livingstone and Russo 2018)",
        "CC BY-NC-SA 4.0",
        "https://zenodo.org/records/1188976",
        "en",
        _RAVDESS,
        _RAVDESS.looks_like,
        tuple(tuple(f"ravdess-{actor}" for actor in group.split()) for group in _EMOBOX_RAVDESS),
    ),
    Corpus(
        "nemo",
        "nEMO (Christop 2024)",
        "CC BY-NC-SA 4.0",
        "https://github.com/amu-cai/nEMO",
        "pl",
        _read_labelled("nemo"),
        _is_nemo,
    ),
    Corpus(
        "emogator",
        "EmoGator (Buhl 2023)",
        "Apache-2.0",
        "https://github.com/fredbuhl/EmoGator",
        "none (vocal bursts)",
        _EMOGATOR,
        _EMOGATOR.looks_like,
    ),
    Corpus(
        "crema-d",
        "CREMA-D (Cao et al. 2014)",
        "ODbL 1.0",
        "https://github.com/CheyneyComputerScience/CREMA-D",
        "en",
        _read_crema_d,
        _CREMA_D.looks_like,
    ),
    Corpus(
        "tess",
        "TESS (Pichora-Fuller and Dupuis 2020)",
        "CC BY-NC-ND 4.0",
        "https://doi.org/10.5683/SP2/E8H2MF",
        "en",
        _TESS,
        _TESS.looks_like,
    ),
    Corpus(
        "emo-db",
        "EMO-DB (Burkhardt et al. 2005)",
        "free for research",
        "http://emodb.bilderbar.info",
        "de",
        _EMO_DB,
        _EMO_DB.looks_like,
    ),
    Corpus("raw", "data/raw/<emotion>/", "your own", "", "", _read_raw, _is_raw),
    Corpus(
        "labels", "a folder with labels.tsv or labels.csv", "your own", "", "", _read_labelled("labels"), _has_labels
    ),
)
#: Corpora whose speakers carry their name: sorted into folders, they are still known.
_DOWNLOADS = tuple(corpus.name for corpus in BUILT_IN_CORPORA if corpus.url)


@hookimpl
def register_corpora() -> Sequence[Corpus]:
    """Offer the built-in corpora."""
    return BUILT_IN_CORPORA


def detect_corpus(folder: Path, corpora: Sequence[Corpus]) -> Corpus:
    """Return the corpus that the files below `folder` look like; ``data/raw`` and label files come last.

    Raises
    ------
    InputError
        The folder does not exist.
    DataError
        It looks like none of them.
    """
    if not folder.is_dir():
        raise InputError(f"Data folder {folder} does not exist.")
    # Names from all over the folder: several corpora side by side are none of them.
    files = _audio_files(folder)
    names = [path.name for path in files[:: 1 + len(files) // 1000]]
    if names:
        general = ("raw", "labels")
        for corpus in sorted(corpora, key=lambda item: item.name in general):
            # Folders named by emotion say more than the file names of whatever was sorted into them.
            if (corpus.name == "raw" or not _is_raw(folder, names)) and corpus.looks_like(folder, names):
                return corpus
    known = ", ".join(corpus.name for corpus in corpora)
    what = "holds no audio files" if not names else "looks like none of the known corpora"
    raise DataError(
        f"Folder {folder} {what}. Expected a corpus as downloaded ({known}), or folders named by emotion "
        f"such as {folder}/anger/; name the corpus with --corpus NAME={folder}."
    )


def read_corpus(folder: Path, corpora: Sequence[Corpus], name: str | None = None) -> list[LabelledClip]:
    """Read the clips of a folder, as corpus `name` or as what it looks like, sorted by path.

    A folder that holds several corpora, each in a folder of its own, is read corpus by corpus.

    Raises
    ------
    InputError
        The folder does not exist.
    DataError
        Unknown corpus name, labels that cannot be used, or no clip of the corpus in the folder.
    PluginError
        The reader of the corpus raised something else; the message names the corpus.
    """
    if not folder.is_dir():
        raise InputError(f"Data folder {folder} does not exist.")
    if name is None:
        try:
            corpus = detect_corpus(folder, corpora)
        except DataError:
            parts = [item for item in sorted(folder.iterdir()) if item.is_dir() and not item.name.startswith(".")]
            if not parts or any(not _detectable(item, corpora) for item in parts):
                raise
            return [clip for item in parts for clip in read_corpus(item, corpora)]
    else:
        by_name = {corpus.name: corpus for corpus in corpora}
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(f"No corpus {name!r}.{hint} Known: {', '.join(by_name)}.")
        corpus = by_name[name]
    try:
        clips = sorted(corpus.read(folder), key=lambda clip: clip.path)
    except SerBatchError:
        raise
    except Exception as error:  # a plugin's reader can raise anything; the user needs to know whose it was
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"The reader of corpus {corpus.name!r} failed on {folder}: {reason}") from error
    if not clips:
        raise DataError(f"No clip of {corpus.title} in {folder}: the file names are not those of the corpus.")
    return clips


def _detectable(folder: Path, corpora: Sequence[Corpus]) -> bool:
    try:
        detect_corpus(folder, corpora)
    except DataError:
        return False
    return True
