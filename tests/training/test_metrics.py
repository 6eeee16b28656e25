"""Scores, against scikit-learn where it has them and against arithmetic done by hand where it has not."""

from __future__ import annotations

import numpy as np
import pytest

from ser_batch.training import metrics

GENERATOR = np.random.default_rng(5)
N_CLIPS, N_LABELS = 400, 6
TRUTH = GENERATOR.integers(N_LABELS, size=N_CLIPS)
LOGITS = GENERATOR.normal(size=(N_CLIPS, N_LABELS)) + 1.5 * np.eye(N_LABELS)[TRUTH]
PROBABILITIES = metrics.softmax(LOGITS)
PREDICTED = PROBABILITIES.argmax(axis=1)


def test_recall_precision_and_f1_agree_with_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    precision, recall, f1, support = reference.precision_recall_fscore_support(TRUTH, PREDICTED)
    confusion = metrics.confusion_matrix(TRUTH, PREDICTED, N_LABELS)
    scores = metrics.class_scores(confusion)
    np.testing.assert_array_equal(confusion, reference.confusion_matrix(TRUTH, PREDICTED))
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("n_clips", support)):
        np.testing.assert_allclose([item[name] for item in scores], expected, atol=1e-12)
    assert metrics.uar(TRUTH, PREDICTED) == pytest.approx(reference.balanced_accuracy_score(TRUTH, PREDICTED))


def test_likelihood_agrees_with_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    assert metrics.negative_log_likelihood(PROBABILITIES, TRUTH) == pytest.approx(
        reference.log_loss(TRUTH, PROBABILITIES)
    )


def test_uar_counts_each_class_the_same_whatever_its_size() -> None:
    # 9 of 10 right in one class, 0 of 1 in the other: accuracy 9/11, UAR 0.45.
    assert metrics.uar([0] * 10 + [1], [0] * 9 + [1, 0]) == pytest.approx(0.45)


def test_of_one_label_there_is_no_chance_to_compare_with() -> None:
    assert metrics.chance_told(metrics.chance([0, 3, 3])) == "chance 0.500"
    assert metrics.chance_told(metrics.chance([2, 2])) == "of one label alone, which is no test"


def test_a_class_that_never_occurs_has_no_recall() -> None:
    scores = metrics.class_scores(metrics.confusion_matrix([0, 0], [0, 1], 3))
    assert np.isnan(scores[1]["recall"]) and scores[1]["precision"] == 0
    assert np.isnan(scores[2]["f1"])


def test_brier_score_of_certain_answers_is_0_when_right_and_2_when_wrong() -> None:
    assert metrics.brier_score([[1, 0], [1, 0]], [0, 1]) == pytest.approx(1.0)
    assert metrics.brier_score([[0.5, 0.5]], [0]) == pytest.approx(0.5)


def test_calibration_error_is_the_gap_of_confidence_and_accuracy() -> None:
    # Ten clips said with 0.9 of which six are right: gap 0.3. Ten said with 0.6 of which six are right: gap 0.
    probabilities = np.repeat([[0.9, 0.1], [0.6, 0.4]], 10, axis=0)
    truth = np.array(([0] * 6 + [1] * 4) * 2)
    assert metrics.expected_calibration_error(probabilities, truth) == pytest.approx(0.15)


def test_probabilities_drawn_from_themselves_are_calibrated() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(4), size=50_000)
    truth = (probabilities.cumsum(axis=1) < generator.random((50_000, 1))).sum(axis=1)
    # Sampling noise of 50,000 clips in 15 bins stays under 0.01.
    assert metrics.expected_calibration_error(probabilities, truth) < 0.01


def test_the_fitted_temperature_is_the_one_that_made_the_labels() -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(scale=3, size=(40_000, 5))
    chances = metrics.softmax(logits, 2.5)
    truth = (chances.cumsum(axis=1) < generator.random((40_000, 1))).sum(axis=1)
    assert metrics.fit_temperature(logits, truth) == pytest.approx(2.5, rel=0.03)


def test_a_few_clips_that_are_all_right_do_not_make_it_certain() -> None:
    logits = 4.0 * np.eye(6)[np.arange(12) % 6]
    temperature = metrics.fit_temperature(logits, np.arange(12) % 6)
    # Platt's rule: twelve right of twelve are 13 of 14, and a sixth of the doubt falls on the truth.
    confidence = metrics.softmax(logits, temperature).max(axis=1)
    np.testing.assert_allclose(confidence, 13 / 14 + 1 / 14 / 6, atol=1e-3)


def test_setting_aside_uncertain_clips_raises_accuracy_by_what_was_built_in() -> None:
    # The certain 60 % are all right, the rest all wrong: accuracy .6 becomes 1.
    result = metrics.risk_coverage(np.linspace(1, 0, 100), np.arange(100) < 60)
    assert result["gain_at_60"] == pytest.approx(0.4)
    assert result["accuracy"][-1] == pytest.approx(0.6)


def test_restricting_renormalises() -> None:
    np.testing.assert_allclose(metrics.restrict([[0.2, 0.3, 0.5]], [0, 1]), [[0.4, 0.6]])


def test_the_interval_by_speaker_is_wider_than_one_over_clips_when_speakers_differ() -> None:
    generator = np.random.default_rng(3)
    speakers = np.repeat(np.arange(20), 50)
    correct = generator.random(1000) < np.repeat(generator.uniform(0.2, 0.9, 20), 50)
    by_speaker = metrics.bootstrap_by_group(speakers, lambda index: float(correct[index].mean()))
    by_clip = metrics.bootstrap_by_group(np.arange(1000), lambda index: float(correct[index].mean()))
    assert by_speaker[0] < correct.mean() < by_speaker[1]
    assert by_speaker[1] - by_speaker[0] > 2 * (by_clip[1] - by_clip[0])


def test_one_speaker_has_no_interval() -> None:
    assert np.isnan(metrics.bootstrap_by_group(np.zeros(9), lambda index: 1.0)).all()
