"""Label tracks as text, in the formats of Audacity, Praat, ELAN, diarisation tools (RTTM) and subtitles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import count
from urllib.parse import quote
from xml.etree import ElementTree as ET

from ser_batch.storage.address import is_url

__all__ = ["TRACK_FORMATS", "Stretch", "Track"]


@dataclass(frozen=True)
class Stretch:
    """A stretch of a recording with one emotion."""

    start_s: float
    end_s: float
    #: "" where there is none.
    emotion: str
    #: Of the emotion: of a segment, or the mean over the windows of the stretch.
    probability: float
    speaker: str = ""
    text: str = ""
    #: From 1.
    channel: int = 1

    @property
    def label(self) -> str:
        """Who, with which emotion, says what, as far as it is known."""
        who = f"{self.speaker}: " if self.speaker else ""
        emotion = f"({self.emotion})" if self.emotion and (who or self.text) else self.emotion
        return (who + " ".join(filter(None, [emotion, self.text]))).strip()


@dataclass(frozen=True)
class Track:
    """The stretches of one recording, by where they begin."""

    clip_id: str
    duration_s: float
    #: Of windows: without gaps, from 0 to the end. Of segments: as these lie.
    stretches: tuple[Stretch, ...]
    #: Folder that holds the recording of this clip_id; "" where unknown.
    root: str = ""
    #: When the run was last written, ISO 8601.
    date: str = ""
    #: Whether stretches are segments: what somebody says, rather than windows.
    is_spoken: bool = False

    def by_speaker(self) -> dict[str, list[Stretch]]:
        """Return the stretches of each speaker, "" for those of nobody known."""
        found: dict[str, list[Stretch]] = {}
        for stretch in self.stretches:
            found.setdefault(stretch.speaker, []).append(stretch)
        return dict(sorted(found.items()))


def _audacity(track: Track) -> str:
    """Label track: start, end and text, separated by tabs (Audacity manual, Importing and Exporting Labels)."""
    return "".join(f"{s.start_s:.6f}\t{s.end_s:.6f}\t{s.label}\n" for s in track.stretches)


def _textgrid(track: Track) -> str:
    """Long TextGrid with interval tiers, of each speaker: emotion, its probability, and the words where there are any
    (Praat manual, TextGrid file formats)."""
    tiers: list[tuple[str, list[tuple[float, float, str]]]] = []
    for speaker, stretches in track.by_speaker().items():
        tier = f"{speaker} - " if speaker else ""
        kinds: dict[str, Callable[[Stretch], str]] = {
            "emotion": lambda s: s.emotion,
            "probability": lambda s: f"{s.probability:.3f}" if s.emotion else "",
        }
        if any(s.text for s in stretches):
            kinds["text"] = lambda s: s.text
        tiers += [(tier + kind, list(_filled(stretches, told, track.duration_s))) for kind, told in kinds.items()]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {track.duration_s:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, 1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{_quoted(name)}"',
            "        xmin = 0",
        ]
        lines += [f"        xmax = {track.duration_s:.6f}", f"        intervals: size = {len(intervals)}"]
        for place, (start_s, end_s, text) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start_s:.6f}",
                f"            xmax = {end_s:.6f}",
                f'            text = "{_quoted(text)}"',
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace('"', '""')


def _filled(
    stretches: Sequence[Stretch], told: Callable[[Stretch], str], duration_s: float
) -> Iterator[tuple[float, float, str]]:
    """Yield intervals without gap or overlap, from 0 to the end: what a tier must be."""
    at_s = 0.0
    for stretch in stretches:
        # Six decimals are written; less than one of them is no interval.
        if stretch.start_s - at_s > 1e-6:
            yield at_s, stretch.start_s, ""
            at_s = stretch.start_s
        if stretch.end_s - at_s > 1e-6:
            yield at_s, stretch.end_s, told(stretch)
            at_s = stretch.end_s
    if duration_s - at_s > 1e-6:
        yield at_s, duration_s, ""


def _rttm(track: Track) -> str:
    """NIST RTTM: one line a stretch, with the probability of its emotion as confidence.

    The emotion is the name of windows; of segments that is the speaker, and the emotion is the subtype.
    """
    # Fields are separated by blanks, so blanks in names are percent-encoded, and what would read as one.
    clip = re.sub(r"[\s%]", lambda match: quote(match.group()), track.clip_id)
    lines = []
    for s in track.stretches:
        emotion = re.sub(r"[^!-~]", "_", s.emotion) or "<NA>"
        speaker = re.sub(r"[\s%]", lambda match: quote(match.group()), s.speaker) or "<NA>"
        subtype, name = (emotion, speaker) if track.is_spoken else ("<NA>", emotion)
        probability = f"{s.probability:.3f}" if s.emotion else "<NA>"
        times = f"{s.start_s:.3f} {s.end_s - s.start_s:.3f}"
        lines.append(f"SPEAKER {clip} {s.channel} {times} <NA> {subtype} {name} {probability} <NA>\n")
    return "".join(lines)


def _elan(track: Track) -> str:
    """ELAN annotation format 3.0; times are whole milliseconds.

    Windows are one tier ``emotion``. Segments have a tier for each speaker, with the words, and one of the emotion that
    depends on it.
    """
    document = ET.Element(
        "ANNOTATION_DOCUMENT",
        AUTHOR="ser-batch",
        DATE=track.date or "1970-01-01T00:00:00+00:00",
        FORMAT="3.0",
        VERSION="3.0",
    )
    document.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
    document.set("xsi:noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = ET.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if track.root:
        place = f"{track.root}/{track.clip_id}"
        url = quote(place, safe="/:") if is_url(place) else f"file://{quote(place)}"
        ET.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=url, MIME_TYPE="unknown", RELATIVE_MEDIA_URL="")
    order = ET.SubElement(document, "TIME_ORDER")
    names = count(1)
    if not track.is_spoken:
        tier = ET.SubElement(document, "TIER", LINGUISTIC_TYPE_REF="emotion", TIER_ID="emotion")
        _aligned(order, tier, track.stretches, [s.emotion for s in track.stretches], names)
    for speaker, stretches in track.by_speaker().items() if track.is_spoken else ():
        spoken = {"LINGUISTIC_TYPE_REF": "speech", "TIER_ID": speaker or "speech"}
        tier = ET.SubElement(document, "TIER", spoken | ({"PARTICIPANT": speaker} if speaker else {}))
        marks = _aligned(order, tier, stretches, [s.text for s in stretches], names)
        felt = {"LINGUISTIC_TYPE_REF": "emotion", "TIER_ID": f"{speaker} - emotion" if speaker else "emotion"}
        tier = ET.SubElement(document, "TIER", felt | {"PARENT_REF": spoken["TIER_ID"]})
        for mark, stretch in zip(marks, stretches, strict=True):
            about = {"ANNOTATION_ID": f"a{next(names)}", "ANNOTATION_REF": mark}
            annotation = ET.SubElement(ET.SubElement(tier, "ANNOTATION"), "REF_ANNOTATION", about)
            ET.SubElement(annotation, "ANNOTATION_VALUE").text = stretch.emotion
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "emotion", "TIME_ALIGNABLE": "true"}
    if track.is_spoken:
        ET.SubElement(document, "LINGUISTIC_TYPE", kind | {"LINGUISTIC_TYPE_ID": "speech"})
        kind |= {"TIME_ALIGNABLE": "false", "CONSTRAINTS": "Symbolic_Association"}
    ET.SubElement(document, "LINGUISTIC_TYPE", kind)
    if track.is_spoken:
        about = {"DESCRIPTION": "1-1 association with a parent annotation", "STEREOTYPE": "Symbolic_Association"}
        ET.SubElement(document, "CONSTRAINT", about)
    ET.indent(document)
    return ET.tostring(document, encoding="unicode", xml_declaration=True) + "\n"


def _aligned(
    order: ET.Element, tier: ET.Element, stretches: Sequence[Stretch], values: Sequence[str], names: Iterator[int]
) -> list[str]:
    """Add annotations to a tier, and their times to the order of times; return their names."""
    marks = []
    for stretch, value in zip(stretches, values, strict=True):
        number = next(names)
        slots = [f"ts{2 * number - 1}", f"ts{2 * number}"]
        for slot, time_s in zip(slots, (stretch.start_s, stretch.end_s), strict=True):
            ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(time_s * 1000)))
        annotation = ET.SubElement(
            ET.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{number}"
        )
        annotation.set("TIME_SLOT_REF1", slots[0])
        annotation.set("TIME_SLOT_REF2", slots[1])
        ET.SubElement(annotation, "ANNOTATION_VALUE").text = value
        marks.append(f"a{number}")
    return marks


def _srt(track: Track) -> str:
    """SubRip: who, with which emotion, says what."""
    cues = (
        f"{number}\n{_clock(s.start_s, ',')} --> {_clock(s.end_s, ',')}\n{_cue(s.label)}\n"
        for number, s in enumerate(track.stretches, 1)
    )
    return "\n".join(cues)


def _vtt(track: Track) -> str:
    """WebVTT, with the speaker as voice and the emotion before the words."""
    cues = ["WEBVTT\n"]
    for s in track.stretches:
        voice = f"<v {escape(s.speaker, quote=False)}>" if s.speaker else ""
        said = _cue(escape(replace(s, speaker="").label, quote=False))
        cues.append(f"{_clock(s.start_s, '.')} --> {_clock(s.end_s, '.')}\n{voice}{said}\n")
    return "\n".join(cues)


def _clock(time_s: float, point: str) -> str:
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


def _cue(text: str) -> str:
    # An empty line would end the cue, and an arrow would begin another.
    return text.replace("-->", "→") or "…"


#: Format -> (suffix, writer).
TRACK_FORMATS: dict[str, tuple[str, Callable[[Track], str]]] = {
    "audacity": (".txt", _audacity),
    "elan": (".eaf", _elan),
    "textgrid": (".TextGrid", _textgrid),
    "rttm": (".rttm", _rttm),
    "srt": (".srt", _srt),
    "vtt": (".vtt", _vtt),
}
