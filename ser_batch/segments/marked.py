"""Segments as somebody has marked them, sorted and checked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import pairwise
from typing import NamedTuple

from ser_batch.errors import DataError
from ser_batch.records import Segment
from ser_batch.text import shown

__all__ = ["MOST_CHANNELS", "Marked", "Noted", "Tiers", "checked", "state_key", "voices"]

#: Name of a tier, on which one speaks at a time, or "" -> a segment on it.
Tiers = Iterable[tuple[str, Segment]]

#: The tables of a run hold no higher number of a channel.
MOST_CHANNELS = 2**15 - 1
#: Two stretches of one speaker that overlap by less do so by rounding.
_ROUNDING_S = 0.2


class Noted(NamedTuple):
    """Segments that were not marked as such, and what was made of what was marked."""

    tiers: Tiers
    note: str


@dataclass(frozen=True, slots=True)
class Marked:
    """What a file says."""

    #: By start, then end.
    segments: tuple[Segment, ...] = ()
    #: What was left out, or joined; ``""`` for nothing.
    note: str = ""


def checked(found: Tiers, note: str = "") -> Marked:
    """Sort segments, and see that they are possible; `note` is what is to be said of them anyway.

    Raises
    ------
    DataError
        A time is no time, or two stretches of one tier overlap.
    """
    tiers: dict[tuple[str, int], list[Segment]] = defaultdict(list)
    n_empty = 0
    for tier, item in found:
        if not (math.isfinite(item.start_s) and math.isfinite(item.end_s)) or item.start_s < -_ROUNDING_S:
            raise DataError(f"a segment from {item.start_s} to {item.end_s} s is none")
        if item.end_s < item.start_s:
            raise DataError(f"a segment ends at {item.end_s:.3f} s, before it begins at {item.start_s:.3f} s")
        if item.end_s <= max(item.start_s, 0.0):
            n_empty += 1
            continue
        if not 0 <= item.channel <= MOST_CHANNELS:
            raise DataError(f"channel {item.channel} of a segment is none; channels count from 1")
        clean = replace(item, start_s=max(item.start_s, 0.0), text=" ".join(item.text.split()))
        tiers[tier or item.speaker, item.channel].append(clean)
    for (tier, _), items in tiers.items():
        items.sort(key=lambda item: (item.start_s, item.end_s))
        for before, after in pairwise(items):
            if before.end_s - after.start_s >= _ROUNDING_S:
                whose = f" of {shown(tier)}" if tier else ""
                raise DataError(
                    f"segments{whose} overlap: one goes on until {before.end_s:.3f} s, and another begins at "
                    f"{after.start_s:.3f} s"
                )
    segments = sorted(
        (item for items in tiers.values() for item in items),
        key=lambda item: (item.start_s, item.end_s, item.channel, item.speaker),
    )
    notes = [note, f"{n_empty} segments without length were left out" if n_empty else ""]
    return Marked(tuple(segments), "; ".join(filter(None, notes)))


def state_key(*state: object) -> int:
    """Return a number that stands for a state in a table of integers, and is never 0."""
    return (
        int.from_bytes(blake2b(repr(state).encode("utf-8", "surrogateescape"), digest_size=8).digest(), signed=True)
        or 1
    )


def voices(said: Sequence[tuple[str | None, int | None]]) -> list[str]:
    """Name who says each segment of a recording, given speaker and channel of each.

    Where nobody says who speaks and there are several channels, a channel stands for who is on it: ``channel 2``.
    """
    is_split = len({channel for _, channel in said if channel}) > 1
    return [speaker or (f"channel {channel}" if is_split and channel else "") for speaker, channel in said]
