"""From labelled clips to what a network learns: targets, speakers, splits and folds that never share a speaker."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpora.emotions import EMOTIONS, canonical_emotion, near_emotion
from ser_batch.errors import ConfigError, DataError
from ser_batch.records import Corpus, LabelledClip
from ser_batch.text import did_you_mean
from ser_batch.training.train_config import DataConfig, TrainConfig

__all__ = [
    "Dataset",
    "Split",
    "content_hashes",
    "cross_validation_folds",
    "merged_emotions",
    "speaker_key",
    "split_speakers",
    "with_labels",
]

#: Target of a clip whose emotion is none of the labels: it trains the auxiliary head alone.
NO_TARGET = -1


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Clips as arrays; all of length n_clips."""

    clips: tuple[LabelledClip, ...]
    labels: tuple[str, ...]
    #: int64: index into `labels`, or `NO_TARGET`.
    target: NDArray[np.int64]
    #: int64: index into `corpora`.
    corpus: NDArray[np.int64]
    corpora: tuple[str, ...]
    #: float64 (n_corpora,): what a clip of each counts, see `DataConfig.corpus_weights`.
    corpus_weight: NDArray[np.float64]
    #: int64: index of (corpus, category), the finest label there is.
    category: NDArray[np.int64]
    #: int64 (n_categories,): corpus of each category.
    category_corpus: NDArray[np.int64]
    #: Speaker of each clip; clips of unknown speakers count as one speaker each.
    speaker: NDArray[np.str_]
    #: Speakers are unknown for these clips, so no split of them is by speaker.
    n_unknown_speakers: int

    @classmethod
    def build(cls, clips: Sequence[LabelledClip], config: DataConfig) -> Dataset:
        """Index `clips` by the labels of `config`.

        Raises
        ------
        DataError
            A label without any clip, or a label that nobody knows and no clip has.
        ConfigError
            A wrong merge rule, or a weight for a corpus that is not there.
        """
        emotions = merged_emotions(clips, config.merge, config.labels)
        _require_every_label(config.labels, Counter(emotions))
        corpora = tuple(sorted({clip.corpus for clip in clips}))
        categories = sorted({(clip.corpus, clip.category) for clip in clips})
        place = {label: index for index, label in enumerate(config.labels)}
        return cls(
            clips=tuple(clips),
            labels=config.labels,
            target=np.array([place.get(emotion, NO_TARGET) for emotion in emotions], np.int64),
            corpus=np.array([corpora.index(clip.corpus) for clip in clips], np.int64),
            corpora=corpora,
            corpus_weight=_corpus_weights(corpora, config),
            category=np.array([categories.index((clip.corpus, clip.category)) for clip in clips], np.int64),
            category_corpus=np.array([corpora.index(corpus) for corpus, _ in categories], np.int64),
            speaker=np.array([clip.speaker or f"?{number}" for number, clip in enumerate(clips)]),
            n_unknown_speakers=sum(not clip.speaker for clip in clips),
        )

    def __len__(self) -> int:
        return len(self.clips)

    def weights(self, balance: float) -> NDArray[np.float64]:
        """Sampling weight of each clip, see `DataConfig.balance`; they sum to 1."""
        group = self.category.copy()
        labelled = self.target != NO_TARGET
        # Categories of one corpus that mean the same label share their weight.
        group[labelled] = -1 - (self.corpus[labelled] * len(self.labels) + self.target[labelled])
        _, index, counts = np.unique(group, return_inverse=True, return_counts=True)
        weight = self.corpus_weight[self.corpus] / counts[index] ** balance
        return np.asarray(weight / weight.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Indices of clips; no speaker is on two sides."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def with_labels(config: TrainConfig, clips: Sequence[LabelledClip]) -> TrainConfig:
    """Return `config` with the labels that are learnt: those it names, else all that the clips have.

    Labels are named in any case, and emotions by any of their names. Categories that are codes of a corpus alone are no
    labels; they train the auxiliary head.

    Raises
    ------
    DataError
        There are fewer than two labels among the clips.
    ConfigError
        A wrong merge rule.
    """
    coded = {f"{clip.corpus}-{clip.category}" for clip in clips}
    found = sorted({*merged_emotions(clips, config.data.merge, config.data.labels)} - coded)
    if not config.data.labels and len(found) < 2:
        raise DataError(
            f"The clips have only one label ({', '.join(found) or 'none'}), and there is nothing to tell it from. Add "
            f"clips of another: a folder per label, or rows in labels.csv."
        )
    named = [_meant(label, found) for label in config.data.labels]
    return replace(config, data=replace(config.data, labels=tuple(named or found)))


def _meant(name: str, labels: Sequence[str]) -> str:
    """Return what is meant by a name: a label in any case, an emotion by any of its names, or else the name itself."""
    if name in labels:
        return name
    by_fold = {label.casefold(): label for label in labels}
    return by_fold.get(name.casefold()) or canonical_emotion(name) or name


def merged_emotions(
    clips: Sequence[LabelledClip], rules: Sequence[str], labels: Sequence[str] = (), option: str = "data.merge"
) -> list[str]:
    """Return the emotion of each clip, with some counted as others.

    Parameters
    ----------
    clips
    rules : sequence of str
        Each is ``"from=to"``; names are meant as in `with_labels`.
    labels : sequence of str
        What can be counted as; anything, where there are none.
    option : str
        Where the rules come from, for messages.

    Raises
    ------
    ConfigError
        A rule for what is neither an emotion nor a label of the clips, or to what is none of `labels`; or two rules for
        the same.
    """
    found = sorted({clip.emotion for clip in clips})
    wanted = [_meant(label, found) for label in labels]
    known = (*found, *EMOTIONS)
    merge: dict[str, str] = {}
    for rule in rules:
        old, _, new = (part.strip() for part in rule.partition("="))
        source, target = _meant(old, found), _meant(new, wanted or found)
        if source not in known:
            raise ConfigError(
                f"{option} {rule!r}: {old!r} is neither a label of the clips nor an emotion.{did_you_mean(old, known)} "
                f"Found: {', '.join(found)}."
            )
        # Where nothing says what the labels are, a new one may be made, but not by a slip of the pen.
        is_free = not wanted and bool(target) and (target in known or near_emotion(new) is None)
        if target not in wanted and not is_free:
            raise ConfigError(
                f"{option} {rule!r}: {new!r} is none of the labels.{did_you_mean(new, wanted or known)} "
                f"They are {', '.join(wanted or found)}."
            )
        if merge.setdefault(source, target) != target:
            raise ConfigError(f"{option} counts {source!r} as {merge[source]!r} and as {target!r}; keep one of them.")
    return [merge.get(clip.emotion, clip.emotion) for clip in clips]


def _corpus_weights(corpora: Sequence[str], config: DataConfig) -> NDArray[np.float64]:
    weights = config.weight_of_corpus()
    for name in weights:
        if name not in corpora:
            raise ConfigError(
                f"data.corpus_weights names {name!r}, of which there are no clips.{did_you_mean(name, corpora)} "
                f"The corpora are {', '.join(corpora)}."
            )
    return np.array([weights.get(name, 1.0) for name in corpora])


def _require_every_label(labels: Sequence[str], counts: Counter[str]) -> None:
    for label in labels:
        if counts[label]:
            continue
        hint = did_you_mean(label, counts)
        found = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "nothing"
        raise DataError(
            f"No clip of {label!r} among the data.{hint} Found: {found}. "
            f"Add clips of it, or leave it out: --labels LABEL,LABEL names those that are learnt."
        )


def speaker_key(speaker: str) -> str:
    """Return what a model file keeps of a speaker: enough to recognise, too little to read."""
    return hashlib.sha256(f"ser-batch speaker {speaker}".encode()).hexdigest()[:12]


def content_hashes(paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of each file, as hexadecimal digits; of an unreadable or empty file, that of its path."""
    digests = []
    for path in paths:
        try:
            content = Path(path).read_bytes()
        except OSError:
            content = b""
        # Two empty files are two bad files, not the same audio twice.
        digests.append(hashlib.sha256(content or b"unreadable " + os.fsencode(path)).hexdigest())
    return digests


def split_speakers(
    dataset: Dataset, config: DataConfig, seed: int, candidates: NDArray[np.int64] | None = None
) -> Split:
    """Split clips into training, validation and test, corpus by corpus, each speaker on one side.

    Parameters
    ----------
    dataset, config
        Clips and the shares wanted; each corpus gives at least one speaker to validation.
    seed : int
        Chooses the speakers.
    candidates : int (n,), optional
        Indices of the clips to split; all by default. When given, nothing goes to the test side.

    Raises
    ------
    DataError
        Fewer than two speakers, or a label that is left without training clips.
    """
    test_share = config.test_share if candidates is None else 0.0
    pool = np.arange(len(dataset)) if candidates is None else candidates
    if len(set(dataset.speaker[pool])) < 2:
        raise DataError(
            f"Only one speaker ({dataset.speaker[pool][0] if len(pool) else 'none'}) in {len(pool)} clips: a score on "
            f"the speaker who was learnt says nothing. Add clips of others, or name the speakers in speakers.csv."
        )
    side = np.zeros(len(dataset), np.int64)
    for corpus in np.unique(dataset.corpus[pool]):
        inside = pool[dataset.corpus[pool] == corpus]
        held_out, validation = _held_out(dataset, inside, (test_share, config.validation_share), seed)
        side[inside[np.isin(dataset.speaker[inside], list(validation))]] = 1
        side[inside[np.isin(dataset.speaker[inside], list(held_out))]] = 2
    split = Split(*(pool[side[pool] == number] for number in range(3)))
    missing = set(range(len(dataset.labels))) - set(dataset.target[split.train])
    if missing:
        names = ", ".join(dataset.labels[label] for label in sorted(missing))
        raise DataError(
            f"Too few speakers: after the split by speaker no training clip of {names} is left. Add speakers, or "
            f"leave it out: --labels LABEL,LABEL names those that are learnt."
        )
    return split


def _held_out(
    dataset: Dataset, clips: NDArray[np.int64], shares: tuple[float, float], seed: int
) -> tuple[set[str], set[str]]:
    sexes = {str(dataset.speaker[index]): dataset.clips[index].sex for index in clips}
    generator = np.random.default_rng([seed, len(clips)])
    order = [str(name) for name in generator.permutation(sorted(sexes))]
    # Alternate the sexes, so that a few held-out speakers are not all men or all women.
    by_sex: dict[str, list[str]] = {}
    for name in order:
        by_sex.setdefault(sexes[name], []).append(name)
    queue = [
        name for rank in range(len(order)) for group in by_sex.values() if rank < len(group) for name in [group[rank]]
    ]
    n_test, n_validation = (max(1, round(share * len(queue))) if share else 0 for share in shares)
    # A corpus of one or two speakers trains first; another corpus can validate.
    n_validation = min(n_validation, max(len(queue) - 1, 0))
    n_test = min(n_test, max(len(queue) - n_validation - 1, 0))
    return set(queue[:n_test]), set(queue[n_test : n_test + n_validation])


def cross_validation_folds(
    dataset: Dataset, corpora: Sequence[Corpus], scheme: str
) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (name, training clips, test clips) of each fold; every clip with a target is tested once.

    Parameters
    ----------
    scheme : str
        ``given``: published groups of speakers where a corpus has them (EmoBox's for RAVDESS), else single speakers for
        up to ten, else five groups; fold k holds out group k of each corpus at once, so one model per fold serves all.
        ``speaker``: single speakers. A number: that many groups of speakers in each corpus.

    Raises
    ------
    DataError
        An unknown scheme, or only one group of speakers.
    """
    if scheme not in ("given", "speaker") and not (scheme.isdigit() and int(scheme) >= 2):
        raise DataError(f"Folds {scheme!r} are not known: use given, speaker, or a number from 2.")
    published = {corpus.name: corpus.folds for corpus in corpora}
    group = np.full(len(dataset), -1)
    for number, name in enumerate(dataset.corpora):
        inside = np.flatnonzero(dataset.corpus == number)
        speakers = sorted(set(dataset.speaker[inside]))
        folds = published.get(name, ()) if scheme == "given" else ()
        of_speaker = {speaker: index for index, members in enumerate(folds) for speaker in members}
        if not of_speaker or not set(speakers) <= set(of_speaker):
            single = scheme == "speaker" or (scheme == "given" and len(speakers) <= 10)
            n_groups = len(speakers) if single else 5 if scheme == "given" else int(scheme)
            of_speaker = {speaker: index % n_groups for index, speaker in enumerate(speakers)}
        group[inside] = [of_speaker[speaker] for speaker in dataset.speaker[inside]]
    if len(set(group)) < 2:
        raise DataError("Cross-validation needs clips of two speakers or more.")
    everything = np.arange(len(dataset))
    for number in sorted(set(group)):
        test = (group == number) & (dataset.target != NO_TARGET)
        yield f"fold {number + 1}", everything[group != number], everything[test]
