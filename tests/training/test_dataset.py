"""Splits and folds keep speakers on one side; sampling weights balance what is unbalanced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.errors import ConfigError, DataError
from ser_batch.records import LabelledClip
from ser_batch.training.dataset import Dataset, cross_validation_folds, merged_emotions, split_speakers
from ser_batch.training.train_config import DataConfig

CONFIG = DataConfig(labels=("anger", "sadness"))
MERGED = replace(CONFIG, merge=("gloom=sadness",))


def clip(corpus: str, speaker: str, emotion: str, number: int = 0, sex: str = "") -> LabelledClip:
    return LabelledClip(
        f"{corpus}/{speaker}/{emotion}{number}.wav", emotion, f"{corpus}-{speaker}", sex, corpus, emotion
    )


def clips() -> list[LabelledClip]:
    return [
        *(
            clip("ravdess", f"{actor:02}", e, sex=s)
            for actor in range(1, 21)
            for e in ("anger", "sadness")
            for s in ("",)
        ),
        *(clip("nemo", f"s{number}", e) for number in range(7) for e in ("anger", "gloom", "neutral")),
        *(clip("emogator", f"{number:06}", e) for number in range(23) for e in ("anger", "sadness")),
    ]


def speakers(dataset: Dataset, index: np.ndarray) -> set[str]:
    return set(dataset.speaker[index])


def test_no_speaker_is_on_two_sides_and_every_corpus_validates() -> None:
    dataset = Dataset.build(clips(), MERGED)
    split = split_speakers(dataset, CONFIG, seed=0)
    sides = [speakers(dataset, side) for side in (split.train, split.validation, split.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert sum(map(len, sides)) == len(set(dataset.speaker))
    assert set(dataset.corpus[split.validation]) == {0, 1, 2}


def test_another_seed_holds_out_other_speakers() -> None:
    dataset = Dataset.build(clips(), MERGED)
    first, second = (split_speakers(dataset, CONFIG, seed) for seed in (0, 1))
    assert speakers(dataset, first.test) != speakers(dataset, second.test)


@pytest.mark.parametrize("scheme", ["given", "speaker", "4"])
def test_every_labelled_clip_is_tested_once_by_a_model_that_never_heard_its_speaker(scheme: str) -> None:
    dataset = Dataset.build(clips(), MERGED)
    tested = []
    for _, train, test in cross_validation_folds(dataset, BUILT_IN_CORPORA, scheme):
        assert not speakers(dataset, train) & speakers(dataset, test)
        tested.append(test)
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.flatnonzero(dataset.target >= 0))


def test_the_given_folds_of_ravdess_are_those_of_emobox() -> None:
    dataset = Dataset.build(clips(), MERGED)
    _, _, test = next(iter(cross_validation_folds(dataset, BUILT_IN_CORPORA, "given")))
    assert {name for name in speakers(dataset, test) if name.startswith("ravdess")} == {
        "ravdess-01",
        "ravdess-11",
        "ravdess-20",
    }


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="given, speaker, or a number"):
        list(cross_validation_folds(Dataset.build(clips(), MERGED), BUILT_IN_CORPORA, "random"))


def test_merged_labels_count_as_their_target_and_others_have_none() -> None:
    dataset = Dataset.build(clips(), MERGED)
    target = {item.emotion: label for item, label in zip(dataset.clips, dataset.target, strict=True)}
    assert target == {"anger": 0, "sadness": 1, "gloom": 1, "neutral": -1}


def test_full_balance_gives_labels_of_all_corpora_the_same_weight() -> None:
    data = [clip("a", "1", "anger", n) for n in range(30)] + [clip("b", "2", "sadness", n) for n in range(10)]
    weights = Dataset.build(data, CONFIG).weights(1.0)
    assert weights[:30].sum() == pytest.approx(0.5)
    np.testing.assert_allclose(Dataset.build(data, CONFIG).weights(0.0), 1 / 40)


def test_a_label_without_clips_is_named_with_what_is_there() -> None:
    with pytest.raises(DataError, match=r"No clip of 'fear'.*anger"):
        Dataset.build(clips(), DataConfig(labels=("anger", "fear")))


def test_one_speaker_is_too_few() -> None:
    dataset = Dataset.build([clip("a", "1", "anger"), clip("a", "1", "sadness")], CONFIG)
    with pytest.raises(DataError, match="Only one speaker"):
        split_speakers(dataset, CONFIG, seed=0)


def merged(rules: list[str], labels: tuple[str, ...] = ()) -> list[str]:
    return merged_emotions([clip("a", "1", name) for name in ("anger", "calm", "neutral", "Wut")], rules, labels)


def test_labels_are_counted_as_others_by_any_of_their_names() -> None:
    assert merged(["calm=neutral"]) == ["anger", "neutral", "neutral", "Wut"]
    assert merged(["Calm = NEU", "wut=angry"], ("anger", "Neutral")) == ["anger", "neutral", "neutral", "anger"]
    # A label of its own; and an emotion that these clips happen not to have, as in a recipe for many corpora.
    assert merged(["anger=loud", "Wut=loud", "boredom=neutral"]) == ["loud", "calm", "neutral", "loud"]


@pytest.mark.parametrize(
    ("rules", "labels", "words"),
    [
        (["clam=neutral"], (), r"'clam' is neither .* Did you mean 'calm'\?"),
        (["calm=neutrl"], (), r"'neutrl' is none of the labels. Did you mean 'neutral'\?"),
        (["calm=neutral"], ("anger", "fear"), r"'neutral' is none of the labels. They are anger, fear"),
        (["calm="], (), r"'' is none of the labels"),
        (["calm=neutral", "calm=anger"], (), r"'calm' as 'neutral' and as 'anger'"),
    ],
)
def test_a_merge_of_what_does_not_exist_is_refused(rules: list[str], labels: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        merged(rules, labels)
