"""What is in each segment of a recording: every one is analysed as if it were a recording of its own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ser_batch.records import Clip, ClipOutcome, Segment, SegmentOutcome
from ser_batch.text import message_of
from ser_batch.windows import whole_pieces

if TYPE_CHECKING:
    from ser_batch.audio.pieces import Cutter
    from ser_batch.config import AudioConfig

__all__ = ["SHORT_S", "Analysis", "SegmentWork"]

#: A segment shorter than this is analysed with as much audio around it as makes it this long.
SHORT_S = 1.0
#: Segments may reach this far behind the end of a recording without a word: transcripts are that inexact.
_INEXACT_S = 0.5
#: What was found on both sides of a border between pieces is one segment if it is apart by less, and not longer.
_PAUSE_S, _LONGEST_S = 0.3, 60.0


class Analysis(Protocol):
    """Analyses one recording, piece by piece."""

    def take(self, clip: Clip, is_last: bool) -> object: ...

    def finished(self) -> ClipOutcome: ...


@dataclass(eq=False)
class SegmentWork:
    """Analyses the segments of one recording while its pieces come by; holds no more audio than a piece of each.

    Attributes
    ----------
    audio : AudioConfig
    begin : callable
        Begins the analysis of one segment.
    """

    audio: AudioConfig
    begin: Callable[[], Analysis]
    #: What is to be said of them in the row of the file.
    notes: list[str] = field(default_factory=list)
    #: Samples of the recording that were seen.
    n_seen: int = 0
    #: Those whose audio is yet to come, by where it begins; those in the middle of it; what was found.
    _waiting: deque[_Utterance] = field(default_factory=deque)
    _open: list[_Utterance] = field(default_factory=list)
    _done: list[SegmentOutcome] = field(default_factory=list)
    #: What was found at the end of the last piece, and may go on in the next one; up to where it had the say.
    _held: list[Segment] = field(default_factory=list)
    _border_s: float = 0.0
    #: (number of its first sample, samples): what segments that are yet to be found may begin in.
    _tape: deque[tuple[int, NDArray[np.float32]]] = field(default_factory=deque)
    _n_behind: int = 0
    _has_failed: bool = False

    def announce(self, segments: Iterable[Segment]) -> None:
        """Take segments whose audio is yet to come."""
        self._waiting = deque(sorted((_Utterance(segment, self) for segment in segments), key=lambda item: item.first))

    def push(self, clip: Clip) -> None:
        """Take the next piece; what overlaps with the piece before is known."""
        first = round(clip.start_s * clip.sample_rate_hz)
        begin = max(self.n_seen, first)
        new = clip.samples[begin - first :]
        self.n_seen = begin + len(new)
        while self._waiting and self._waiting[0].first < self.n_seen:
            self._open.append(self._waiting.popleft())
        try:
            for utterance in self._open:
                utterance.take(new, begin)
            self._close([item for item in self._open if item.last <= self.n_seen])
        except Exception as error:  # of an extractor or a model: it costs the segments, not the file
            self._fail(error)

    def push_found(self, clip: Clip, found: Sequence[Segment], is_last: bool) -> None:
        """Take the next piece, and the segments that were found in it.

        Pieces overlap, and each has the say up to the middle of where it does. What goes on there is seen in both, and
        is one segment; so is what one speaker says on both sides of it with hardly a pause.
        """
        n_seen = self.n_seen
        self.push(clip)
        self._tape.append((n_seen, clip.samples[len(clip.samples) - (self.n_seen - n_seen) :]))
        _, overlap_s = whole_pieces(self.audio.piece_s, self.audio.window_s, self.audio.window_hop_s)
        from_s = self._border_s
        self._border_s = math.inf if is_last else self.n_seen / self.audio.sample_rate_hz - overlap_s / 2
        held, taken = self._held, []
        for item in found:
            before = next((other for other in held if _goes_on(other, item)), None)
            if before is not None:
                held.remove(before)
                taken.append(_in_one(before, item))
            elif item.start_s < self._border_s and item.end_s > from_s:
                taken.append(replace(item, start_s=max(item.start_s, from_s)))
        taken += held
        self._held = [item for item in taken if item.end_s > self._border_s - _PAUSE_S]
        self._begin([item for item in taken if item not in self._held])
        keep_s = min((item.start_s for item in self._held), default=self._border_s) - SHORT_S
        while len(self._tape) > 1 and self._tape[1][0] <= keep_s * self.audio.sample_rate_hz:
            self._tape.popleft()

    def _begin(self, segments: Iterable[Segment]) -> None:
        """Take segments that began in what was seen."""
        if self._has_failed:
            return
        try:
            for segment in segments:
                utterance = _Utterance(segment, self)
                for begin, samples in self._tape:
                    utterance.take(samples, begin)
                self._open.append(utterance)
            self._close([item for item in self._open if item.last <= self.n_seen])
        except Exception as error:  # as above
            self._fail(error)

    def finish(self) -> tuple[SegmentOutcome, ...]:
        """Return what was found, in the order of time; the recording is at its end."""
        self._begin(self._held)
        last_s = max((item.segment.end_s for item in self._open), default=0.0)
        self._n_behind += len(self._waiting)
        try:
            self._close(list(self._open))
        except Exception as error:
            self._fail(error)
        if self._has_failed:
            return ()
        if self._n_behind:
            n_segments = self._n_behind + len(self._done)
            self.notes.append(f"{self._n_behind} of {n_segments} segments begin behind the end of the recording")
        elif last_s > self.n_seen / self.audio.sample_rate_hz + _INEXACT_S:
            self.notes.append("a segment goes on behind the end of the recording")
        return tuple(sorted(self._done, key=lambda done: (done.segment.start_s, done.segment.end_s)))

    def _close(self, utterances: Sequence[_Utterance]) -> None:
        for utterance in utterances:
            self._open.remove(utterance)
            outcome = utterance.close()
            if outcome is None:
                self._n_behind += 1
            else:
                self._done.append(outcome)

    def _fail(self, error: Exception) -> None:
        self.notes.append(f"no segments: {message_of(error)}")
        self._has_failed = True
        self._waiting.clear()
        self._open.clear()
        self._done.clear()


def _goes_on(before: Segment, after: Segment) -> bool:
    is_same = (before.channel, before.speaker) == (after.channel, after.speaker)
    is_near = before.start_s - _PAUSE_S < after.start_s < before.end_s + _PAUSE_S
    return is_same and is_near and after.end_s - before.start_s <= _LONGEST_S


def _in_one(before: Segment, after: Segment) -> Segment:
    if after.start_s < before.end_s:  # seen twice, perhaps cut off in one of the pieces
        text = max(before.text, after.text, key=len)
    else:
        text = f"{before.text} {after.text}".strip()
    return replace(before, end_s=max(before.end_s, after.end_s), text=text)


class _Utterance:
    """One segment: the audio of it, cut as a reader would cut a file of it, and what was found."""

    def __init__(self, segment: Segment, work: SegmentWork) -> None:
        self.segment, self._work = segment, work
        beside_s = max(SHORT_S - (segment.end_s - segment.start_s), 0.0) / 2
        rate_hz = work.audio.sample_rate_hz
        #: Where it begins, and where it ends, as samples of the recording.
        self.first = round(max(segment.start_s - beside_s, 0.0) * rate_hz)
        self.last = round((segment.end_s + beside_s) * rate_hz)
        self._n_taken, self._energy = 0, 0.0
        self._cutter: Cutter | None = None
        self._analysis: Analysis | None = None

    def take(self, samples: NDArray[np.float32], begin: int) -> None:
        """Take what of some samples, the first of which is number `begin` of the recording, is in the segment."""
        from ser_batch.audio.sound import Block  # noqa: PLC0415 - loads libsndfile

        mine = samples[max(self.first - begin, 0) : max(self.last - begin, 0)]
        if not len(mine):
            return
        self._n_taken += len(mine)
        self._energy += float(np.einsum("i,i->", mine, mine, dtype=np.float64))
        self._cutter, self._analysis = self._cutter or self._new_cutter(), self._analysis or self._work.begin()
        for piece in self._cutter.push(Block(mine[:, None], self._work.audio.sample_rate_hz)):
            self._analysis.take(piece, is_last=False)

    def _new_cutter(self) -> Cutter:
        from ser_batch.audio.pieces import Cutter  # noqa: PLC0415
        from ser_batch.audio.source import Account  # noqa: PLC0415

        audio = self._work.audio
        piece_s, overlap_s = whole_pieces(audio.piece_s, audio.window_s, audio.window_hop_s)
        n_piece, n_overlap = (round(length_s * audio.sample_rate_hz) for length_s in (piece_s, overlap_s))
        return Cutter(audio.sample_rate_hz, n_piece, n_overlap, Account())

    def close(self) -> SegmentOutcome | None:
        """Return what was found; None where the recording has nothing of it."""
        if self._cutter is None or self._analysis is None:
            return None
        rate_hz, n_seen = self._work.audio.sample_rate_hz, self._work.n_seen
        end_s = self.segment.end_s if self.last <= n_seen else min(self.segment.end_s, n_seen / rate_hz)
        if end_s <= self.segment.start_s:
            return None
        for piece in self._cutter.finish():
            self._analysis.take(piece, is_last=True)
        found = self._analysis.finished()
        is_short = self.segment.end_s - self.segment.start_s < SHORT_S
        context_s = self._n_taken / rate_hz - (end_s - self.segment.start_s) if is_short else 0.0
        context_s = max(round(context_s, 3), 0.0)
        segment, power = replace(self.segment, end_s=end_s), self._energy / max(self._n_taken, 1)
        heard = found.embeddings, found.weights
        return SegmentOutcome(segment, context_s, found.blocks, found.prediction, power, *heard)
