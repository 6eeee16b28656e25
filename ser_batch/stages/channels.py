"""Each channel of a recording analysed by itself, and what they come to as one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ser_batch.errors import PluginError
from ser_batch.records import Classifier, ClipOutcome, FeatureBlock, FeatureSpec, Segment, SegmentOutcome, Status
from ser_batch.text import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ser_batch.records import Clip

__all__ = ["WHOLE_CHANNEL", "by_channel", "check_channel", "of_channel"]

#: Where a segment comes from that is a whole channel.
WHOLE_CHANNEL = "channel"


def check_channel(pieces: Iterable[Clip], channel: int) -> Iterator[Clip]:
    """Yield the pieces of one channel, as long as that is what was read.

    Raises
    ------
    PluginError
        The reader has mixed the channels.
    """
    for clip in pieces:
        if clip.channel != channel and clip.source_channels > 1:
            raise PluginError(
                "the reader of this file gives no single channels: `ser-batch scan --channels mix` reads it."
            )
        yield clip


def of_channel(segments: Sequence[Segment], channel: int) -> list[Segment]:
    """Return the segments that may be of a channel: those that name it, or none; RTTM names 1 where nobody knows."""
    named = {segment.channel for segment in segments}
    if named == {1}:
        return [replace(segment, channel=0) for segment in segments]
    return [segment for segment in segments if segment.channel in (0, channel)]


def by_channel(
    analyse: Callable[[int], ClipOutcome],
    classifier: Classifier | None,
    specs: Sequence[FeatureSpec],
    with_segments: bool,
) -> ClipOutcome:
    """Analyse every channel, and join what was found.

    Parameters
    ----------
    analyse : callable
        Gives the outcome of a channel, by its number from 1.
    classifier : Classifier or None
        Pools the windows of all channels for the row of the file.
    specs : sequence of FeatureSpec
    with_segments : bool
        Make each channel in which somebody is heard a segment, too.

    Returns
    -------
    outcome : ClipOutcome
        Windows are those of channel 1, then 2, and so on. Features are means over the channels, or sums where the
        extractor says so.
    """
    first = analyse(1)
    outcomes = [first, *(analyse(channel) for channel in range(2, first.source_channels + 1))]
    failed = next((outcome for outcome in outcomes if outcome.status is Status.FAILED), None)
    if failed is not None:
        return failed
    heard = [(number, outcome) for number, outcome in enumerate(outcomes, 1) if len(outcome.windows_s)]
    segments = _segments(outcomes, with_segments)
    if not heard:
        return replace(first, segments=segments)
    partial = next((outcome for outcome in outcomes if outcome.status is Status.PARTIAL), None)
    told = dict.fromkeys(outcome.error_message for outcome in outcomes if outcome.error_message)
    silent = [number for number, outcome in enumerate(outcomes, 1) if not len(outcome.windows_s)]
    notes = [*(told if not silent else ()), *(f"nobody is heard in channel {number}" for number in silent)]
    parts = [outcome for _, outcome in heard]
    stages = ("decode", "extract", "predict")
    seconds = {stage: sum(outcome.seconds.get(stage, 0.0) for outcome in outcomes) for stage in stages}
    found = partial or parts[0]
    joined = replace(
        found,
        error_message=partial.error_message if partial else shortened("; ".join(notes)),
        windows_s=np.concatenate([outcome.windows_s for outcome in parts]),
        channels=np.concatenate([np.full(len(outcome.windows_s), number, np.int16) for number, outcome in heard]),
        blocks=tuple(_joined(spec, place, parts) for place, spec in enumerate(specs)),
        segments=segments,
        seconds=seconds,
    )
    predictions = [outcome.prediction for outcome in parts if outcome.prediction is not None]
    if classifier is None or not predictions:
        return joined
    weights = np.concatenate([outcome.weights for outcome in parts])
    probabilities = np.concatenate([prediction.window_probabilities for prediction in predictions])
    return replace(
        joined,
        prediction=classifier.pool(probabilities, weights),
        weights=weights,
        embeddings=np.concatenate([outcome.embeddings for outcome in parts]),
    )


def _joined(spec: FeatureSpec, place: int, parts: Sequence[ClipOutcome]) -> FeatureBlock:
    blocks = [outcome.blocks[place] for outcome in parts]
    values = np.stack([block.clip_scalars for block in blocks]).astype(np.float64)
    n_defined = (~np.isnan(values)).sum(axis=0)
    sums = np.where(n_defined > 0, np.nansum(values, axis=0), np.nan)
    is_total = np.array([name in spec.totals for name, _ in spec.scalars], bool)
    means = np.where(is_total, sums, sums / np.maximum(n_defined, 1)).astype(np.float32)
    return FeatureBlock(spec.extractor, np.concatenate([block.scalars for block in blocks]), means)


def _segments(outcomes: Sequence[ClipOutcome], with_segments: bool) -> tuple[SegmentOutcome, ...]:
    """Return the segments of all channels: one that names no channel is of the channel that is loudest in it."""
    found: list[SegmentOutcome] = []
    unnamed: dict[Segment, list[tuple[float, int, SegmentOutcome]]] = {}
    for number, outcome in enumerate(outcomes, 1):
        if with_segments and len(outcome.windows_s):
            whole = Segment(0.0, outcome.duration_s, number, source=WHOLE_CHANNEL)
            heard = outcome.embeddings, outcome.weights
            found.append(SegmentOutcome(whole, 0.0, outcome.blocks, outcome.prediction, float("nan"), *heard))
        for item in outcome.segments:
            if item.segment.channel:
                found.append(item)
            else:
                unnamed.setdefault(item.segment, []).append((item.power, -number, item))
    for candidates in unnamed.values():
        _, number, item = max(candidates, key=lambda candidate: candidate[:2])
        found.append(replace(item, segment=replace(item.segment, channel=-number)))
    return tuple(sorted(found, key=lambda item: (item.segment.start_s, item.segment.end_s, item.segment.channel)))
