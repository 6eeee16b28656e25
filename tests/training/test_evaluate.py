"""Score tables: groups, contexts of bursts, leakage, and models cut down to fewer labels."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ser_batch.errors import DataError
from ser_batch.records import LabelledClip
from ser_batch.training.dataset import Dataset, speaker_key
from ser_batch.training.evaluate import HASH_DIGITS, Predictions, check_leakage, score_table
from ser_batch.training.rows import WindowScores
from ser_batch.training.train import restricted
from ser_batch.training.train_config import DataConfig

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")


def predictions(n_clips: int = 240) -> Predictions:
    rng = np.random.default_rng(0)
    truth = np.arange(n_clips) % 6
    logits = rng.normal(size=(n_clips, 6)) + 2 * np.eye(6)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    corpus = np.where(np.arange(n_clips) < n_clips // 2, "emogator", "ravdess")
    sex = np.where(corpus == "emogator", "", np.where(truth % 2, "male", "female"))
    return Predictions(LABELS, truth, probabilities, np.array([f"s{n // 12}" for n in range(n_clips)]), corpus, sex)


def test_a_table_has_a_block_per_corpus_and_per_known_sex_and_is_json() -> None:
    table = json.loads(json.dumps(score_table(predictions(), n_draws=50), allow_nan=False))
    assert set(table["corpora"]) == {"emogator", "ravdess"}
    assert set(table["sexes"]) == {"male", "female"}
    overall = table["overall"]
    assert overall["uar_interval"][0] < overall["uar"] < overall["uar_interval"][1]
    assert sum(map(sum, overall["confusion"])) == 240


def test_every_known_speaker_has_a_score_of_their_own() -> None:
    data = predictions()
    table = score_table(replace(data, speaker=np.where(data.speaker == "s3", "?7", data.speaker)), n_draws=10)
    assert set(table["speakers"]) == {f"s{number}" for number in range(20)} - {"s3"}
    first = table["speakers"]["s0"]
    assert (first["corpus"], first["n_clips"]) == ("emogator", 12)
    # Two clips of each label: UAR is accuracy.
    assert first["uar"] == pytest.approx(np.mean(data.probabilities[:12].argmax(axis=1) == data.truth[:12]))


def test_contexts_are_scored_among_the_four_labels_of_bursts_only() -> None:
    data = predictions()
    # Whatever is said of fear and surprise cannot matter.
    data.probabilities[:, [2, 5]] = 50.0
    data.probabilities[:, [0, 1, 3, 4]] = np.eye(6)[data.truth][:, [0, 1, 3, 4]] + 0.1
    table = score_table(data, n_draws=20)
    assert table["contexts"]["uar"] == 1.0
    assert table["contexts"]["n_clips"] == 80
    assert table["corpora"]["emogator"]["uar"] < 0.5


def test_a_speaker_of_the_training_is_refused_by_name() -> None:
    training = {"speakers": [speaker_key("ravdess-01")], "audio": ""}
    check_leakage(training, ["ravdess-02", ""], ["f" * 64])
    with pytest.raises(DataError, match=r"1 of the speakers .*ravdess-01"):
        check_leakage(training, ["ravdess-01", "ravdess-01"], ["f" * 64])


def test_the_very_same_audio_is_refused_whoever_is_said_to_speak() -> None:
    training = {"speakers": [], "audio": "0" * HASH_DIGITS + "a" * HASH_DIGITS}
    # A hash that only spans two stored ones is no match.
    check_leakage(training, ["x"], ["0" * 6 + "a" * 58])
    with pytest.raises(DataError, match="1 of the files"):
        check_leakage(training, ["x"], ["a" * 64])


def test_scores_cut_to_fewer_labels_keep_clips_and_windows_together() -> None:
    clips = [LabelledClip(f"{n}", LABELS[n % 6], f"s{n}", "", "own", LABELS[n % 6]) for n in range(12)]
    dataset = Dataset.build(clips, DataConfig(labels=LABELS))
    scores = WindowScores(
        logits=np.arange(24 * 6, dtype=np.float32).reshape(24, 6),
        position=np.repeat(np.arange(12), 2),
        share=np.full(24, 0.5),
        clips=np.arange(12),
    )
    part, part_dataset = restricted(scores, dataset, ("surprise", "anger"))
    assert part_dataset.labels == ("anger", "surprise")
    assert part.clips.tolist() == [0, 5, 6, 11]
    assert part_dataset.target[part.clips].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(part.logits, scores.logits[np.isin(scores.position, part.clips)][:, [0, 5]])
    np.testing.assert_allclose(part.probabilities().sum(axis=1), 1.0)
