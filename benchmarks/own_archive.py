"""What answers about an archive are worth: ``python -m benchmarks.own_archive CORPORA --model FILE``.

CORPORA holds ``emo-db``, ``emovo`` and ``savee``: each stands for an archive. Give a model that has not learnt from
them, made by ``ser-batch train`` without these corpora: the shipped ones have. Each is scanned once with it into DIR.
Then, again and again, some speakers are put aside, files of the others are drawn at random, or chosen as ``ser-batch
review --for adapt`` does it; their true labels play the listener, the last layer is learnt from them as ``ser-batch
adapt`` does it, guard included, and scored on the speakers put aside.

It prints, per corpus, number of answers and choice: mean recall (UAR) over the emotions that the model knows, as
shipped and after; the worst draw; and how often the new layer was kept. The last lines are of answers of which each
speaker has one emotion alone: there is nothing to learn from them but the speakers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks, scan
from ser_batch.classifier.checkpoint import load
from ser_batch.config import Config
from ser_batch.heads.adapt import examples_of, head_of, learn, spread_of, windows_of
from ser_batch.heads.answered import Answered, Found
from ser_batch.heads.learn import Examples, Floats, Head
from ser_batch.plugins import PluginRecipe
from ser_batch.records import LabelledClip
from ser_batch.reviews.choice import choose_for_adapt
from ser_batch.run.read import open_run

__all__ = ["Archive", "Row", "scanned", "study"]

CORPORA = ("emo-db", "emovo", "savee")
#: Chosen ones at 100 are to be as good as random ones at 150.
N_ANSWERS = (30, 100, 150, 300)


@dataclass(frozen=True)
class Archive:
    """A scanned corpus of which all labels are known."""

    name: str
    examples: Examples
    head: Head
    spread: tuple[Floats, Floats]


class Row(NamedTuple):
    """What answers are worth, over draws."""

    name: str
    n_answers: int
    n_draws: int
    before: float
    after: float
    worst_gain: float
    kept_new: float


def scanned(corpora: Path, name: str, runs: Path, model_file: Path) -> Archive:
    """Scan a corpus, unless that is done, and return what is known of its files."""
    corpus = next(item for item in hooks.register_corpora(PluginRecipe().build()) if item.name == name)
    config = Config().with_values({"predict": {"model": str(model_file), "device": "cpu"}})
    scan(corpora / name, runs / name, config=config, report=False)
    run, model = open_run(runs / name), load(model_file)
    clips = [clip for clip in corpus.read(corpora / name) if isinstance(clip, LabelledClip)]
    names = [Path(clip.path).relative_to(corpora / name).as_posix() for clip in clips]
    found = Found(
        [
            Answered(clip_id, 0.0, 1e6, {clip.emotion: 1.0}, group=clip.speaker)
            for clip_id, clip in zip(names, clips, strict=True)
            if clip.emotion in run.labels
        ]
    )
    windows = windows_of(run, found)
    return Archive(name, examples_of(found.stretches, windows, run.labels), head_of(model), spread_of(run))


def study(archive: Archive, n_draws: int, sizes: tuple[int, ...] = N_ANSWERS) -> Iterator[Row]:
    """Yield what so many answers are worth on speakers that were put aside."""
    choices: dict[str, Callable[[Mask, int, int], Mask]] = {
        "at random": _some,
        "for adapt": lambda others, n_answers, _: _telling(archive, others, n_answers),
    }
    for n_answers, (choice, choose) in product(sizes, choices.items()):
        found = [
            _gain(archive, choose(others, n_answers, seed), aside)
            for seed in range(n_draws)
            for aside, others in [_speakers_aside(archive.examples, seed)]
            if others.sum() >= n_answers
        ]
        if found:
            yield _row(f"{archive.name}, {choice}", n_answers, found)
    found = []
    for seed in range(n_draws):
        aside, others = _speakers_aside(archive.examples, seed)
        found.append(_gain(archive, _one_emotion_each(archive.examples, others, seed), aside))
    yield _row(f"{archive.name}, one emotion per speaker", 0, found)


def _row(name: str, n_answers: int, found: list[tuple[float, float, bool]]) -> Row:
    before, after, kept = np.array(found, float).T
    return Row(name, n_answers, len(found), before.mean(), after.mean(), (after - before).min(), kept.mean())


Mask = NDArray[np.bool_]


def _speakers_aside(examples: Examples, seed: int) -> tuple[Mask, Mask]:
    """Put about a third of the speakers aside; return their files and those of the others."""
    speakers = np.unique(examples.group)
    aside = np.random.default_rng(seed).choice(speakers, max(1, round(len(speakers) / 3)), replace=False)
    inside = np.isin(examples.group, aside)
    return inside, ~inside


def _some(others: Mask, n_answers: int, seed: int) -> Mask:
    chosen = np.zeros_like(others)
    chosen[np.random.default_rng(seed).choice(np.flatnonzero(others), n_answers, replace=False)] = True
    return chosen


def _telling(archive: Archive, others: Mask, n_answers: int) -> Mask:
    """Choose files as `tasks_for_adapt` does, of those of some speakers."""
    examples, places = archive.examples, np.flatnonzero(others)
    ranked = np.sort(said := examples.said_by(archive.head)[places], axis=1)
    sums = np.column_stack([np.bincount(examples.of, column, len(examples)) for column in examples.inputs.T])[places]
    vectors = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    margin = (ranked[:, -1] - ranked[:, -2]).astype(np.float32)
    chosen = np.zeros_like(others)
    chosen[places[choose_for_adapt(said.argmax(axis=1).astype(np.int16), margin, vectors.__getitem__, n_answers)]] = (
        True
    )
    return chosen


def _one_emotion_each(examples: Examples, others: Mask, seed: int) -> Mask:
    """Keep, of each speaker, the files of one emotion, each emotion in turn."""
    rng, kind = np.random.default_rng(seed), examples.truth.argmax(axis=1)
    chosen = np.zeros_like(others)
    speakers = rng.permutation(np.unique(examples.group[others]))
    for number, speaker in enumerate(speakers):
        own = others & (examples.group == speaker)
        kinds = np.unique(kind[own])
        chosen |= own & (kind == kinds[number % len(kinds)])
    return chosen


def _gain(archive: Archive, chosen: Mask, aside: Mask) -> tuple[float, float, bool]:
    head = archive.head
    learnt = learn(archive.examples.only(chosen), head, head, archive.spread)
    asked = archive.examples.only(aside)
    return _uar(asked, head), _uar(asked, learnt.head), learnt.is_new


def _uar(examples: Examples, head: Head) -> float:
    truth, said = examples.truth.argmax(axis=1), examples.said_by(head).argmax(axis=1)
    return float(np.mean([(said[truth == kind] == kind).mean() for kind in np.unique(truth)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="file of a network that never heard them")
    parser.add_argument("--corpus", action="append", help="only this one; may be given again")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "own_archive")
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    print(f"{'archive':38} {'answers':>7} {'draws':>5} {'before':>6} {'after':>6} {'gain':>6} {'worst':>6} {'kept':>5}")
    for name in options.corpus or CORPORA:
        for row in study(scanned(options.corpora, name, options.runs, options.model), options.draws):
            scores = f"{row.before:6.3f} {row.after:6.3f} {row.after - row.before:+6.3f} {row.worst_gain:+6.3f}"
            print(f"{row.name:38} {row.n_answers or '':>7} {row.n_draws:5} {scores} {row.kept_new:5.0%}", flush=True)


if __name__ == "__main__":
    main()
