"""A teacher says of each speaker what others taught it, and the network learns what it says."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled_clips import write_folder
from test_fit import CONFIG, make

from ser_batch import Config, hooks
from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.errors import DataError, ExitCode
from ser_batch.plugins import PluginRecipe
from ser_batch.stages.analyse import analyse_clip
from ser_batch.stages.ingredients import gather
from ser_batch.stages.progress import Progress
from ser_batch.training.buckets import clip_ref
from ser_batch.training.dataset import Dataset, content_hashes
from ser_batch.training.fit import FitPlan, fit
from ser_batch.training.teacher import embeddings_of, soft_labels

pytestmark = pytest.mark.usefixtures("no_pictures")

RECIPE = PluginRecipe(entry_points=())


def heard_of(dataset: Dataset) -> np.ndarray:
    """Embeddings that tell the speaker for sure, and the label less so."""
    rng = np.random.default_rng(0)
    speaker = np.unique(dataset.speaker, return_inverse=True)[1]
    told = np.eye(2)[dataset.target] * 2 + rng.normal(size=(len(dataset), 2))
    return np.concatenate([np.eye(8)[speaker] * 3, told], axis=1).astype(np.float16)


def test_what_is_said_of_a_speaker_does_not_come_from_that_speaker() -> None:
    _, dataset = make()
    heard, everybody = heard_of(dataset), np.arange(len(dataset))
    said = soft_labels(heard, dataset, everybody, 0.5)
    assert said.shape == (48, 2)
    np.testing.assert_allclose(said.sum(axis=1), 1, atol=1e-5)
    assert (said.argmax(axis=1) == dataset.target).mean() > 0.8
    own = dataset.speaker == "s3"
    turned = replace(dataset, target=np.where(own, 1 - dataset.target, dataset.target))
    otherwise = soft_labels(heard, turned, everybody, 0.5)
    np.testing.assert_array_equal(otherwise[own], said[own])
    assert np.abs(otherwise - said).max() > 0.01


def test_those_who_are_not_learnt_from_neither_teach_nor_are_told_of() -> None:
    _, dataset = make()
    heard = heard_of(dataset)
    heard[5] = np.nan
    learnt = np.flatnonzero(dataset.speaker != "s3")
    said = soft_labels(heard, dataset, learnt, 0.5)
    known = np.isin(np.arange(48), learnt) & (np.arange(48) != 5)
    assert (np.isnan(said[:, 0]) == ~known).all()
    turned = replace(dataset, target=np.where(dataset.speaker == "s3", 1 - dataset.target, dataset.target))
    np.testing.assert_array_equal(soft_labels(heard, turned, learnt, 0.5), said)


def test_a_single_speaker_cannot_be_taught() -> None:
    _, dataset = make()
    with pytest.raises(DataError, match="only one"):
        soft_labels(heard_of(dataset), dataset, np.flatnonzero(dataset.speaker == "s3"), 0.5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_network_learns_from_labels_and_teacher_by_their_shares(share: float) -> None:
    rows, dataset = make()
    # A teacher that is wrong throughout: whoever believes it answers the other label.
    wrong = np.eye(2, dtype=np.float32)[1 - dataset.target]
    config = replace(CONFIG, epochs=6, branches="dense", teacher_share=share, auxiliary_weight=0.0)
    network = fit(rows, dataset, FitPlan(np.arange(36), None, 3, taught=wrong), config).network
    scores = rows.score(network, np.arange(36, 48))
    right = (scores.probabilities().argmax(axis=1) == dataset.target[36:]).mean()
    assert right <= 0.25 if share else right >= 0.75


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("taught") / "raw", ("anger", "sadness"), n_speakers=6, n_takes=1)


def test_embeddings_are_means_of_what_a_scan_hears_and_are_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(str(path) for path in folder.rglob("*.wav"))[:3]
    how = {"cache_dir": tmp_path, "recipe": RECIPE, "jobs": 1}
    heard = embeddings_of("ser6", paths, content_hashes(paths), **how, progress=Progress())
    assert heard.shape == (3, 128)
    assert np.isfinite(heard).all()
    manager, config = RECIPE.build(), Config()
    classifier = hooks.load_classifier(manager, "ser6", "cpu")
    extractors = {
        name: item
        for name, item in hooks.register_extractors(manager, config).items()
        if name in {spec.extractor for spec in gather(manager, RECIPE, config).specs}
    }
    outcome = analyse_clip(clip_ref(paths[0], "a.wav"), config, extractors, classifier, manager)
    # One window, so the mean is its embedding.
    np.testing.assert_allclose(heard[0], outcome.embeddings[0], atol=2e-3)
    monkeypatch.setattr("ser_batch.training.buckets.temporary_extraction", None)
    again = embeddings_of("ser6", paths, content_hashes(paths), **how, progress=Progress())
    np.testing.assert_array_equal(again, heard)


def test_train_learns_from_a_teacher_and_the_model_says_so(folder: Path, tmp_path: Path) -> None:
    models = {}
    changes = ["--set", "fit.epochs=1", "--set", "augment.copies=0"]
    for name, more in (("alone", []), ("taught", ["--teacher", "ser6"])):
        options = {"--data": folder, "--output": tmp_path / f"{name}.safetensors", "--report": tmp_path / name}
        pairs = [part for key, value in {**options, "--cache": tmp_path}.items() for part in (key, str(value))]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main(["train", "--config", "quick", *changes, *pairs, *more, "--device", "cpu", "--jobs", "1"])
        assert code == ExitCode.OK
        models[name] = checkpoint.load(tmp_path / f"{name}.safetensors")
    assert models["taught"].meta["training"]["teacher"] == "ser6"
    assert "teacher" not in models["alone"].meta["training"]
    losses = [json.loads((tmp_path / name / "scores.json").read_text())["history"][0]["loss"] for name in models]
    # Without a teacher it is the same to the last digit.
    assert abs(losses[0] - losses[1]) > 1e-5
