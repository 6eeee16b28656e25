"""Readers of what people and diarisation tools write: TextGrid, ELAN, RTTM, subtitles."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html import unescape
from itertools import chain, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from ser_batch.errors import DataError
from ser_batch.records import Segment
from ser_batch.segments.marked import Noted, Tiers
from ser_batch.tables.table import decoded
from ser_batch.text import printable

__all__ = ["read_eaf", "read_rttm", "read_subtitles", "read_textgrid", "rttm_rows"]

#: Names of tiers that hold parts of utterances, as forced aligners call them; a speaker may stand before.
_PARTS = re.compile(r"(.* - |.*[_@])?(words?|phones?|phonemes?|syllables?)", re.IGNORECASE)
#: Words that are apart by less belong to one utterance: as stretches of voice do, see docs/segments.md.
_PAUSE_S = 0.3
#: What marks a stretch in which nobody speaks.
_SILENCE = frozenset({"", "sil", "sp", "silence", "silent", "<sil>", "<p:>"})
#: Where an hour of one digit begins.
_SHORT_HOUR = re.compile(r"(?<!\d)(?=\d:\d\d:\d\d\b)")
#: How WhisperX names the speaker of a subtitle.
_SPEAKER = re.compile(r"\[([^\]\n]{1,80})\]:\s*")


def read_textgrid(path: Path) -> Tiers | Noted:
    """Praat's TextGrid, long or short: tiers of intervals, each a speaker; tiers of words and phones are left out.

    Where there is none but of words, as forced aligners write them, words that follow each other with hardly a pause
    are an utterance.

    Raises
    ------
    DataError
        There is no tier of utterances or words.
    """
    from praatio import textgrid  # noqa: PLC0415 - for those who have such files

    grid = textgrid.openTextgrid(
        str(path), includeEmptyIntervals=False, reportingMode="silence", duplicateNamesMode="rename"
    )
    tiers = [tier for tier in grid.tiers if isinstance(tier, textgrid.IntervalTier)]
    part_of = {tier.name: _PARTS.fullmatch(tier.name) for tier in tiers}
    spoken = [_labelled(tier.name, tier.name, tier.entries) for tier in tiers if not part_of[tier.name]]
    if spoken or not tiers:
        return chain.from_iterable(spoken)
    words = [
        (tier.name, list(_labelled(tier.name, (part[1] or "").rstrip(" -_@"), tier.entries)))
        for tier in tiers
        if (part := part_of[tier.name]) and part[2].casefold().startswith("word")
    ]
    if not words:
        raise DataError("it has no tier of utterances or words, only of parts of words")
    joined = [(name, item) for name, items in words for item in _utterances([word for _, word in items])]
    n_words = sum(len(items) for _, items in words)
    return Noted(joined, f"{n_words} words were joined to {len(joined)} segments, by pauses of {_PAUSE_S} s")


def _labelled(name: str, speaker: str, entries: Iterable[tuple[Any, Any, str]]) -> Tiers:
    """Yield the intervals of a tier in which somebody speaks."""
    for start_s, end_s, label in entries:
        if label.strip().casefold() not in _SILENCE:
            yield name, Segment(float(start_s), float(end_s), speaker=speaker, text=label)


def _utterances(words: Iterable[Segment]) -> Iterator[Segment]:
    """Join words, in the order of time, over short pauses."""
    utterance: Segment | None = None
    for word in words:
        if utterance is None:
            utterance = word
        elif word.start_s - utterance.end_s < _PAUSE_S:
            text = f"{utterance.text.strip()} {word.text.strip()}"
            utterance = replace(utterance, end_s=max(word.end_s, utterance.end_s), text=text)
        else:
            yield utterance
            utterance = word
    if utterance is not None:
        yield utterance


def read_eaf(path: Path) -> Iterator[tuple[str, Segment]]:
    """ELAN's annotations: the tiers that depend on no other, each a speaker.

    A speaker goes by the participant of the tier, unless there are several tiers of theirs. An annotation whose time
    is open gets its share of the time between its neighbours, as ELAN shows it.

    Raises
    ------
    DataError
        It is no ELAN file.
    """
    root = ET.parse(path).getroot()  # expat bounds what entities expand to
    if root.tag != "ANNOTATION_DOCUMENT":
        raise DataError("it is no ELAN file")
    slots = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE") for slot in root.iterfind("TIME_ORDER/TIME_SLOT")}
    tiers = [tier for tier in root.iterfind("TIER") if not tier.get("PARENT_REF")]
    n_tiers = Counter(tier.get("PARTICIPANT") for tier in tiers)
    for tier in tiers:
        name, participant = tier.get("TIER_ID", ""), tier.get("PARTICIPANT")
        speaker = participant if participant and n_tiers[participant] == 1 else name
        marks = list(tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION"))
        ends = [(mark.get("TIME_SLOT_REF1", ""), mark.get("TIME_SLOT_REF2", "")) for mark in marks]
        times_s = _closed({slot: slots[slot] for pair in ends for slot in pair})
        for mark, (start, end) in zip(marks, ends, strict=True):
            text = mark.findtext("ANNOTATION_VALUE") or ""
            yield name, Segment(times_s[start], times_s[end], speaker=speaker, text=text)


def _closed(slots: dict[str, str | None]) -> dict[str, float]:
    """Give times in s to the slots of a tier, in their order; open ones are spread between their neighbours."""
    names = list(slots)
    known = [(place, int(value) / 1000) for place, value in enumerate(slots.values()) if value is not None]
    times_s = dict.fromkeys(names, float("nan"))
    for (first, begin_s), (last, end_s) in pairwise(known):
        for place in range(first, last + 1):
            times_s[names[place]] = begin_s + (end_s - begin_s) * (place - first) / (last - first)
    if known:
        times_s[names[known[0][0]]] = known[0][1]
    return times_s


def read_rttm(path: Path) -> Iterator[tuple[str, Segment]]:
    """NIST's RTTM, as diarisation tools write it, of one recording.

    Lines of other recordings are left out where some name this one, by its stem.

    Raises
    ------
    DataError
        A line is none, or there are several recordings and none of them is this one.
    """
    rows = list(rttm_rows(path))
    names = {name for name, _, _ in rows}
    if len(names) > 1 and path.stem not in names:
        raise DataError(f"it is about {len(names)} recordings, none of which is called {printable(path.stem)!r}")
    for name, _, segment in rows:
        if len(names) == 1 or name == path.stem:
            yield "", segment


def rttm_rows(path: Path) -> Iterator[tuple[str, int, Segment]]:
    """Yield (recording, line, segment) of each turn in an RTTM file. Raises `DataError` where a line is none."""
    for number, line in enumerate(decoded(path, path.read_bytes())[0].splitlines(), 1):
        fields = line.split()
        # Comments, and lines about anything but who speaks.
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start_s, duration_s = float(fields[3]), float(fields[4])
            channel, speaker = int(fields[2]) if fields[2].isdecimal() else 0, fields[7]
        except (IndexError, ValueError):
            raise DataError(
                f"line {number} is no turn: expected SPEAKER, recording, channel, start, duration, <NA>, <NA>, name"
            ) from None
        yield fields[1], number, Segment(start_s, start_s + duration_s, channel, "" if speaker == "<NA>" else speaker)


def read_subtitles(path: Path) -> Iterator[tuple[str, Segment]]:
    """SubRip and WebVTT. Speakers are those of voice tags, or stand in front as WhisperX writes them: ``[name]: ``."""
    import webvtt  # noqa: PLC0415 - for those who have such files

    text, _ = decoded(path, path.read_bytes())
    is_srt = path.suffix.lower() == ".srt"
    if is_srt:
        text = _as_webvtt(text)
    for cue in webvtt.WebVTT.from_string(text, strict=True).captions:
        words, speaker = cue.text, cue.voice or ""
        if not is_srt:
            words, speaker = unescape(words), unescape(speaker)
        if not speaker and (found := _SPEAKER.match(words)):
            words, speaker = words[found.end() :], found[1]
        start_s, end_s = (_seconds(time.to_tuple()) for time in (cue.start_time, cue.end_time))
        yield "", Segment(start_s, end_s, speaker=speaker, text=words)


def _as_webvtt(text: str) -> str:
    """Turn SubRip, which nobody writes alike, into WebVTT, which is read strictly: no line is lost without a word."""
    # Line by line: an expression that may begin anywhere in a line, or in its blanks, takes the square of its length.
    text = "\n".join(line.rstrip(" \t") for line in re.split(r"\r\n?|\n", text))
    # An empty line within the words is followed by more of them, and not by the number and times of another cue.
    text = re.sub(r"\n\n+(?!(?:[ \t]*\d+[ \t]*\n)?[ \t]*\d+:\d+:\d+[,.]\d+[ \t]*-->)", "\n", text)
    return "WEBVTT\n\n" + "\n".join(_as_times(line) if "-->" in line else line for line in text.split("\n"))


def _as_times(line: str) -> str:
    times = re.sub(r"(-->[ \t]*[\d:,.]+)[ \t].*", r"\1", line)  # where on the screen, in a way of its own
    return _SHORT_HOUR.sub("0", times.replace(",", "."))


def _seconds(time: tuple[int, int, int, int]) -> float:
    hours, minutes, seconds, milliseconds = time
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
