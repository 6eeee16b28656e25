"""What answers about an archive are worth: ``python -m benchmarks.own_archive CORPORA --model NAME=FILE [...]``.

CORPORA holds labelled corpora, ``emo-db``, ``emovo``, ``savee``, ``ravdess`` and ``nemo``: each stands for an archive,
and is given the FILE of a network that has not learnt from it, made by ``ser-batch train`` without this corpus. It is
scanned once with that into DIR. Then, again and again, some speakers are put aside, files of the others are drawn at
random, or chosen as ``ser-batch review --for adapt`` does it; their true labels play the listener, the last layer is
learnt from them as ``ser-batch adapt`` does it, guard included, and scored on the speakers put aside.

It prints, per corpus, choice and number of answers: mean recall (UAR) over the emotions that the model knows, as
shipped and after; the worst draw; and how often the new layer was kept; then the means over corpora. The lines without
a number are of answers of which each speaker has one emotion alone: there is nothing to learn but the speakers.

``--deep N`` holds the whole network, gone on with as ``ser-batch adapt --deep`` does it, against the last layer on the
same N draws, of at most 1,000 files of each corpus.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks, scan
from ser_batch.classifier.checkpoint import Checkpoint, load
from ser_batch.config import Config
from ser_batch.heads.adapt import examples_of, learn, spread_of, windows_of
from ser_batch.heads.answered import Answered, Found
from ser_batch.heads.learn import Examples, Floats, Head, head_of
from ser_batch.plugins import PluginRecipe
from ser_batch.records import LabelledClip
from ser_batch.reviews.choice import choose_for_adapt
from ser_batch.run.read import open_run

if TYPE_CHECKING:
    from ser_batch.heads.deep import Answers

__all__ = ["Archive", "Row", "deep_study", "means", "scanned", "study"]

#: Chosen ones at 100 are to be as good as random ones at 150.
N_ANSWERS = (30, 100, 150, 300)
N_DEEP_ANSWERS = (100, 300)
_MOST_DEEP_FILES = 1_000

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Archive:
    """A scanned corpus of which all labels are known."""

    name: str
    #: Of the files, as `examples` are numbered.
    paths: list[str]
    examples: Examples
    model: Checkpoint
    spread: tuple[Floats, Floats]
    #: Where what was computed is kept.
    cache: Path

    @cached_property
    def head(self) -> Head:
        return head_of(self.model)


class Row(NamedTuple):
    """What answers are worth, over draws."""

    archive: str
    choice: str
    n_answers: int
    n_draws: int
    before: float
    after: float
    worst_gain: float
    kept_new: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def scanned(corpora: Path, name: str, runs: Path, model_file: Path) -> Archive:
    """Scan a corpus, unless that is done, and return what is known of its files."""
    model = load(model_file)
    corpus = next(item for item in hooks.register_corpora(PluginRecipe().build()) if item.name == name)
    config = Config().with_values({"predict": {"model": str(model_file), "device": "cpu"}})
    folder = runs / f"{name}-{model.sha256[:8]}"
    scan(corpora / name, folder, config=config, report=False)
    run = open_run(folder)
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
    paths = [str(corpora / name / item.clip_id) for item in found.stretches]
    examples = examples_of(found.stretches, windows, run.labels)
    return Archive(name, paths, examples, model, spread_of(run), runs / "cache")


def study(archive: Archive, n_draws: int, sizes: Sequence[int] = N_ANSWERS) -> Iterator[Row]:
    """Yield what so many answers are worth on speakers that were put aside."""
    choices: dict[str, Callable[[Mask, int, int], Mask]] = {
        "at random": _some,
        "for adapt": partial(_telling, archive),
    }
    for (choice, choose), n_answers in product(choices.items(), sizes):
        found = [
            _gain(archive, choose(others, n_answers, seed), aside)
            for seed in range(n_draws)
            for aside, others in [_speakers_aside(archive.examples, seed)]
            if others.sum() >= n_answers
        ]
        if found:
            yield _row(archive.name, choice, n_answers, found)
    found = []
    for seed in range(n_draws):
        aside, others = _speakers_aside(archive.examples, seed)
        found.append(_gain(archive, _one_emotion_each(archive.examples, others, seed), aside))
    yield _row(archive.name, "one emotion per speaker", 0, found)


def deep_study(archive: Archive, n_draws: int, sizes: Sequence[int] = N_DEEP_ANSWERS) -> Iterator[Row]:
    """Yield what answers at random are worth for the whole network, and for the last layer, on the same draws."""
    from ser_batch.heads.deep import Answers, config_for, go_on
    from ser_batch.training.dataset import content_hashes
    from ser_batch.training.features import extract_features

    everything = np.arange(len(archive.paths))
    some = np.sort(np.random.default_rng(0).permutation(everything)[:_MOST_DEEP_FILES])
    config, model = config_for(archive.model), archive.model
    paths = [archive.paths[place] for place in some]
    table = extract_features(
        paths,
        content_hashes(paths),
        cache_dir=archive.cache,
        recipe=PluginRecipe(),
        changes=config.augment,
        audio=config.audio,
    )
    examples = archive.examples.only(np.isin(everything, some))

    def answers_of(chosen: Mask) -> Answers:
        part, rate_hz = table.only(np.flatnonzero(chosen).tolist()), config.audio.sample_rate_hz
        groups = [str(group) for group in examples.group[chosen]]
        return Answers.build(part, model.labels, examples.truth[chosen], groups, "cpu", rate_hz)

    for n_answers in sizes:
        deep, layer = [], []
        for seed in range(n_draws):
            aside, others = _speakers_aside(examples, seed)
            if others.sum() < n_answers:
                continue
            chosen = _some(others, n_answers, seed)
            found = go_on(answers_of(chosen), model, model.labels, config, lambda *_: None)
            asked = answers_of(aside)
            gone = Checkpoint({**model.weights, **found.weights}, {**model.meta, "temperature": found.temperature})
            before, after = (_uar(asked.examples, _said(asked, one)) for one in (model, gone))
            deep.append((before, after, found.is_new))
            layer.append(_gain_of(archive, examples, chosen, aside))
        if deep:
            yield _row(archive.name, "at random, --deep", n_answers, deep)
            yield _row(archive.name, "the same, last layer", n_answers, layer)


def _said(asked: Answers, model: Checkpoint) -> Floats:
    from ser_batch.classifier.network import HybridCNN
    from ser_batch.training.starting import copy_weights, shape_for

    network = HybridCNN(shape_for(model, asked.labels))
    copy_weights(network, model, asked.labels)
    logits = asked.rows.score(network, np.arange(len(asked.examples))).logits
    return asked.examples.pooled(logits / model.temperature)


def means(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the means over archives of each choice and number of answers, and the worst of their gains."""
    kinds: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row.choice, row.n_answers].append(row)
    for (choice, n_answers), found in kinds.items():
        before, after, kept = np.mean([(row.before, row.after, row.kept_new) for row in found], axis=0).tolist()
        worst = min(row.gain for row in found)
        yield Row(f"mean of {len(found)}", choice, n_answers, found[0].n_draws, before, after, worst, kept)


def _row(archive: str, choice: str, n_answers: int, found: list[tuple[float, float, bool]]) -> Row:
    before, after, kept = np.array(found, float).T
    return Row(archive, choice, n_answers, len(found), before.mean(), after.mean(), (after - before).min(), kept.mean())


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


def _telling(archive: Archive, others: Mask, n_answers: int, seed: int) -> Mask:
    """Choose files as `tasks_for_adapt` does, of those of some speakers."""
    places = np.flatnonzero(others)
    label = archive.examples.said_by(archive.head)[places].argmax(axis=1).astype(np.int16)
    chosen = np.zeros_like(others)
    chosen[places[choose_for_adapt(label, n_answers, seed)]] = True
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
    return _gain_of(archive, archive.examples, chosen, aside)


def _gain_of(archive: Archive, examples: Examples, chosen: Mask, aside: Mask) -> tuple[float, float, bool]:
    head = archive.head
    learnt = learn(examples.only(chosen), head, head, archive.spread)
    asked = examples.only(aside)
    before, after = (_uar(asked, asked.said_by(one)) for one in (head, learnt.head))
    return before, after, learnt.is_new


def _uar(examples: Examples, said: Floats) -> float:
    truth, best = examples.truth.argmax(axis=1), said.argmax(axis=1)
    return float(np.mean([(best[truth == kind] == kind).mean() for kind in np.unique(truth)]))


def _named(text: str) -> tuple[str, Path]:
    name, separator, file = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FILE, for example emo-db=without/emo-db.safetensors")
    return name, Path(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path)
    parser.add_argument(
        "--model", type=_named, action="append", required=True, metavar="NAME=FILE",
        help="a corpus, and a network that never heard it; may be given again",
    )  # fmt: skip
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "own_archive", metavar="DIR")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--deep", type=int, default=0, metavar="N")
    options = parser.parse_args()
    print(
        f"{'archive':10} {'answers':24} {'n':>4} {'draws':>5} "
        f"{'before':>6} {'after':>6} {'gain':>6} {'worst':>6} {'kept':>5}"
    )
    rows: list[Row] = []
    for name, file in options.model:
        archive = scanned(options.corpora, name, options.runs, file)
        for one, n_draws in ((study, options.draws), (deep_study, options.deep)):
            for row in one(archive, n_draws) if n_draws else ():
                rows.append(row)
                _show(row)
    for row in means(rows):
        _show(row)


def _show(row: Row) -> None:
    scores = f"{row.before:6.3f} {row.after:6.3f} {row.gain:+6.3f} {row.worst_gain:+6.3f} {row.kept_new:5.0%}"
    print(f"{row.archive:10} {row.choice:24} {row.n_answers or '':>4} {row.n_draws:5} {scores}", flush=True)


if __name__ == "__main__":
    main()
