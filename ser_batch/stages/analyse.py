"""From one file to its outcome: decode, cut into windows, extract, predict. Whatever goes wrong becomes a value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.audio.errors import SkippedError
from ser_batch.contracts import CheckedExtractor
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import DataError, ModelError, PluginError
from ser_batch.records import (
    Classifier,
    Clip,
    ClipOutcome,
    ClipRef,
    FeatureBlock,
    FeatureSpec,
    Segment,
    SegmentSource,
    Status,
)
from ser_batch.segments.files import read_segments
from ser_batch.segments.marked import Marked
from ser_batch.stages.channels import by_channel, check_channel, of_channel
from ser_batch.stages.predict import Heard, hear
from ser_batch.stages.segments import SegmentWork
from ser_batch.text import did_you_mean, message_of, shortened, shown
from ser_batch.windows import VoiceGrid, piece_windows, whole_pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pluggy

    from ser_batch.config import Config
    from ser_batch.dsp.highpass import HighPass

__all__ = ["ANALYSIS_VERSION", "NO_VOICE_TYPE", "Change", "Observer", "analyse_clip", "select_extractors"]


#: Raised whenever what extractors are shown of a recording changes.
ANALYSIS_VERSION = 3

#: Why a file that was read has no label.
_NO_VOICE = "no voice"
#: Its `error_type`.
NO_VOICE_TYPE = "NoVoice"


class Observer(Protocol):
    """Told what is about to be done to the file in hand, so that a watchdog knows whom to blame."""

    def __call__(self, stage: str, audio_s: float) -> None: ...


class Change(Protocol):
    """Gives, for a file, what is done to each of its decoded pieces in turn, before anything is computed.

    It travels to the workers: picklable and hashable.
    """

    def __call__(self, ref: ClipRef) -> Callable[[Clip], Clip]: ...


def _unobserved(stage: str, audio_s: float) -> None:
    pass


def select_extractors(
    offered: Mapping[str, tuple[str, CheckedExtractor]],
    wanted: Iterable[str],
    classifier: CheckedClassifier | None = None,
) -> dict[str, tuple[str, CheckedExtractor]]:
    """Pick extractors by name, those that a model needs included.

    Parameters
    ----------
    offered : mapping
        As `ser_batch.hooks.register_extractors` returns it: name -> (plugin, extractor).
    wanted : iterable of str
    classifier : CheckedClassifier, optional
        The model that they are for.

    Returns
    -------
    selected : dict
        As `offered`, sorted by name.

    Raises
    ------
    PluginError
        A name that nobody offers.
    ModelError
        The model was trained with another version of an extractor, or with other columns.
    """
    needs = classifier.needs if classifier else ()
    names = {*wanted, *(name for name, _ in needs)}
    for name in sorted(names):
        if name not in offered:
            raise PluginError(
                f"No plugin offers an extractor {name!r}.{did_you_mean(name, offered)} "
                f"On offer: {', '.join(sorted(offered)) or 'none'}. Install its plugin, or `scan --plugin FILE`."
            )
    for name, version in needs:
        plugin, extractor = offered[name]
        if extractor.spec.version != version:
            raise ModelError(
                f"The model was trained with version {version} of extractor {name!r}; plugin {plugin!r} offers version "
                f"{extractor.spec.version}. Use the model that belongs to this version, or train one."
            )
    for name, trained in classifier.columns.items() if classifier else ():
        if name in names:
            plugin, extractor = offered[name]
            given = extractor.spec.columns[: len(trained)]
            if given != trained:
                raise ModelError(
                    f"The model was trained with other columns of extractor {name!r} than plugin {plugin!r} offers: "
                    f"{shown(trained)} are {shown(given)}. Use the model that belongs to them, or train one."
                )
    return {name: offered[name] for name in sorted(names)}


def analyse_clip(
    ref: ClipRef,
    config: Config,
    extractors: Mapping[str, tuple[str, CheckedExtractor]],
    classifier: Classifier | None,
    manager: pluggy.PluginManager,
    observe: Observer = _unobserved,
    keep_tensors: bool | Callable[[], Classifier] = False,
    change: Change | None = None,
) -> ClipOutcome:
    """Analyse one file; never raises, but for KeyboardInterrupt.

    Parameters
    ----------
    ref : ClipRef
    config : Config
    extractors : mapping
        Name -> (plugin, extractor), as `select_extractors` returns it.
    classifier : Classifier or None
        Predicts here.
    manager : pluggy.PluginManager
        Its hook ``read_clip`` decodes.
    observe : Observer
        Called before each stage of each piece.
    keep_tensors : bool or callable
        Whether blocks keep their tensors. A callable, for a parent that predicts, keeps those of recordings of one
        piece; longer ones are predicted here by the classifier that it gives: the tensors of hours of audio would fill
        the memory.
    change : Change, optional
        Done to what is decoded.

    Returns
    -------
    outcome : ClipOutcome
        With its prediction, unless there is no classifier or the file gave no window.
    """
    if config.extract.channels == "split" and not ref.channel:
        return _split(ref, config, extractors, classifier, manager, observe, keep_tensors, change)
    work = _Work(ref, config, extractors, classifier, observe, keep_tensors)
    try:
        return work.run(manager, change)
    except KeyboardInterrupt:
        raise
    except SkippedError as error:
        return work.skipped(type(error).__name__, str(error))
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        return work.failed(error)


def _split(
    ref: ClipRef,
    config: Config,
    extractors: Mapping[str, tuple[str, CheckedExtractor]],
    classifier: Classifier | None,
    manager: pluggy.PluginManager,
    observe: Observer,
    keep_tensors: bool | Callable[[], Classifier],
    change: Change | None,
) -> ClipOutcome:
    """Analyse each channel of a file by itself; arguments as for `analyse_clip`. It predicts, whoever else does."""
    model = keep_tensors() if classifier is None and callable(keep_tensors) else classifier
    keep = keep_tensors is True
    done_s = 0.0

    def of_channel(channel: int) -> ClipOutcome:
        nonlocal done_s

        def after(stage: str, audio_s: float, before_s: float = done_s) -> None:
            observe(stage, before_s + audio_s)

        outcome = analyse_clip(replace(ref, channel=channel), config, extractors, model, manager, after, keep, change)
        done_s += np.nan_to_num(outcome.duration_s)
        return outcome

    specs = [extractor.spec for _, extractor in extractors.values()]
    return replace(by_channel(of_channel, model, specs, config.segments.source != "none"), ref=ref)


@dataclass(eq=False)
class _Work:
    """One file in hand: what has been found so far, piece by piece."""

    ref: ClipRef
    config: Config
    extractors: Mapping[str, tuple[str, CheckedExtractor]]
    classifier: Classifier | None
    observe: Observer
    keep_tensors: bool | Callable[[], Classifier]
    stage: str = "decode"
    duration_s: float = float("nan")
    source: tuple[int, int] = (0, 0)
    note: str = ""
    high_pass: HighPass | None = None
    reader: str = ""
    windows: list[NDArray[np.float64]] = field(default_factory=list)
    #: Whether the windows of a piece lie on voice; they are those of the clock where it has none.
    is_voice: list[bool] = field(default_factory=list)
    blocks: list[dict[str, FeatureBlock]] = field(default_factory=list)
    #: Start and end in s of the audio that each of `blocks` was made from; pieces overlap.
    spans_s: list[tuple[float, float]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    segments: SegmentWork | None = None
    #: Looks for segments, where nobody has marked any and they are asked for.
    finder: pluggy.PluginManager | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "extract": 0.0, "predict": 0.0})

    def run(self, manager: pluggy.PluginManager, change: Change | None) -> ClipOutcome:
        audio = self.config.audio
        piece_s, overlap_s = whole_pieces(audio.piece_s, audio.window_s, audio.window_hop_s)
        self._look_for_segments(manager)
        with self._in("decode"):
            pieces = hooks.read_clip(manager, self.ref, audio.sample_rate_hz, piece_s, overlap_s)
            if self.ref.channel:
                pieces = check_channel(pieces, self.ref.channel)
            if change is not None:
                pieces = map(change(self.ref), pieces)
        # One piece is read ahead: the windows of the last one need not leave anything to another.
        read, error = self._next(pieces)
        while read is not None:
            clip, (read, error) = read, self._next(pieces)
            found = self.take(clip, is_last=read is None)
            if self.segments is not None and self.finder is not None:
                self.segments.push_found(clip, found, is_last=read is None)
            elif self.segments is not None:
                self.segments.push(clip)
            del clip
        return self.finished(error)

    def _next(self, pieces: Iterator[Clip]) -> tuple[Clip | None, Exception | None]:
        """Return the next piece, or None and what broke, if anything did."""
        try:
            with self._in("decode"):
                return next(pieces, None), None
        except Exception as error:
            self.reader = getattr(error, "reader", "") or self.reader
            return None, error

    def _look_for_segments(self, manager: pluggy.PluginManager) -> None:
        if self.ref.segments is not None:
            self.segments = SegmentWork(self.config.audio, self._of_segment)
            self._announce(self.ref.segments, self.segments, self.ref.channel)
        elif self.config.segments.source == "voice":
            self.segments, self.finder = SegmentWork(self.config.audio, self._of_segment), manager

    @staticmethod
    def _announce(source: SegmentSource, work: SegmentWork, channel: int) -> None:
        """Tell which segments there are; a file of them that cannot be used costs them, and the row says why."""
        try:
            marked = read_segments(source.paths) if source.paths else Marked(source.segments, source.note)
        except DataError as error:
            marked = Marked(note=f"no segments: {error}")
        work.notes += [marked.note] if marked.note else []
        work.announce(marked.segments if not channel else of_channel(marked.segments, channel))

    def _of_segment(self) -> _Work:
        """Return what analyses one segment of this file; where the parent predicts, segments are predicted here."""
        classifier = self.keep_tensors() if self.classifier is None and callable(self.keep_tensors) else self.classifier

        def observe(stage: str, audio_s: float) -> None:
            self.observe(stage, 0.0 if np.isnan(self.duration_s) else self.duration_s)

        ref = replace(self.ref, segments=None, channel=0)
        return _Work(ref, self.config, self.extractors, classifier, observe, False, seconds=self.seconds)

    def take(self, clip: Clip, is_last: bool) -> Sequence[Segment]:
        """Analyse the next piece; return the segments that were found in it, if any are looked for."""
        audio = self.config.audio
        piece_s, _ = whole_pieces(audio.piece_s, audio.window_s, audio.window_hop_s)
        self.source = (clip.source_rate_hz, clip.source_channels)
        self.note = clip.note or self.note
        self.reader = clip.reader
        end_s = clip.start_s + clip.duration_s
        with self._in("extract"):
            clip = self._high_passed(clip, round(piece_s * clip.sample_rate_hz))
            windows_s = self.grid.lay(_voice_spans(clip), clip.start_s, end_s, is_last)
            is_voice = len(windows_s) > 0
            if not is_voice:
                where = clip.start_s, end_s, piece_s, audio.window_s, audio.window_hop_s
                windows_s = piece_windows(*where, is_last)
            if not len(windows_s):
                return ()
            found = hooks.find_segments(self.finder, clip) if self.finder is not None else ()
            blocks = {name: extractor.extract(clip, windows_s) for name, (_, extractor) in self.extractors.items()}
        if self.blocks and self.classifier is None and callable(self.keep_tensors):
            # A second piece: from here on this is a long recording, predicted where it is read.
            self.classifier = self.keep_tensors()
            self._predict(self.blocks[0], self.is_voice[0])
            self.blocks[0] = _without_tensors(self.blocks[0])
        if self.classifier is not None:
            self._predict(blocks, is_voice)
        if self.keep_tensors is not True and (self.classifier is not None or not self.keep_tensors):
            blocks = _without_tensors(blocks)
        self.blocks.append(blocks)
        self.windows.append(windows_s)
        self.is_voice.append(is_voice)
        self.spans_s.append((clip.start_s, end_s))
        self.duration_s = end_s
        return found

    @cached_property
    def grid(self) -> VoiceGrid:
        return VoiceGrid(self.config.audio.window_s, self.config.audio.window_hop_s)

    def _high_passed(self, clip: Clip, n_piece: int) -> Clip:
        """Return a piece without what lies below every voice, as if the whole recording had been filtered at once."""
        from ser_batch.dsp.highpass import HighPass  # noqa: PLC0415 - numba is loaded when first needed
        from ser_batch.extractors.analyses import finite  # noqa: PLC0415

        self.high_pass = self.high_pass or HighPass(clip.sample_rate_hz)
        samples = self.high_pass(finite(clip.samples), min(n_piece, len(clip.samples)))
        # A view of bytes: no extractor can make it writable.
        shown = np.asarray(samples.data.toreadonly())
        return replace(clip, samples=shown, as_read=clip.samples, _analyses={})

    def _predict(self, blocks: Mapping[str, FeatureBlock], is_voice: bool) -> None:
        assert self.classifier is not None
        if not is_voice:
            return
        with self._in("predict"):
            self.heard.append(hear(self.classifier, blocks))

    @contextmanager
    def _in(self, stage: str) -> Iterator[None]:
        """Name the stage for whoever asks what broke, and take its time."""
        self.stage = stage
        self.observe(stage, 0.0 if np.isnan(self.duration_s) else self.duration_s)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begin

    def failed(self, error: BaseException) -> ClipOutcome:
        return self._outcome(Status.FAILED, self.stage, type(error).__name__, message_of(error, self.note))

    def skipped(self, kind: str, message: str, stage: str = "decode") -> ClipOutcome:
        return self._outcome(Status.SKIPPED, stage, kind, message)

    def _outcome(self, status: Status, stage: str, error_type: str, message: str) -> ClipOutcome:
        return ClipOutcome(
            ref=self.ref,
            status=status,
            stage=stage,
            error_type=error_type,
            error_message=message,
            duration_s=self.duration_s,
            source_rate_hz=self.source[0],
            source_channels=self.source[1],
            reader=self.reader,
            seconds=self.seconds,
        )

    def finished(self, error: Exception | None = None) -> ClipOutcome:
        """Return what became of all pieces; `error` is what broke before the end, if anything did."""
        if not self.blocks:
            if error is not None:
                raise error
            return self.skipped("Empty", "the file holds no audio samples")
        if self.segments is None:
            return self._finished(error)
        segments = self.segments.finish()
        self.note = shortened("; ".join(filter(None, [self.note, *self.segments.notes])))
        return replace(self._finished(error), segments=segments)

    def _finished(self, error: Exception | None) -> ClipOutcome:
        if any(self.is_voice):
            # Elsewhere nobody is heard: no window, and no say in the label.
            for piece in np.flatnonzero(~np.array(self.is_voice)):
                self.windows[piece] = self.windows[piece][:0]
                self.blocks[piece] = {name: _without_windows(block) for name, block in self.blocks[piece].items()}
        elif self.classifier is not None or self.keep_tensors:
            return self._without_voice(error)
        predicted: dict[str, Any] = {}
        if self.classifier is not None:
            with self._in("predict"):
                probabilities, weights, embeddings = (np.concatenate(parts) for parts in zip(*self.heard, strict=True))
                prediction = self.classifier.pool(probabilities, weights)
                predicted = {"prediction": prediction, "embeddings": embeddings, "weights": weights}
        if error is None:
            outcome = self._outcome(Status.OK, "", "", self.note)
        else:
            outcome = self._outcome(Status.PARTIAL, "decode", type(error).__name__, message_of(error, self.note))
        blocks = (
            _joined(extractor.spec, [piece[name] for piece in self.blocks], self.spans_s)
            for name, (_, extractor) in self.extractors.items()
        )
        windows_s = np.concatenate(self.windows).clip(0.0, self.duration_s)
        return replace(outcome, windows_s=windows_s, blocks=tuple(blocks), **predicted)

    def _without_voice(self, error: Exception | None) -> ClipOutcome:
        """Say that there is nothing to label; a file that is broken, too, says so."""
        message = _NO_VOICE if error is None else f"{_NO_VOICE}; {message_of(error)}"
        return self.skipped(NO_VOICE_TYPE, f"{message}; {self.note}" if self.note else message, "predict")


def _voice_spans(clip: Clip) -> NDArray[np.float64]:
    from ser_batch.extractors.voicing import voice_spans  # noqa: PLC0415 - numba is loaded when first needed

    return voice_spans(clip)


def _joined(spec: FeatureSpec, pieces: Sequence[FeatureBlock], spans_s: Sequence[tuple[float, float]]) -> FeatureBlock:
    """Join the pieces of a recording: windows in a row, features of the whole as means weighted by audio, or as sums.

    A piece in which a quantity is undefined has no say in it.
    """
    if len(pieces) == 1:
        return pieces[0]
    values = np.stack([piece.clip_scalars for piece in pieces]).astype(np.float64)
    starts_s, ends_s = np.array(spans_s).T
    own_s = np.diff(starts_s, append=ends_s[-1])
    weights = np.where(np.isnan(values), 0.0, own_s[:, None])
    is_total = np.array([name in spec.totals for name, _ in spec.scalars], bool)
    total = np.where(is_total, 1.0, weights.sum(axis=0))
    weights = np.where(is_total, weights / (ends_s - starts_s)[:, None], weights)
    with np.errstate(invalid="ignore"):
        joined = (np.nan_to_num(values) * weights).sum(axis=0) / total
    scalars = np.concatenate([piece.scalars for piece in pieces])
    tensors = [piece.tensor for piece in pieces if piece.tensor is not None]
    tensor = np.concatenate(tensors) if tensors else None
    return FeatureBlock(pieces[0].extractor, scalars, joined.astype(np.float32), tensor)


def _without_windows(block: FeatureBlock) -> FeatureBlock:
    tensor = None if block.tensor is None else block.tensor[:0]
    return FeatureBlock(block.extractor, block.scalars[:0], block.clip_scalars, tensor)


def _without_tensors(blocks: Mapping[str, FeatureBlock]) -> dict[str, FeatureBlock]:
    return {
        name: block if block.tensor is None else FeatureBlock(block.extractor, block.scalars, block.clip_scalars)
        for name, block in blocks.items()
    }
