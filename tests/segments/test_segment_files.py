"""Files beside recordings give segments with speakers and words; a broken one says why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from praatio import textgrid
from pympi import Elan

from ser_batch.errors import DataError
from ser_batch.records import Segment
from ser_batch.segments.files import read_segments
from ser_batch.segments.table import read_archive_segments

SAID = [(0.25, 1.5, "anna", "guten Tag"), (1.75, 2.5, "ben", "hallo"), (2.5, 4.0, "anna", 'so "sagt" er')]
RTTM = "SPEAKER one 1 {:.3f} {:.3f} <NA> <NA> {} <NA> <NA>\n"


def as_told(segments: tuple[Segment, ...]) -> list[tuple[float, float, str, str]]:
    return [(item.start_s, item.end_s, item.speaker, item.text) for item in segments]


def read(folder: Path, name: str, content: str | bytes) -> tuple[Segment, ...]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_segments([path]).segments


def test_textgrid(tmp_path: Path) -> None:
    grid = textgrid.Textgrid()
    for speaker in ("anna", "ben"):
        entries = [(start, end, text) for start, end, who, text in SAID if who == speaker]
        grid.addTier(textgrid.IntervalTier(speaker, entries, 0, 5))
    words = [(0.25, 0.8, "guten"), (0.8, 1.5, "Tag")]
    grid.addTier(textgrid.IntervalTier("anna - words", words, 0, 5))
    grid.addTier(textgrid.PointTier("clicks", [(1.0, "x")], 0, 5))
    for style in ("long_textgrid", "short_textgrid"):
        path = tmp_path / f"{style}.TextGrid"
        grid.save(str(path), style, includeBlankSpaces=True)
        segments = read_segments([path]).segments
        assert as_told(segments) == SAID
        assert {item.source for item in segments} == {"textgrid"}


def test_words_of_a_forced_aligner_are_joined_over_short_pauses(tmp_path: Path) -> None:
    grid = textgrid.Textgrid()
    words = [(0.25, 0.8, "guten"), (0.8, 1.5, "Tag"), (1.5, 1.79, "sp"), (1.79, 2.0, "Frau"), (2.35, 3.0, "Meier")]
    grid.addTier(textgrid.IntervalTier("anna - words", words, 0, 5))
    grid.addTier(textgrid.IntervalTier("ben - words", [(1.0, 1.5, "ja")], 0, 5))
    grid.addTier(textgrid.IntervalTier("anna - phones", [(0.25, 0.4, "g")], 0, 5))
    path = tmp_path / "aligned.TextGrid"
    grid.save(str(path), "long_textgrid", includeBlankSpaces=True)
    marked = read_segments([path])
    assert as_told(marked.segments) == [
        (0.25, 2.0, "anna", "guten Tag Frau"),
        (1.0, 1.5, "ben", "ja"),
        (2.35, 3.0, "anna", "Meier"),
    ]
    assert marked.note == "5 words were joined to 3 segments, by pauses of 0.3 s"
    grid.removeTier("anna - words")
    grid.removeTier("ben - words")
    grid.save(str(path), "long_textgrid", includeBlankSpaces=True)
    with pytest.raises(DataError, match="no tier of utterances or words, only of parts of words"):
        read_segments([path])


def test_elan(tmp_path: Path) -> None:
    document = Elan.Eaf()
    document.remove_tier("default")
    document.add_linguistic_type("gloss", constraints="Symbolic_Association", timealignable=False)
    for speaker in ("anna", "ben"):
        document.add_tier(f"{speaker}-utterances", part=speaker)
        for start, end, who, text in SAID:
            if who == speaker:
                document.add_annotation(f"{speaker}-utterances", round(start * 1000), round(end * 1000), text)
    document.add_tier("anna-gloss", ling="gloss", parent="anna-utterances", part="anna")
    document.add_ref_annotation("anna-gloss", "anna-utterances", 300, "good day")
    path = tmp_path / "one.eaf"
    document.to_file(str(path))
    segments = read_segments([path]).segments
    assert as_told(segments) == SAID
    # A participant with two tiers of their own: each goes by its name.
    document.add_tier("anna-gestures", part="anna")
    document.add_annotation("anna-gestures", 300, 900, "waves")
    document.to_file(str(path))
    assert {item.speaker for item in read_segments([path]).segments} == {"anna-utterances", "anna-gestures", "ben"}


def test_open_times_of_elan_are_spread_between_their_neighbours(tmp_path: Path) -> None:
    slots = {"ts1": ' TIME_VALUE="1000"', "ts2": "", "ts3": "", "ts4": ' TIME_VALUE="4000"'}
    order = "".join(f'<TIME_SLOT TIME_SLOT_ID="{name}"{value}/>' for name, value in slots.items())
    marks = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{n}" TIME_SLOT_REF1="ts{n}" TIME_SLOT_REF2="ts{n + 1}">'
        f"<ANNOTATION_VALUE>{n}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>"
        for n in (1, 2, 3)
    )
    content = (
        f'<ANNOTATION_DOCUMENT><TIME_ORDER>{order}</TIME_ORDER><TIER TIER_ID="a">{marks}</TIER></ANNOTATION_DOCUMENT>'
    )
    segments = read(tmp_path, "one.eaf", content)
    assert [(item.start_s, item.end_s) for item in segments] == [(1, 2), (2, 3), (3, 4)]


def test_rttm_takes_the_turns_of_its_recording(tmp_path: Path) -> None:
    lines = ";; a comment\nSPKR-INFO one 1 <NA> <NA> <NA> unknown anna <NA> <NA>\n"
    lines += "".join(RTTM.format(start, end - start, speaker) for start, end, speaker, _ in SAID)
    other = RTTM.format(7, 1, "carl").replace("one", "two")
    segments = read(tmp_path, "one.rttm", lines + other)
    assert as_told(segments) == [(*item[:3], "") for item in SAID]
    assert {item.channel for item in segments} == {1}
    # A file of one recording is about this one, whatever it calls it.
    assert len(read(tmp_path, "renamed.rttm", lines)) == len(SAID)
    with pytest.raises(DataError, match="about 2 recordings, none of which is called 'renamed'"):
        read(tmp_path, "renamed.rttm", lines + other)


def test_subtitles(tmp_path: Path) -> None:
    srt = (
        "1\r\n00:00:00,250 --> 00:00:01,500\r\n[anna]: guten\r\nTag\r\n\r\n"
        "2\r\n00:00:01,750 --> 00:00:02,500\r\n[ben]: 3,50 Euro\r\n\r\n"
        "3\r\n00:01:02,500 --> 01:00:04,000\r\nohne <i>Namen</i>\r\n"
    )
    expected = [
        (0.25, 1.5, "anna", "guten Tag"),
        (1.75, 2.5, "ben", "3,50 Euro"),
        (62.5, 3604.0, "", "ohne Namen"),
    ]
    assert as_told(read(tmp_path, "one.srt", srt)) == expected
    assert as_told(read(tmp_path, "latin.srt", srt.replace("ohne", "öde").encode("cp1252")))[2][3] == "öde Namen"
    vtt = (
        "WEBVTT - a title\n\nNOTE a comment\n\n"
        "id-1/2-0\n00:00.250 --> 00:01.500 align:start\n<v anna>guten&nbsp;Tag</v>\n\n"
        "id-1/2-1\n00:01.750 --> 00:02.500\n<v ben>3,50&#x20;Euro\n\n01:02.500 --> 01:00:04.000\nohne Namen\n"
    )
    assert as_told(read(tmp_path, "one.vtt", vtt)) == expected


def test_subtitles_as_people_write_them_lose_no_word(tmp_path: Path) -> None:
    srt = (
        "\ufeff1\n0:00:00,250 --> 0:00:01,500\nguten\n\nTag\n \n"
        "2\n00:00:01,750-->00:00:02,500\n\n\n"
        "00:00:02,500 --> 00:00:04,000 X1:40 X2:600\nohne Nummer\n \n \n3 Worte mehr\n\n"
        "4\n00:00:05,000 --> 00:00:06,000\nEnde\n\n"
    )
    assert as_told(read(tmp_path, "one.srt", srt)) == [
        (0.25, 1.5, "", "guten Tag"),
        (1.75, 2.5, "", ""),
        (2.5, 4.0, "", "ohne Nummer 3 Worte mehr"),
        (5.0, 6.0, "", "Ende"),
    ]


def test_transcripts_of_whisper_and_its_kin(tmp_path: Path) -> None:
    segments = [{"start": a, "end": b, "speaker": who, "text": f" {text}", "words": []} for a, b, who, text in SAID]
    whisperx = {"segments": segments, "word_segments": [{"word": "guten", "start": 0.25, "end": 0.8}]}
    assert as_told(read(tmp_path, "x.json", json.dumps(whisperx))) == SAID
    plain = {"text": "…", "language": "de", "segments": [{"id": 0, "start": 0.0, "end": 2.0, "text": " Hallo."}]}
    assert as_told(read(tmp_path, "w.json", json.dumps(plain))) == [(0.0, 2.0, "", "Hallo.")]
    cpp = {"transcription": [{"offsets": {"from": 250, "to": 1500}, "text": " guten Tag"}]}
    assert as_told(read(tmp_path, "c.json", json.dumps(cpp))) == [(0.25, 1.5, "", "guten Tag")]
    assert as_told(read(tmp_path, "list.json", json.dumps(segments))) == SAID


def test_tables(tmp_path: Path) -> None:
    rows = "".join(f"{start}\t{end}\t{who}\t{text}\n" for start, end, who, text in SAID[:2])
    assert as_told(read(tmp_path, "one.tsv", f"start\tend\tspeaker\ttext\n{rows}")) == SAID[:2]
    german = "Onset;Duration;Speaker;Channel\n0,25;1,25;anna;2\n1,75;0,75;ben;\n"
    segments = read(tmp_path, "one.csv", german)
    assert as_told(segments) == [(*item[:3], "") for item in SAID[:2]]
    assert [item.channel for item in segments] == [2, 0]
    # Whisper's own table has times in ms.
    assert as_told(read(tmp_path, "w.tsv", "start\tend\ttext\n250\t1500\tguten Tag\n")) == [
        (0.25, 1.5, "", "guten Tag")
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.csv", "gain,date\n3,2024-01-01\n"),
        ("one.csv", "0.1,0.1,0.2\n"),
        ("one.json", '{"title": "An interview"}'),
        ("one.json", '[{"word": "a"}]'),
    ],
)
def test_a_file_about_something_else_lets_the_next_one_count(tmp_path: Path, name: str, content: str) -> None:
    other = tmp_path / "one.rttm"
    other.write_text(RTTM.format(0, 1, "anna"))
    (tmp_path / name).write_text(content)
    assert not read_segments([tmp_path / name]).segments
    assert [item.source for item in read_segments([tmp_path / name, other]).segments] == ["rttm"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("one.rttm", "SPEAKER one 1 0.5\n", "one.rttm: line 1 is no turn"),
        ("one.rttm", "SPEAKER one 1 0.5 nan <NA> <NA> anna\n", "from 0.5 to nan s"),
        (
            "one.rttm",
            RTTM.format(0, 2, "anna") + RTTM.format(1, 2, "anna"),
            "'anna' overlap: one goes on until 2",
        ),
        ("one.json", '{"segments": [{"start": 3, "end": 1}]}', "ends at 1.000 s, before it begins at 3.000 s"),
        ("one.json", '{"segments": [{"start": 3, "end": 4}, {"text": "x"}]}', "its segment 2 has no times"),
        ("one.json", "{", "one.json cannot be read"),
        ("one.json", "[" * 100_000, "one.json cannot be read"),
        ("one.csv", "start,end\n1,two\n", "line 2: 'end' must be a number"),
        ("one.csv", "start,end\n1,2,3\n", "line 2: 3 cells below a header of 2"),
        ("one.srt", "1\n00:00:01,000 --> 00:00\nHello\n", "one.srt cannot be read"),
        ("one.vtt", "nothing\n", "one.vtt cannot be read"),
        ("one.eaf", "<TRACKS/>", "it is no ELAN file"),
        ("one.eaf", "no XML", "one.eaf cannot be read"),
        ("one.TextGrid", "no grid", "one.TextGrid cannot be read"),
        ("one.rttm", b"\0\1\2" * 9, "no text that can be read"),
    ],
)
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, name: str, content: str | bytes, told: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_who_speak_at_once_and_what_overlaps_by_rounding_are_taken(tmp_path: Path) -> None:
    lines = RTTM.format(0, 2, "anna") + RTTM.format(1, 2, "ben") + RTTM.format(1.9, 1, "anna")
    assert len(read(tmp_path, "one.rttm", lines)) == 3


def test_segments_without_length_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "one.rttm"
    path.write_text(RTTM.format(0, 2, "anna") + RTTM.format(3, 0, "ben"))
    marked = read_segments([path])
    assert len(marked.segments) == 1
    assert marked.note == "1 segments without length were left out"


NAMES = ["calls/one.wav", "calls/two.wav", "three.wav"]


def test_one_table_for_the_whole_archive(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    rows = ["calls/one.wav,0,1,anna,ja", "two.wav,0,1,ben,nein", "calls/one.wav,1,2.5,ben,doch", "four.wav,0,1,carl,x"]
    path.write_text("clip_id,start,end,speaker,text\n" + "\n".join(rows))
    found = read_archive_segments(path, tmp_path, NAMES)
    assert as_told(found.of[0].segments) == [(0.0, 1.0, "anna", "ja"), (1.0, 2.5, "ben", "doch")]
    assert set(found.of) == {0, 1}
    assert "3 of 4 rows match, 1 files have no row" in found.summary
    # What is said of one recording alone decides whether it is looked at again.
    path.write_text("clip_id,start,end,speaker,text\n" + "\n".join([*rows, "two.wav,2,3,ben,nun"]))
    again = read_archive_segments(path, tmp_path, NAMES)
    assert [again.of[place].key == found.of[place].key for place in (0, 1)] == [True, False]


def test_what_contradicts_itself_costs_its_recording_alone(tmp_path: Path) -> None:
    path = tmp_path / "all.rttm"
    path.write_text(RTTM.format(0, 2, "anna") + RTTM.format(1, 2, "anna") + "SPEAKER two 1 0 1 <NA> <NA> ben <NA>\n")
    found = read_archive_segments(path, tmp_path, NAMES)
    assert found.of[0].segments == ()
    assert "overlap" in found.of[0].note
    assert [item.speaker for item in found.of[1].segments] == ["ben"]


def test_a_table_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text("clip_id,speaker\ncalls/one.wav,anna\n")
    with pytest.raises(DataError, match="needs the columns start and end, in s; it has clip_id, speaker"):
        read_archive_segments(path, tmp_path, NAMES)
    path.write_text("clip_id,start,end\nelsewhere.wav,1,2\n")
    with pytest.raises(DataError, match="none of its 1 rows names a file"):
        read_archive_segments(path, tmp_path, NAMES)


@pytest.mark.parametrize("channel", ["40000", "9" * 30])
def test_a_channel_that_no_table_can_hold_is_refused(tmp_path: Path, channel: str) -> None:
    """A number of a channel has two bytes; one that is larger would end the whole scan."""
    with pytest.raises(DataError, match=f"channel {channel} of a segment is none"):
        read(tmp_path, "a.rttm", RTTM.format(0, 1, "anna").replace("one 1", f"one {channel}"))


@pytest.mark.parametrize("channel", ["inf", "1e400", "nan", "1.5", "left"])
def test_what_is_no_number_of_a_channel_is_refused(tmp_path: Path, channel: str) -> None:
    path = tmp_path / "all.csv"
    path.write_text(f"clip_id,start,end,channel\ncalls/one.wav,0,1,2.0\ncalls/one.wav,0,1,{channel}\n")
    said = f"line 3: 'channel' must be the number of a channel, from 1, not '{channel}'"
    with pytest.raises(DataError, match=said):
        read_archive_segments(path, tmp_path, NAMES)
    with pytest.raises(DataError, match=said):
        read_segments([path])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "start,end\n1,LONG\n"),
        ("a.csv", "start,end,channel\n1,2,LONG\n"),
        ("a.csv", "start,LONG,LONG\n1,2,3\n"),
        ("a.rttm", 2 * RTTM.format(0, 2, "LONG")),
    ],
)
def test_of_what_is_wrong_a_message_quotes_no_more_than_a_line_shows(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, content.replace("LONG", "x" * 100_000))
    assert len(str(caught.value)) < 200 + 2 * len(str(tmp_path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("letter", ["x", " ", "\n", "<", "&", "[", "-->"])
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_long_lines_take_no_longer_than_many(tmp_path: Path, suffix: str, letter: str) -> None:
    head, point = ("WEBVTT\n\n", ".") if suffix == ".vtt" else ("", ",")
    times = f"00:00:01{point}000 --> 00:00:02{point}000"
    (tmp_path / f"a{suffix}").write_text(f"{head}{times}\nJa {200_000 * letter} doch\n")
    try:
        assert len(read_segments([tmp_path / f"a{suffix}"]).segments) == 1
    except DataError:
        assert letter in ("\n", "-->")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".rttm", ".srt", ".json", ".csv", ".TextGrid"])
def test_a_pipe_beside_a_recording_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a{suffix}")
    with pytest.raises(DataError, match="cannot be read"):
        read_segments([tmp_path / f"a{suffix}"])
