"""The lower rungs of the ladder in docs/accuracy.md, on the folds of the hybrid: prior, and SVMs on 13 or 88 features.

    python benchmarks/baselines.py CORPORA [--cache FOLDER] [--egemaps] [--json FILE]

CORPORA holds one folder per corpus, as downloaded. Needs scikit-learn, and openSMILE for ``--egemaps``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.reading import read_corpus
from ser_batch.plugins import PluginRecipe
from ser_batch.training import metrics
from ser_batch.training.augment import AugmentConfig
from ser_batch.training.dataset import NO_TARGET, Dataset, content_hashes, cross_validation_folds
from ser_batch.training.features import extract_features
from ser_batch.training.train_config import DataConfig

SEEDS = (0, 1, 2)
#: The crying contexts: labels among which the four-way score chooses.
CONTEXTS = ("anger", "disgust", "happiness", "sadness")


def _egemaps_of(paths: Sequence[str]) -> np.ndarray:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    return np.stack([smile.process_file(path).to_numpy()[0] for path in paths])


def egemaps(paths: Sequence[str], cache: Path, jobs: int) -> np.ndarray:
    """Return the 88 functionals of each file, (n_clips, 88), computed once."""
    stored = cache / "egemaps.npy"
    if stored.is_file() and len(np.load(stored)) == len(paths):
        return np.load(stored)
    cache.mkdir(parents=True, exist_ok=True)
    parts = [paths[start : start + 100] for start in range(0, len(paths), 100)]
    with ProcessPoolExecutor(jobs) as pool:
        values = np.concatenate(list(pool.map(_egemaps_of, parts)))
    np.save(stored, values)
    return values


def thirteen(dataset: Dataset, cache: Path, jobs: int) -> np.ndarray:
    """Return the dense features of each clip: those of its windows, weighted by audible seconds, (n_clips, 13)."""
    paths = [clip.path for clip in dataset.clips]
    table = extract_features(
        paths,
        content_hashes(paths),
        cache_dir=cache,
        recipe=PluginRecipe(entry_points=()),
        changes=AugmentConfig(copies=0),
        jobs=jobs,
    )
    total = np.zeros((len(dataset), 13))
    weight = np.zeros((len(dataset), 13))
    known = ~np.isnan(table.dense) * np.maximum(table.active_s, 1e-6)[:, None]
    np.add.at(total, table.clip, np.nan_to_num(table.dense) * known)
    np.add.at(weight, table.clip, known)
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), np.nan)


def svm_probabilities(
    train: np.ndarray, target: np.ndarray, test: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Fit an RBF SVM on standardised, median-imputed features; return scores of the test clips (n, n_labels)."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    model = make_pipeline(
        SimpleImputer(strategy="median"),
        StandardScaler(),
        SVC(C=3.0, gamma="scale", decision_function_shape="ovr", random_state=seed),
    )
    model.fit(train, target, svc__sample_weight=weights)
    return model.decision_function(test)


def scores(dataset: Dataset, clips: np.ndarray, answers: np.ndarray) -> dict[str, list[float]]:
    """Return UAR with its 95 % interval by speaker for each corpus, and for the contexts of bursts."""
    truth, corpus = dataset.target[clips], np.array(dataset.corpora)[dataset.corpus[clips]]
    result = {}
    for name in dataset.corpora:
        result[name] = _interval(truth, answers.argmax(axis=1), dataset.speaker[clips], corpus == name)
    if "emogator" in dataset.corpora:
        places = [dataset.labels.index(label) for label in CONTEXTS]
        chosen = np.array(places)[answers[:, places].argmax(axis=1)]
        inside = (corpus == "emogator") & np.isin(truth, places)
        result["contexts"] = _interval(truth, chosen, dataset.speaker[clips], inside)
    return result


def _interval(truth: np.ndarray, predicted: np.ndarray, speakers: np.ndarray, inside: np.ndarray) -> list[float]:
    truth, predicted, speakers = truth[inside], predicted[inside], speakers[inside]
    low, high = metrics.bootstrap_by_group(speakers, lambda index: metrics.uar(truth[index], predicted[index]))
    return [metrics.uar(truth, predicted), low, high]


def main() -> None:
    """Score each rung and print one line per rung and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--egemaps", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clips = [
        clip
        for item in sorted(options.corpora.iterdir())
        if item.is_dir()
        for clip in read_corpus(item, BUILT_IN_CORPORA).clips
    ]
    config = DataConfig()
    dataset = Dataset.build(clips, config)
    inputs = {"13 features + SVM": thirteen(dataset, options.cache, options.jobs)}
    if options.egemaps:
        inputs["eGeMAPS + SVM"] = egemaps([clip.path for clip in clips], options.cache, options.jobs)
    results: dict[str, list[dict[str, list[float]]]] = {"prior": [], **{name: [] for name in inputs}}
    weights = dataset.weights(config.balance)
    for name, scored in results.items():
        # An RBF SVM is deterministic: the seed only matters for solvers that shuffle.
        tested, answers = [], []
        for _, train, test in cross_validation_folds(dataset, BUILT_IN_CORPORA, "given"):
            learnt = train[dataset.target[train] != NO_TARGET]
            if name == "prior":
                share = np.bincount(dataset.target[learnt], minlength=len(dataset.labels)) / len(learnt)
                answer = np.tile(share, (len(test), 1))
            else:
                features = inputs[name]
                weight = weights[learnt] / weights[learnt].mean()
                answer = svm_probabilities(features[learnt], dataset.target[learnt], features[test], weight, SEEDS[0])
            tested.append(test)
            answers.append(answer)
        scored.append(scores(dataset, np.concatenate(tested), np.concatenate(answers)))
        print(name, {key: [round(value, 3) for value in values] for key, values in scored[-1].items()}, flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
