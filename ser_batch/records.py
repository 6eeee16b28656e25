"""What flows from stage to stage: small frozen records. Arrays in them are read-only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Classifier",
    "Clip",
    "ClipOutcome",
    "ClipRef",
    "Corpus",
    "CorpusItem",
    "Extractor",
    "FeatureBlock",
    "FeatureSpec",
    "LabelledClip",
    "Listener",
    "PassedOver",
    "Prediction",
    "Remark",
    "Segment",
    "SegmentOutcome",
    "SegmentSource",
    "Status",
]

T = TypeVar("T")


def _quick_to_pickle(record: type[T]) -> type[T]:
    """Pickle a dataclass as a call with its fields: one with slots looks them up anew each time, both ways."""
    values = attrgetter(*(item.name for item in fields(record)))  # type: ignore[arg-type]
    record.__reduce__ = lambda self: (type(self), values(self))  # type: ignore[method-assign]
    return record


class Status(StrEnum):
    """The one state in which every file found ends."""

    OK = "ok"
    #: Analysed up to where the file broke; `duration_s` says how far, `error_message` why.
    PARTIAL = "partial"
    #: The file holds nothing to analyse (no samples, for example); `error_message` says what.
    SKIPPED = "skipped"
    #: Something broke; `stage`, `error_type` and `error_message` say where and what.
    FAILED = "failed"


@_quick_to_pickle
@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording in which somebody speaks, as somebody has marked it."""

    start_s: float
    #: After `start_s`.
    end_s: float
    #: Of the recording, from 1; 0 where nobody says.
    channel: int = 0
    #: As named by whoever marked it; ``""`` where nobody says.
    speaker: str = ""
    #: The words, in one line; ``""`` where nobody says.
    text: str = ""
    #: What it was read from: ``rttm``, ``textgrid``, ``eaf``, ``srt``, ``vtt``, ``json``, ``csv``, ``tsv``.
    source: str = ""


@_quick_to_pickle
@dataclass(frozen=True, slots=True)
class SegmentSource:
    """Where the segments of a file come from."""

    #: Differs whenever they may differ; never 0.
    key: int
    #: Files beside the recording, in the order in which they count.
    paths: tuple[str, ...] = ()
    #: Those of a table.
    segments: tuple[Segment, ...] = ()
    #: What is to be said of them in the row of the file.
    note: str = ""


@_quick_to_pickle
@dataclass(frozen=True, slots=True)
class ClipRef:
    """One audio file as found on disk, or one object in a bucket."""

    #: POSIX path relative to the input root, with suffix; bytes that are not UTF-8 appear as ``\\xNN``.
    clip_id: str
    #: Path to open; may hold surrogate escapes where the name is not UTF-8. Of an object its address; whoever reads it
    #: is given the path of a copy.
    path: str
    size_bytes: int
    mtime_ns: int
    #: None where nothing is known of segments.
    segments: SegmentSource | None = None
    #: The channel to be read, from 1, alone; 0 for all of them, mixed.
    channel: int = 0
    #: Of an object in a bucket: its version, as the store names it; ``""`` for a file, or where the store does not say.
    etag: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Decoded mono audio: a whole file, or one piece of a long recording. Lives in a worker only."""

    #: float32 (n_samples,), mono, finite, nominally in [-1, 1].
    samples: NDArray[np.float32]
    sample_rate_hz: int
    source_rate_hz: int
    source_channels: int
    #: Where this piece begins in the recording; 0 for a whole file.
    start_s: float = 0.0
    #: What the reader mended, for the row of the file; ``""`` for nothing.
    note: str = ""
    #: What decoded it, with its version, for the row of the file; ``""`` where the reader does not say.
    reader: str = ""
    #: The channel that was read alone, as `ClipRef.channel` asks; 0 for all of them, mixed.
    channel: int = 0
    #: float32 (n_samples,): the samples before the high-pass that precedes all analyses; None where there was none.
    as_read: NDArray[np.float32] | None = None
    _analyses: dict[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.samples.flags.writeable = False

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz

    def shared(self, key: str, compute: Callable[[], T]) -> T:
        """Return the analysis named `key`, computed on first use and then shared by all extractors."""
        if key not in self._analyses:
            self._analyses[key] = compute()
        return self._analyses[key]  # type: ignore[return-value]

    def window(self, start_s: float, end_s: float) -> NDArray[np.float32]:
        """Samples between two times of the recording; shorter than asked where the audio ends."""
        first = round((start_s - self.start_s) * self.sample_rate_hz)
        last = round((end_s - self.start_s) * self.sample_rate_hz)
        return self.samples[max(first, 0) : max(last, 0)]


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """What an extractor promises: its name, version, columns and tensor shape."""

    extractor: str
    #: Raised whenever any number that the extractor gives changes.
    version: int
    #: (name, unit) pairs; the unit is a suffix such as ``hz``, ``db``, ``st``, or ``""`` for ratios.
    scalars: tuple[tuple[str, str], ...] = ()
    #: Shape of the tensor per window, for example (128, 130), or None.
    tensor_shape: tuple[int, ...] | None = None
    #: Names of scalars that add up over a recording, like a total time; all others are averaged over its pieces.
    totals: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names in the results: ``<extractor>__<name>[_<unit>]``."""
        return tuple(f"{self.extractor}__{name}" + (f"_{unit}" if unit else "") for name, unit in self.scalars)


@_quick_to_pickle
@dataclass(frozen=True, slots=True, eq=False)
class FeatureBlock:
    """What one extractor found in one clip."""

    extractor: str
    #: float32 (n_windows, n_scalars); NaN = undefined, never 0.
    scalars: NDArray[np.float32]
    #: float32 (n_scalars,): the same quantities over the whole clip.
    clip_scalars: NDArray[np.float32]
    #: float32 (n_windows, *tensor_shape), or None.
    tensor: NDArray[np.float32] | None = None


@runtime_checkable
class Extractor(Protocol):
    """Turns a clip into numbers. Stateless, deterministic, and without threads or processes of its own."""

    @property
    def spec(self) -> FeatureSpec: ...

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Analyse `clip`; `windows_s` is (n_windows, 2), start and end in s of the recording."""
        ...


@_quick_to_pickle
@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the classifier says of one file. Label order is that of the model."""

    #: The emotion with the highest probability of the file.
    emotion: str
    #: float32 (n_labels,), sums to 1.
    probabilities: NDArray[np.float32]
    #: float32 (n_windows, n_labels), each row sums to 1.
    window_probabilities: NDArray[np.float32]
    #: Highest probability, calibrated, in [0, 1].
    confidence: float
    #: Shannon entropy over log(n_labels), in [0, 1].
    entropy: float
    #: Highest minus second highest probability, in [0, 1].
    margin: float


@_quick_to_pickle
@dataclass(frozen=True, slots=True, eq=False)
class SegmentOutcome:
    """What was found in one segment, analysed as if it were a recording of its own."""

    #: Ends where the recording ends, at the latest.
    segment: Segment
    #: How much audio around it was analysed with it, because it is short, in s; 0 for none.
    context_s: float
    #: Without tensors; what counts is `clip_scalars`.
    blocks: tuple[FeatureBlock, ...]
    prediction: Prediction | None
    #: Mean square of its samples; NaN where that was not asked.
    power: float = float("nan")
    #: What the network heard in each window of it, and how each counts; as in `ClipOutcome`.
    embeddings: NDArray[np.float16] = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))


@_quick_to_pickle
@dataclass(frozen=True, slots=True, eq=False)
class ClipOutcome:
    """What became of one file: its features, or the reason why not. Failures are values, never exceptions."""

    ref: ClipRef
    status: Status
    #: decode, extract or predict where it ended, ``""`` for ok.
    stage: str = ""
    error_type: str = ""
    error_message: str = ""
    duration_s: float = float("nan")
    source_rate_hz: int = 0
    source_channels: int = 0
    #: What decoded it, with its version; without one, what would have.
    reader: str = ""
    #: float64 (n_windows, 2), start and end in s; the end of the last window may lie beyond the audio.
    windows_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    blocks: tuple[FeatureBlock, ...] = ()
    #: Set by whoever runs the classifier: the worker on a CPU, the parent on MPS or CUDA.
    prediction: Prediction | None = None
    #: float16 (n_windows, n_embedding): what the network heard in each window; no columns where it does not tell.
    embeddings: NDArray[np.float16] = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    #: int16 (n_windows,): the channel of each window, from 1; empty where the channels were mixed.
    channels: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    #: float32 (n_windows,): how the windows were weighed when they were pooled; empty without a prediction.
    weights: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    #: In the order of time.
    segments: tuple[SegmentOutcome, ...] = ()
    #: Processing time per stage.
    seconds: Mapping[str, float] = field(default_factory=dict)


class Classifier(Protocol):
    """A loaded model.

    One that tells what it hears has the members of `Listener`, too.
    """

    #: Name, for provenance and messages.
    name: str
    #: SHA-256 of the weights file.
    sha256: str
    #: Emotions, in the order of the probabilities.
    labels: tuple[str, ...]
    #: Extractors that must run, as (name, version).
    needs: tuple[tuple[str, int], ...]
    #: The device that computes: cpu, cuda or mps.
    device: str

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return calibrated window probabilities (n_windows, n_labels) and pooling weights (n_windows,).

        `blocks` maps an extractor's name to its block; windows of several clips may be stacked.
        """
        ...

    def pool(self, window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]) -> Prediction:
        """Turn the windows of one clip into the prediction for its file, by the rule stated in the model card."""
        ...


class Listener(Classifier, Protocol):
    """A model whose work has two steps: audio to embeddings once, embeddings to labels as often as one likes.

    `predict` is `listen`, then `label`.
    """

    #: Numbers in the embedding of a window.
    n_embedding: int
    #: SHA-256 of all that decides an embedding: models that have it in common can label each other's embeddings.
    listening_sha256: str

    def listen(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings (n_windows, n_embedding) and pooling weights (n_windows,); `blocks` as in `predict`."""
        ...

    def label(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return calibrated probabilities (n, n_labels) of embeddings (n, n_embedding), in any float type."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """One audio file with what is known of it."""

    path: str
    #: Canonical emotion (`ser_batch.corpora.emotions.EMOTIONS`), or what the corpus says where it is none of them.
    emotion: str
    #: Unique over corpora (``ravdess-01``), or ``""`` where nobody knows.
    speaker: str
    #: male, female or ``""``.
    sex: str
    corpus: str
    #: The corpus's own code of the category: finer than `emotion`.
    category: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """One file that the reader of a corpus knows and does not take."""

    path: str
    #: What all files passed over for this reason are, in the plural: "songs".
    reason: str


@dataclass(frozen=True, slots=True)
class Remark:
    """One line that the reader of a corpus has to say."""

    text: str


CorpusItem = LabelledClip | PassedOver | Remark


@dataclass(frozen=True, slots=True)
class Corpus:
    """How the files of one corpus are read.

    Attributes
    ----------
    name : str
        Short name for options and tables.
    title, licence, url, language : str
        For model cards.
    read : callable
        Takes the folder and yields `LabelledClip`, `PassedOver` for what it knows and does not take, and `Remark`; what
        it never mentions counts as named otherwise. Raises `DataError` for labels that cannot be used.
    looks_like : callable
        Takes the folder and paths, relative to it, of up to a thousand files in it; True when they are of this corpus.
        It is asked for single files, too.
    folds : tuple of tuple of str
        Speakers held out together by ``--cross-validate given``; empty where none are published.
    """

    name: str
    title: str
    licence: str
    url: str
    language: str
    read: Callable[[Path], Iterable[CorpusItem]]
    looks_like: Callable[[Path, Sequence[str]], bool]
    folds: tuple[tuple[str, ...], ...] = ()
