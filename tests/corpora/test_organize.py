"""``ser-batch organize``: a download becomes folders by emotion, and training finds in them what the download said."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import pytest
from labelled_clips import write_clip

from ser_batch.cli.main import main
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.reading import read_corpus
from ser_batch.errors import ExitCode
from ser_batch.records import LabelledClip

#: Corpus -> files of a small download, one of them of an emotion that is none of the six.
DOWNLOADS = {
    "ravdess": (
        "Actor_01/03-01-05-01-01-01-01.wav",
        "Actor_01/03-01-08-01-01-01-01.wav",
        "Actor_02/03-01-05-01-01-01-02.wav",
        "Actor_02/03-01-02-01-01-01-02.wav",
    ),
    "crema-d": ("AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_IEO_FEA_HI.wav", "AudioWAV/1002_IEO_NEU_XX.wav"),
    "tess": ("OAF_angry/OAF_back_angry.wav", "YAF_Fear/YAF_back_fear.wav", "OAF_neutral/OA_bite_neutral.wav"),
    "emo-db": ("wav/03a01Wa.wav", "wav/08a05Aa.wav", "wav/08a05La.wav"),
    "emogator": ("000001-02-1.flac", "000001-13-1.flac", "000002-27-1.flac", "000002-11-1.flac", "000002-05-1.flac"),
    "nemo": ("samples/WR0_anger_64.wav", "samples/EB0_surprised_64.wav", "samples/EB0_neutral_64.wav"),
}
SIX = {"anger", "disgust", "fear", "happiness", "sadness", "surprise"}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    takes = 0
    for corpus, files in DOWNLOADS.items():
        for file in files:
            takes += 1
            write_clip(folder / corpus / file, take=takes, duration_s=0.05)
    rows = [Path(file).name for file in DOWNLOADS["nemo"]]
    lines = [f"{name}\t{name.split('_')[1]}\t{name[:3]}\t{'male' if name[0] == 'W' else 'female'}" for name in rows]
    (folder / "nemo" / "data.tsv").write_text("file_id\temotion\tspeaker_id\tgender\n" + "\n".join(lines) + "\n")
    return folder


def organize(*arguments: object) -> int:
    return main(["organize", *map(str, arguments)])


def said(clips: list[LabelledClip]) -> Counter[tuple[str, str, str, str, bytes]]:
    """All that a reader knows of each clip, and its audio."""
    return Counter((c.emotion, c.speaker, c.sex, c.corpus, Path(c.path).read_bytes()) for c in clips)


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("corpus", DOWNLOADS)
def test_training_finds_in_the_folders_what_the_download_said(downloads: Path, tmp_path: Path, corpus: str) -> None:
    assert organize(corpus, downloads / corpus, tmp_path / "raw") == ExitCode.OK
    before = [clip for clip in read_corpus(downloads / corpus, BUILT_IN_CORPORA, corpus).clips if clip.emotion in SIX]
    after = read_corpus(tmp_path / "raw", BUILT_IN_CORPORA).clips
    assert len(after) >= 2
    assert said(after) == said(before)


@pytest.mark.parametrize("corpus", DOWNLOADS)
def test_names_alone_tell_the_speakers(downloads: Path, tmp_path: Path, corpus: str) -> None:
    organize(corpus, downloads / corpus, tmp_path / "raw", "--all-emotions")
    listed = {Path(clip.path): clip.speaker for clip in read_corpus(tmp_path / "raw", BUILT_IN_CORPORA).clips}
    (tmp_path / "raw" / "speakers.csv").unlink()
    assert {path: path.name.split("_")[0] for path in listed} == listed


def test_all_six_downloads_share_one_folder(downloads: Path, tmp_path: Path) -> None:
    for corpus in DOWNLOADS:
        assert organize(corpus, downloads / corpus, tmp_path, "--all-emotions") == ExitCode.OK
    clips = read_corpus(tmp_path, BUILT_IN_CORPORA).clips
    # One burst is of a category that has no emotion here.
    assert len(clips) == sum(map(len, DOWNLOADS.values())) - 1
    assert {clip.emotion for clip in clips} > {"neutral", "calm", "boredom", "distress"}
    assert {clip.corpus for clip in clips} == set(DOWNLOADS)


def test_counts_and_what_stays_behind_are_said(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organize("emogator", downloads / "emogator", tmp_path)
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["happiness", "2", "1"] in lines
    assert ["surprise", "1", "1"] in lines
    assert ["all", "3", "2"] in lines
    assert "distress 1 (take them with --all-emotions)" in out
    assert "nobody knows these emotions: emogator-05 1." in out
    assert lines[0][0] == "EmoGator"
    assert lines[0][-1] == "Apache-2.0"
    assert not (tmp_path / "distress").exists()


def test_a_dry_run_writes_nothing_and_counts_the_same(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organize("ravdess", downloads / "ravdess", tmp_path / "raw", "--dry-run")
    dry = capsys.readouterr().out
    assert not (tmp_path / "raw").exists()
    organize("ravdess", downloads / "ravdess", tmp_path / "raw")
    assert dry.replace("would be copied", "copied") == capsys.readouterr().out


def test_the_same_command_again_changes_nothing(
    downloads: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organize("crema-d", downloads / "crema-d", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    organize("crema-d", downloads / "crema-d", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert f"0 copied to {tmp_path}, 2 already there." in capsys.readouterr().out


def test_links_lead_to_the_download_and_become_copies_when_asked(downloads: Path, tmp_path: Path) -> None:
    source = downloads / "emo-db"
    # A link must hold wherever the command was started.
    assert organize("emo-db", os.path.relpath(source), tmp_path, "--link") == ExitCode.OK
    linked = tmp_path / "anger" / "emo-db-03_03a01Wa.wav"
    assert linked.is_symlink()
    assert linked.resolve() == (source / "wav" / "03a01Wa.wav").resolve()
    organize("emo-db", source, tmp_path, "--copy")
    assert not linked.is_symlink()
    assert linked.read_bytes() == (source / "wav" / "03a01Wa.wav").read_bytes()


def test_a_link_whose_file_is_gone_is_made_anew(downloads: Path, tmp_path: Path) -> None:
    target = tmp_path / "anger" / "emo-db-03_03a01Wa.wav"
    target.parent.mkdir()
    target.symlink_to(tmp_path / "gone.wav")
    assert organize("emo-db", downloads / "emo-db", tmp_path, "--link") == ExitCode.OK
    assert target.read_bytes() == (downloads / "emo-db" / "wav" / "03a01Wa.wav").read_bytes()


def test_other_audio_of_the_same_name_is_never_overwritten(downloads: Path, tmp_path: Path) -> None:
    mine = write_clip(tmp_path / "anger" / "emo-db-03_03a01Wa.wav", take=999)
    content = mine.read_bytes()
    for _ in range(2):
        assert organize("emo-db", downloads / "emo-db", tmp_path) == ExitCode.OK
        assert mine.read_bytes() == content
        assert len(list((tmp_path / "anger").iterdir())) == 2
    angry = [clip for clip in read_corpus(tmp_path, BUILT_IN_CORPORA).clips if clip.emotion == "anger"]
    assert {clip.speaker for clip in angry} == {"emo-db-03"}


def test_files_of_one_name_in_two_folders_stay_two_and_true_doubles_become_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "03-01-05-01-01-01-01.wav"
    for folder, take in (("a", 1), ("b", 2), ("c", 1), ("d", 2)):
        write_clip(tmp_path / "download" / folder / name, take=take, duration_s=0.05)
    organize("ravdess", tmp_path / "download", tmp_path / "raw")
    assert len(list((tmp_path / "raw" / "anger").iterdir())) == 2
    assert "4 files found = 2 taken + 2 twice" in capsys.readouterr().out


def test_names_that_differ_by_case_alone_fit_file_systems_that_fold_it(tmp_path: Path) -> None:
    for number, name in enumerate(("1001_DFA_ANG_XX.wav", "1001_dfa_ang_xx.wav")):
        write_clip(tmp_path / "download" / str(number) / name, take=number, duration_s=0.05)
    organize("crema-d", tmp_path / "download", tmp_path / "raw")
    names = [path.name.lower() for path in (tmp_path / "raw" / "anger").iterdir()]
    assert len(set(names)) == 2


def test_a_list_of_speakers_that_is_there_is_only_added_to(downloads: Path, tmp_path: Path) -> None:
    table = tmp_path / "speakers.csv"
    write_clip(tmp_path / "fear" / "x.wav", duration_s=0.05)
    table.write_text("note,speaker_id,filename\nmy own,Zoë,fear/x.wav\nsee below,who,anger/emo-db-03_03a01Wa.wav")
    organize("emo-db", downloads / "emo-db", tmp_path)
    with table.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["note", "speaker_id", "filename"],
            ["my own", "Zoë", "fear/x.wav"],
            ["see below", "who", "anger/emo-db-03_03a01Wa.wav"],
            ["", "emo-db-08", "fear/emo-db-08_08a05Aa.wav"],
        ]
    speakers = {Path(clip.path).stem: clip.speaker for clip in read_corpus(tmp_path, BUILT_IN_CORPORA).clips}
    own = tmp_path.name
    assert speakers == {"x": f"{own}-Zoë", "emo-db-03_03a01Wa": f"{own}-who", "emo-db-08_08a05Aa": "emo-db-08"}


def test_a_list_of_speakers_is_added_to_as_it_is_written(downloads: Path, tmp_path: Path) -> None:
    table = tmp_path / "speakers.csv"
    write_clip(tmp_path / "fear" / "x.wav", duration_s=0.05)
    text = "File;Speaker\r\nfear\\x.wav;Zoë\r\n"
    table.write_bytes(text.encode("utf-16"))
    for _ in range(2):
        assert organize("emo-db", downloads / "emo-db", tmp_path) == ExitCode.OK
        added = "anger/emo-db-03_03a01Wa.wav;emo-db-03\r\nfear/emo-db-08_08a05Aa.wav;emo-db-08\r\n"
        assert table.read_bytes().decode("utf-16") == text + added


def test_clips_of_unknown_speakers_get_no_speaker_by_their_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2, 3):
        write_clip(tmp_path / "calls" / f"call_{number}.wav", take=number, duration_s=0.05)
    rows = "call_1.wav,anger,\ncall_2.wav,fear,\ncall_3.wav,fear,Ann Lee\n"
    (tmp_path / "calls" / "labels.csv").write_text(f"file,emotion,speaker\n{rows}")
    assert organize("labels", tmp_path / "calls", tmp_path / "raw") == ExitCode.OK
    assert "the speaker of 2 clips is unknown" in capsys.readouterr().out
    assert set(files_below(tmp_path / "raw")) == {
        "anger/call-1.wav",
        "fear/call-2.wav",
        "fear/calls-ann lee_call_3.wav",
        "speakers.csv",
    }
    speakers = Counter(clip.speaker for clip in read_corpus(tmp_path / "raw", BUILT_IN_CORPORA).clips)
    assert speakers == {"": 2, "calls-ann lee": 1}


def test_a_corpus_of_a_plugin_is_sorted_too(tmp_path: Path) -> None:
    plugin = tmp_path / "choir.py"
    plugin.write_text(
        "from pathlib import Path\n"
        "from ser_batch import hookimpl\n"
        "from ser_batch.records import Corpus, LabelledClip\n"
        "def read(folder):\n"
        "    for path in sorted(folder.glob('*.wav')):\n"
        "        yield LabelledClip(str(path), 'sadness', 'choir-my_singer', 'female', 'choir', 'lament')\n"
        "@hookimpl\n"
        "def register_corpora():\n"
        "    return [Corpus('choir', 'The choir', 'CC0', '', 'cy', read, lambda folder, names: False)]\n"
    )
    write_clip(tmp_path / "songs" / "lament.wav", duration_s=0.05)
    assert organize("choir", tmp_path / "songs", tmp_path / "raw", "--plugin", plugin) == ExitCode.OK
    (clip,) = read_corpus(tmp_path / "raw", BUILT_IN_CORPORA).clips
    assert Path(clip.path).name == "choir-my-singer_lament.wav"
    assert (clip.speaker, clip.sex) == ("choir-my_singer", "female")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ravdes", "ravdess", "raw"), ExitCode.DATA, ("'ravdes'", "Did you mean 'ravdess'")),
        (("ravdess", "nowhere", "raw"), ExitCode.INPUT, ("nowhere", "does not exist")),
        (("tess", "ravdess", "raw"), ExitCode.DATA, ("No clip of TESS",)),
        (("nemo", "ravdess", "raw"), ExitCode.DATA, ("No labels.tsv", "data.tsv")),
        (("ravdess", "ravdess", "ravdess/sorted"), ExitCode.USAGE, ("outside of SRC",)),
        (("ravdess", "ravdess", "."), ExitCode.USAGE, ("outside of SRC",)),
        (("ravdess", "ravdess", "a-file"), ExitCode.USAGE, ("a-file", "give a folder")),
        (("ravdess", "ravdess", "listed"), ExitCode.DATA, ("listed/speakers.csv", "'file'")),
        (("ravdess", "ravdess", "blocked"), ExitCode.INPUT, ("blocked/anger", "run the command again")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    downloads: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: ExitCode,
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    for take, file in enumerate(DOWNLOADS["ravdess"]):
        write_clip(tmp_path / "ravdess" / file, take=take, duration_s=0.05)
    (tmp_path / "a-file").touch()
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "speakers.csv").write_text("name;speaker\nx.wav;ann\n")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "anger").touch()
    before = files_below(tmp_path)
    assert organize(*arguments) == code
    (message,) = capsys.readouterr().err.splitlines()
    assert all(word in message for word in ("Error: ", *words)), message
    if arguments[-1] != "blocked":
        assert files_below(tmp_path) == before
    assert not list(tmp_path.rglob("*.partial"))


def test_a_labels_file_without_a_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nemo").mkdir()
    (tmp_path / "nemo" / "labels.tsv").write_text("file\tspeaker\nx.wav\tann\n")
    assert organize("nemo", tmp_path / "nemo", tmp_path / "raw") == ExitCode.DATA
    assert "labels.tsv has no column 'emotion'" in capsys.readouterr().err


def test_a_labels_file_cannot_fetch_what_lies_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shared" / "calls"
    write_clip(folder / "a.wav", take=1, duration_s=0.05)
    write_clip(tmp_path / "shared" / "private.wav", take=2, duration_s=0.05)
    names = ["a.wav", "/etc/passwd", "../private.wav", str(tmp_path / "shared" / "private.wav")]
    (folder / "labels.csv").write_text("file,emotion,speaker\n" + "".join(f"{name},anger,ann\n" for name in names))
    assert organize("labels", folder, tmp_path / "raw") == ExitCode.OK
    assert len([path for path in (tmp_path / "raw").rglob("*") if path.is_file() and path.suffix != ".csv"]) == 1
    assert "1 of 4 rows match" in capsys.readouterr().out


def test_folders_named_by_emotion_are_a_source_like_any_other(tmp_path: Path) -> None:
    write_clip(tmp_path / "mine" / "Angry" / "ann_1.wav", take=1, duration_s=0.05)
    write_clip(tmp_path / "mine" / "joy" / "ann_2.wav", take=2, duration_s=0.05)
    organize("raw", tmp_path / "mine", tmp_path / "raw")
    assert {path.parent.name for path in (tmp_path / "raw").rglob("*.wav")} == {"anger", "happiness"}
    assert {clip.speaker for clip in read_corpus(tmp_path / "raw", BUILT_IN_CORPORA).clips} == {"mine-ann"}


@pytest.mark.corpora
def test_ravdess_makes_six_folders_of_160_clips_by_20_actors(
    corpora_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert organize("ravdess", corpora_dir / "ravdess", tmp_path, "--link") == ExitCode.OK
    counts = {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir() if folder.is_dir()}
    assert counts == dict.fromkeys(SIX, 160)
    out = capsys.readouterr().out
    assert "calm 160, neutral 80" in out
    assert ["anger", "160", "20"] in [line.split() for line in out.splitlines()]
    clips = read_corpus(tmp_path, BUILT_IN_CORPORA).clips
    assert len({clip.speaker for clip in clips}) == 20
    assert Counter(clip.sex for clip in clips) == {"male": 480, "female": 480}
