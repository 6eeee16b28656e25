"""How often the 95 % intervals of an audit hold the truth: ``python -m benchmarks.audit_coverage RUN CORPUS [...]``.

Each RUN is a scan of a labelled corpus: its true labels play the listeners. From its files an archive is drawn whose
emotions are as unequal as in nature, so that the shares the model predicts are wrong; then audits of 200 answers are
drawn from it again and again; ``--draws`` sets how many. Without a run, confusions are made up.

It prints, per archive: the accuracy, how often the intervals of accuracy, UAR and shares hold the truth, the mean half
width of shares with predictions and by the answers alone, and how often the raw predicted share lies outside its
interval.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch.reviews.estimates import Design, prediction_powered, ratio
from ser_batch.reviews.sample import Population, draw

__all__ = ["Archive", "Coverage", "coverage_of", "made_up", "scanned"]

N_ANSWERS = 200
N_FILES = 20_000
#: Shares of emotions, the most frequent first; what follows has none.
SKEW = (0.45, 0.25, 0.14, 0.08, 0.05, 0.03)


@dataclass(frozen=True)
class Archive:
    """Files of which everything is known."""

    name: str
    #: Of the model.
    labels: tuple[str, ...]
    #: Labels of the model, then what else there is to hear.
    categories: tuple[str, ...]
    #: int64 (n_files,): place in `categories`.
    truth: NDArray[np.int64]
    #: float32 (n_files, n_labels)
    probabilities: NDArray[np.float32]

    @property
    def population(self) -> Population:
        p = self.probabilities
        label = p.argmax(axis=1).astype(np.int16)
        return Population("files", self.labels, label, p.max(axis=1), p.mean(axis=0, dtype=np.float64))


class Coverage(NamedTuple):
    """What many audits of one archive found; shares of audits, or of audits times answers."""

    name: str
    true_accuracy: float
    #: How often the intervals hold the truth.
    accuracy: float
    uar: float
    shares: float
    #: Mean half-width of the intervals: of the accuracy, of shares, and of shares by the answers alone.
    accuracy_half_width: float
    shares_half_width: float
    alone_half_width: float
    #: How often the share that the model predicts lies outside the interval.
    raw_outside: float


def made_up(name: str, seed: int, bias: float = 0.6) -> Archive:
    """Make an archive up: by a model that prefers some labels and is too sure."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(SKEW), N_FILES, p=SKEW)
    scores = rng.normal(0, 1, (N_FILES, len(SKEW)))
    scores[np.arange(N_FILES), truth] += 1.2
    scores += bias * np.linspace(-1, 1, len(SKEW))
    p = np.exp(1.3 * scores)
    labels = tuple(f"emotion {i}" for i in range(len(SKEW)))
    return Archive(name, labels, labels, truth, (p / p.sum(axis=1, keepdims=True)).astype(np.float32))


def scanned(run: Path, corpus: Path, seed: int) -> Archive:
    """Draw an archive of unequal emotions from the scan of a corpus, with its true labels."""
    from ser_batch import load_results
    from ser_batch.corpora.builtin import BUILT_IN_CORPORA
    from ser_batch.corpora.reading import read_corpus

    heard = {os.path.relpath(clip.path, corpus): clip.emotion for clip in read_corpus(corpus, BUILT_IN_CORPORA).clips}
    files = load_results(run)
    labels = tuple(name.removeprefix("p_") for name in files.columns if name.startswith("p_"))
    files = files[files.clip_id.isin(list(heard)) & files.emotion.notna()]
    truth = files.clip_id.map(heard)
    categories = (*labels, *sorted(set(truth) - set(labels)))
    rng = np.random.default_rng(seed)
    there = rng.permutation(sorted(set(truth)))
    shares = np.resize([*SKEW, 0.02, 0.02], len(there))
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(truth == name), round(N_FILES * share))
            for name, share in zip(there, shares / shares.sum(), strict=True)
        ]
    )
    p = files[[f"p_{label}" for label in labels]].to_numpy(np.float32)
    places = truth.map({name: i for i, name in enumerate(categories)}).to_numpy(np.int64)
    return Archive(f"{run.name}, seed {seed}", labels, categories, places[chosen], p[chosen])


def coverage_of(archive: Archive, n_draws: int) -> Coverage:
    """Audit an archive `n_draws` times with `N_ANSWERS` answers each."""
    population, truth, n = archive.population, archive.truth, len(archive.categories)
    predicted = np.asarray(population.label, np.int64)
    accuracy = float(np.mean(predicted == truth))
    labels = range(len(archive.labels))
    true_uar = float(np.mean([np.mean(predicted[truth == k] == k) for k in labels if (truth == k).any()]))
    true_shares = np.bincount(truth, minlength=n) / len(truth)
    raw_shares = np.bincount(predicted, minlength=n) / len(truth)
    told = []
    for seed in range(n_draws):
        drawn = draw(population, np.random.default_rng(seed))
        places = drawn.places[:N_ANSWERS]
        design = Design(drawn.stratum[:N_ANSWERS], drawn.sizes)
        y, given = truth[places], predicted[places]
        right = design.estimate(ratio(design, y == given, np.ones(len(y))))
        uar = design.estimate_mean([ratio(design, (y == k) & (given == k), y == k) for k in labels])
        for k in range(n):
            f = archive.probabilities[places, k] if k in labels else np.zeros(len(y))
            mean = float(population.mean_probability[k]) if k in labels else 0.0
            share, alone = (
                design.estimate(prediction_powered(design, y == k, f, mean, power)[0]) for power in (None, 0.0)
            )
            told.append(
                [
                    right.low <= accuracy <= right.high,
                    uar.low <= true_uar <= uar.high,
                    share.low <= true_shares[k] <= share.high,
                    right.half_width,
                    share.half_width,
                    alone.half_width,
                    not share.low <= raw_shares[k] <= share.high,
                ]
            )
    return Coverage(archive.name, accuracy, *np.mean(told, axis=0).tolist())


def main() -> None:
    """Print a line per archive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="RUN CORPUS")
    parser.add_argument("--draws", type=int, default=1_000)
    options = parser.parse_args()
    archives = [made_up("made up", 0)]
    for run, corpus in zip(options.paths[::2], options.paths[1::2], strict=True):
        archives += [scanned(run, corpus, seed) for seed in (0, 1)]
    print(f"{'archive':<20} " + " ".join(f"{name:>19}" for name in Coverage._fields[1:]))
    for archive in archives:
        found = coverage_of(archive, options.draws)
        print(f"{found.name:<20} " + " ".join(f"{value:19.4f}" for value in found[1:]))


if __name__ == "__main__":
    main()
