"""A plugin that lies at random: every file is a true row, or the plugin is named in one error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pluggy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_batch import hooks, hookspecs
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ModelError, PluginError
from ser_batch.hookspecs import hookimpl
from ser_batch.interrupt import Interruptions
from ser_batch.plugins import PluginRecipe, describe_plugins
from ser_batch.records import (
    Clip,
    ClipOutcome,
    ClipRef,
    Corpus,
    FeatureBlock,
    FeatureSpec,
    LabelledClip,
    Prediction,
    Segment,
    Status,
)
from ser_batch.run.rows import RowMaker
from ser_batch.stages.analyse import analyse_clip, select_extractors
from ser_batch.stages.ingredients import ingredients_of
from ser_batch.stages.predict import predict_outcomes

RATE_HZ = 8_000
VOICE = synthetic_voice(3.0, RATE_HZ)
CONFIG = Config().with_values(
    {
        "audio": {"sample_rate_hz": RATE_HZ, "piece_s": 2.0, "window_s": 1.0, "window_hop_s": 0.5},
        "extract": {"extractors": ["liar"]},
        "predict": {"model": "x"},
        "segments": {"source": "voice"},
    }
)


class Hostile:
    """Raises whatever is done to it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __len__ = __iter__ = __eq__ = __hash__ = __bool__ = __array__ = __float__ = _refuse  # type: ignore[assignment]


class Raised(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def shout(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


#: What may stand in any place, made anew for each use.
LIES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "0": lambda: 0,
    "-1": lambda: -1,
    "True": lambda: True,
    "70000": lambda: 70_000,
    "10**400": lambda: 10**400,
    "nan": lambda: float("nan"),
    "inf": lambda: np.float32("inf"),
    "1j": lambda: 1j,
    "empty text": lambda: "",
    "text": lambda: "a\x1b[31m\n" * 2000,
    "surrogate": lambda: "\udcff",
    "bytes": lambda: b"\0",
    "list": lambda: [],
    "nested": lambda: [[1], [2, 3]],
    "tuple": lambda: (7, "x"),
    "dict": lambda: {"a": {1: 2}},
    "object": object,
    "class": lambda: FeatureSpec,
    "function": lambda: print,
    "hostile": Hostile,
    "generator": lambda: (value for value in (1, 2)),
    "no array": lambda: np.zeros((0, 0)),
    "big array": lambda: np.ones((3, 3, 3), np.float32),
    "nan array": lambda: np.full((3, 2), np.nan, np.float32),
    "text array": lambda: np.array(["a"]),
    "object array": lambda: np.array([None, Hostile], object),
    "ValueError": shout(ValueError("x" * 10_000)),
    "unspeakable": shout(Raised()),
    "MemoryError": shout(MemoryError()),
    "SystemExit": shout(SystemExit(0)),
    "KeyboardInterrupt": shout(KeyboardInterrupt()),
    "StopIteration": shout(StopIteration()),
    "GeneratorExit": shout(GeneratorExit()),
}


class Liar:
    """An honest plugin but for the places at which it was told to lie."""

    def __init__(self, lies: dict[str, str]) -> None:
        self._lies = lies
        #: Whether the model tells what it hears; it is asked for probabilities otherwise.
        self._listens = any(place.startswith("listen") for place in lies)

    def say(self, place: str, truth: Any) -> Any:
        return LIES[self._lies[place]]() if place in self._lies else truth

    @property
    def READER_VERSION(self) -> Any:
        return self.say("reader version", 1)

    @property
    def FINDER_VERSION(self) -> Any:
        return self.say("finder version", 1)

    @property
    def spec(self) -> Any:
        return self.say(
            "spec",
            FeatureSpec(
                self.say("spec.extractor", "liar"),
                self.say("spec.version", 1),
                self.say("spec.scalars", (("level", "db"), ("time", "s"))),
                self.say("spec.tensor_shape", (2,)),
                self.say("spec.totals", ("time",)),
            ),
        )

    def extract(self, clip: Clip, windows_s: Any) -> Any:
        n_windows = len(windows_s)
        return self.say(
            "block",
            FeatureBlock(
                self.say("block.extractor", "liar"),
                self.say("block.scalars", np.full((n_windows, 2), 0.5, np.float32)),
                self.say("block.clip_scalars", np.ones(2, np.float32)),
                self.say("block.tensor", np.zeros((n_windows, 2), np.float32)),
            ),
        )

    @property
    def name(self) -> Any:
        return self.say("model.name", "x")

    @property
    def sha256(self) -> Any:
        return self.say("model.sha256", "0" * 64)

    @property
    def device(self) -> Any:
        return self.say("model.device", "cpu")

    @property
    def labels(self) -> Any:
        return self.say("model.labels", ("no", "yes"))

    @property
    def needs(self) -> Any:
        return self.say("model.needs", (("liar", 1),))

    @property
    def columns(self) -> Any:
        return self.say("model.columns", {"liar": ["liar__level_db"]})

    @property
    def card(self) -> Any:
        return self.say("model.card", {"temperature": 1.0})

    @property
    def n_embedding(self) -> Any:
        return self.say("listen.n_embedding", 2) if self._listens else 0

    @property
    def listening_sha256(self) -> Any:
        return self.say("listen.sha256", "1" * 64)

    def listen(self, blocks: Any) -> Any:
        n_windows = len(blocks["liar"].scalars)
        embeddings = self.say("listen.embeddings", np.full((n_windows, 2), 0.5, np.float32))
        return self.say("listen", (embeddings, self.say("listen.weights", np.ones(n_windows))))

    def label(self, embeddings: Any) -> Any:
        return self.say("listen.label", np.column_stack([embeddings[:, 0], 1 - embeddings[:, 0]]))

    def predict(self, blocks: Any) -> Any:
        yes = blocks["liar"].scalars[:, 0]
        probabilities = self.say("probabilities", np.column_stack([1 - yes, yes]))
        return self.say("predict", (probabilities, self.say("weights", np.ones(len(yes)))))

    def pool(self, window_probabilities: Any, weights: Any) -> Any:
        truth = Prediction("yes", np.array([0.4, 0.6]), window_probabilities, 0.6, 0.9, 0.2)
        parts = {field.name: self.say(f"pool.{field.name}", getattr(truth, field.name)) for field in fields(Prediction)}
        return self.say("pool", Prediction(**parts))

    def _pieces(self) -> Iterator[Any]:
        for number in range(2):
            clip = Clip(VOICE.copy(), RATE_HZ, 44_100, 2, start_s=2.0 * number)
            for name in ("samples", "sample_rate_hz", "source_rate_hz", "source_channels", "start_s", "note"):
                object.__setattr__(clip, name, self.say(f"clip{number}.{name}", getattr(clip, name)))
            yield self.say(f"clip{number}", clip)

    @hookimpl
    def register_extractors(self) -> Any:
        return self.say("register_extractors", [self.say("extractor", self)])

    @hookimpl
    def read_clip(self, ref: ClipRef) -> Any:
        object.__setattr__(ref, "clip_id", self.say("clip_id", ref.clip_id))
        return self.say("read_clip", self._pieces())

    @hookimpl
    def find_segments(self, clip: Clip) -> Any:
        told = ("start_s", clip.start_s + 0.1), ("end_s", clip.start_s + 0.9), ("channel", 1)
        told += ("speaker", "a"), ("text", "b"), ("source", "c")
        segment = Segment(*(self.say(f"segment.{name}", truth) for name, truth in told))
        return self.say("find_segments", [self.say("segment", segment)])

    @hookimpl
    def load_classifier(self) -> Any:
        return self.say("load_classifier", self)

    @hookimpl
    def validate_config(self) -> Any:
        return self.say("validate_config", None)

    @hookimpl
    def clip_finished(self, outcome: ClipOutcome) -> Any:
        return self.say("clip_finished", None)

    @hookimpl
    def report_sections(self) -> Any:
        return self.say("report_sections", [self.say("section", ("a", "b"))])

    @hookimpl
    def register_corpora(self) -> Any:
        about = {field.name: self.say(f"corpus.{field.name}", field.name) for field in fields(Corpus)[:5]}
        clip = {field.name: self.say(f"clip.{field.name}", field.name) for field in fields(LabelledClip)}
        corpus = Corpus(
            **about,
            read=lambda folder: self.say("clips", [self.say("clip", LabelledClip(**clip))]),
            looks_like=lambda *_: self.say("alike", True),
        )
        return self.say("register_corpora", [self.say("corpus", corpus)])


def places(use: Callable[[pluggy.PluginManager], None]) -> list[str]:
    """All places at which an honest plugin is asked something."""
    asked: list[str] = []

    class Asked(Liar):
        def say(self, place: str, truth: Any) -> Any:
            asked.append(place)
            return truth

    use(managed(Asked({})))
    use(managed(Asked({"listen": ""})))
    return list(dict.fromkeys(asked))


def managed(plugin: Liar) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("ser_batch")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, "liar")
    return manager


def scan(manager: pluggy.PluginManager) -> None:
    """Do with a plugin what a scan does, and hold what comes out against the contract."""
    hooks.validate_config(manager, CONFIG)
    offered = hooks.register_extractors(manager, CONFIG)
    describe_plugins(manager, offered)
    model = hooks.load_classifier(manager, "x", "cpu")
    extractors = select_extractors(offered, ["liar"], model)
    ingredients = ingredients_of(manager, PluginRecipe(), CONFIG, extractors, model)
    json.dumps([ingredients.settings(), ingredients.model], allow_nan=False)
    ref = ClipRef("a.wav", "/a.wav", 1, 1)
    outcomes = [
        analyse_clip(ref, CONFIG, extractors, model, manager),
        *predict_outcomes([analyse_clip(ref, CONFIG, extractors, None, manager, keep_tensors=True)], model, 64),
    ]
    assert [outcome.ref for outcome in outcomes] == [ClipRef("a.wav", "/a.wav", 1, 1)] * 2
    provenance = {"run_id": "r", "fingerprint": "f", "tool_version": "0"}
    rows = RowMaker(ingredients.labels, ingredients.specs, provenance, 0.0, ingredients.n_embedding, has_segments=True)
    rows.tables(outcomes)
    for outcome, row in zip(outcomes, rows.files(outcomes).to_pylist(), strict=True):
        check_row(outcome, row, model.labels)
    for _, error in hooks.clip_finished(manager, outcomes):
        assert "liar" in str(error)


def report_and_train(manager: pluggy.PluginManager) -> None:
    """Do with a plugin what a report and a training do."""
    for _, found in hooks.report_sections(manager, Path()):
        assert isinstance(found, list) or "liar" in str(found)
    for corpus in hooks.register_corpora(manager):
        corpus.looks_like(Path(), [])
        for clip in corpus.read(Path()):
            assert all(isinstance(text, str) for text in astuple(clip))


def check_row(outcome: ClipOutcome, row: dict[str, Any], labels: tuple[str, ...]) -> None:
    """A row is true: predicted as the contract says, or it says what is wrong and whose fault it is."""
    assert len(outcome.error_message) <= 500
    if outcome.status is Status.FAILED:
        blamed = "liar" in outcome.error_message
        assert blamed or outcome.stage == "decode", outcome.error_message  # readers say it in their own words
        return
    assert outcome.status in (Status.OK, Status.PARTIAL) or outcome.error_type in ("Empty", "NoVoice")
    if outcome.prediction is not None:
        assert outcome.prediction.emotion in labels and row["emotion"] in labels
        for table in (outcome.prediction.probabilities[None], outcome.prediction.window_probabilities):
            assert (table >= 0).all() and np.abs(table.sum(axis=1) - 1).max() < 3e-3
        assert 0 <= row["confidence"] <= 1


#: Place -> who asks there.
PLACES = {place: use for use in (scan, report_and_train) for place in places(use)}


def lie(lies: dict[str, str]) -> None:
    with Interruptions():  # as in a scan: whoever raises KeyboardInterrupt beside it is a plugin
        for use in dict.fromkeys(map(PLACES.__getitem__, lies)):
            try:
                use(managed(Liar(lies)))
            except (PluginError, ModelError) as error:
                assert "liar" in str(error) or "model" in str(error)
                assert len(str(error)) < 2_000


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("place", PLACES)
def test_no_single_lie_comes_through(place: str) -> None:
    for kind in LIES:
        lie({place: kind})


@pytest.mark.reliability
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(PLACES)), st.sampled_from(sorted(LIES)), min_size=2, max_size=5))
def test_long_no_set_of_lies_comes_through(lies: dict[str, str]) -> None:
    lie(lies)
