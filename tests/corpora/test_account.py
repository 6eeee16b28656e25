"""Every file that is found is taken, passed over with a reason, or there twice; what would surprise is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_batch.cli.main import main
from ser_batch.corpora.account import Reading
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.files import media_files
from ser_batch.corpora.reading import read_corpora, read_corpus
from ser_batch.errors import DataError, ExitCode, InputError


def write(folder: Path, *names: str) -> Path:
    """Make files of different content: readers look at names, and at bytes for what is there twice."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def balanced(reading: Reading) -> Reading:
    for account in reading.accounts:
        assert account.n_found == account.n_taken + account.passed_over.total() + account.n_twice, account.line()
    assert sum(account.n_taken for account in reading.accounts) == len(reading.clips)
    return reading


def read(folder: Path, name: str | None = None) -> Reading:
    reading = balanced(read_corpus(folder, BUILT_IN_CORPORA, name))
    assert sum(account.n_found for account in reading.accounts) == len(media_files(folder))
    return reading


def counts(reading: Reading) -> dict[str, int]:
    return {account.corpus: account.n_taken for account in reading.accounts}


RAVDESS = [f"Actor_{a:02}/03-01-0{e}-01-0{s}-01-{a:02}.wav" for a in (1, 2) for e in (1, 3, 4, 5) for s in (1, 2)]
CREMA_D = [f"{a}_{s}_{e}_XX.wav" for a in (1001, 1002) for s in ("DFA", "IEO") for e in ("ANG", "FEA", "SAD")]
EMO_DB = [f"{s:02}a0{t}{e}a.wav" for s in (3, 8) for t in (1, 2) for e in "WFT"]


def test_corpora_side_by_side_are_all_read(tmp_path: Path) -> None:
    write(tmp_path, *RAVDESS, *CREMA_D, *EMO_DB)
    assert counts(read(tmp_path)) == {"ravdess": len(RAVDESS), "crema-d": len(CREMA_D), "emo-db": len(EMO_DB)}


def test_a_few_files_of_another_corpus_among_many_are_read_as_theirs(tmp_path: Path) -> None:
    write(tmp_path, *(f"{a}_{s}_ANG_XX.wav" for a in range(1001, 1050) for s in ("DFA", "IEO")), *EMO_DB[:3], "odd.wav")
    reading = read(tmp_path)
    assert counts(reading) == {"crema-d": 98, "emo-db": 3}
    assert "1 passed over (1 named otherwise than those of crema-d)" in reading.accounts[0].line()


def test_of_a_named_corpus_what_is_of_others_is_said(tmp_path: Path) -> None:
    reading = read(write(tmp_path, *RAVDESS, *CREMA_D, "odd.wav"), "ravdess")
    (account,) = reading.accounts
    assert account.line() == (
        f"ravdess, {tmp_path}: 29 files found = 16 taken + 13 passed over (12 clips of crema-d, "
        f"1 named otherwise than those of ravdess)."
    )


def test_songs_and_videos_of_ravdess_are_known_and_passed_over(tmp_path: Path) -> None:
    song = "Song/Actor_01/03-02-03-01-01-01-01.wav"
    video = "Video/Actor_01/02-01-03-01-01-01-01.mp4"
    sound = "Video/Actor_01/01-01-03-01-01-01-01.wav"  # of a take that is there as audio
    alone = "Video/Actor_01/01-01-06-01-01-01-01.wav"
    reading = read(write(tmp_path, *RAVDESS, song, video, sound, alone))
    (account,) = reading.accounts
    assert account.passed_over == {
        "songs": 1,
        "the same takes in another form": 1,
        "videos, whose sound is not read": 1,
    }
    assert account.n_taken == len(RAVDESS) + 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("Actor_01/03-02-03-01-01-01-01.wav", "Actor_01/03-02-04-01-01-01-01.wav"), ("2 songs",)),
        (("Actor_01/01-01-03-01-01-01-01.mp4",), ("1 videos, whose sound is not read",)),
        (("a.mp4", "b.mkv"), ("holds no audio files, but 2 videos", "extract their sound")),
    ],
)
def test_nothing_but_songs_or_videos_says_so(tmp_path: Path, names: tuple[str, ...], words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        read_corpus(write(tmp_path, *names), BUILT_IN_CORPORA)
    assert all(word in str(caught.value) for word in words), caught.value


def test_one_take_in_two_formats_is_one_clip(tmp_path: Path) -> None:
    """CREMA-D comes as AudioMP3/ and AudioWAV/."""
    write(tmp_path, *(f"AudioWAV/{name}" for name in CREMA_D))
    write(tmp_path, *(f"AudioMP3/{Path(name).stem}.mp3" for name in CREMA_D))
    reading = read(tmp_path)
    assert all(clip.path.endswith(".wav") for clip in reading.clips)
    assert reading.accounts[0].passed_over == {"the same takes in another form": len(CREMA_D)}


def test_twin_folders_are_read_once(tmp_path: Path) -> None:
    """As Kaggle packs them: the same archive once more inside itself."""
    write(tmp_path / "ravdess", *RAVDESS)
    shutil.copytree(tmp_path / "ravdess", tmp_path / "ravdess" / "audio_speech_actors_01-24")
    reading = read(tmp_path / "ravdess")
    (account,) = reading.accounts
    assert (account.n_taken, account.n_twice) == (len(RAVDESS), len(RAVDESS))
    write(tmp_path / "mine", "anger/ann_1.wav", "fear/ann_2.wav", "fear/bob_1.wav")
    shutil.copytree(tmp_path / "mine", tmp_path / "mine" / "mine")
    reading = read(tmp_path / "mine")
    assert {clip.speaker for clip in reading.clips} == {"mine-ann", "mine-bob"}
    assert sum(account.n_twice for account in reading.accounts) == 3


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "data", *RAVDESS)
    reading = balanced(read_corpora([(tmp_path / "data", None), (tmp_path / "data", "ravdess")], BUILT_IN_CORPORA))
    (account,) = reading.accounts
    assert (account.n_taken, account.n_twice) == (len(RAVDESS), len(RAVDESS))


def test_the_same_audio_under_two_labels_or_speakers_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "anger/ann_1.wav", "fear/ann_2.wav")
    (tmp_path / "fear" / "ann_2.wav").write_text("anger/ann_1.wav")
    with pytest.raises(DataError, match=r"very same audio, but as anger of .*ann and fear of .*ann\. Remove one"):
        read_corpus(tmp_path, BUILT_IN_CORPORA)
    shutil.move(tmp_path / "fear" / "ann_2.wav", tmp_path / "anger" / "bob_1.wav")
    (tmp_path / "fear").rmdir()
    with pytest.raises(DataError, match=r"very same audio"):
        read_corpus(tmp_path, BUILT_IN_CORPORA)
    # Nobody knows who speaks in the other one: it is the same.
    shutil.move(tmp_path / "anger" / "bob_1.wav", tmp_path / "anger" / "a-copy.wav")
    reading = read(tmp_path)
    assert [clip.speaker for clip in reading.clips] == [f"{tmp_path.name}-ann"]


def test_empty_files_are_not_the_same_audio(tmp_path: Path) -> None:
    for name in ("anger/ann_1.wav", "anger/ann_2.wav"):
        write(tmp_path, name)
        (tmp_path / name).write_bytes(b"")
    assert len(read(tmp_path).clips) == 2


def test_what_nobody_knows_is_refused_unless_it_is_little(tmp_path: Path) -> None:
    write(tmp_path, *RAVDESS, "misc/demo.wav")
    reading = read(tmp_path)
    # Beside so many others it is named otherwise; in a folder of folders it is of no corpus.
    assert sum(account.passed_over.total() for account in reading.accounts) == 1
    write(tmp_path, *(f"misc/{number}.wav" for number in range(8)))
    with pytest.raises(DataError) as caught:
        read_corpus(tmp_path, BUILT_IN_CORPORA)
    message = str(caught.value)
    assert all(word in message for word in ("9 of its 25 files", "misc/0.wav", "labels.csv", "Move them out"))


def test_folders_named_by_nothing_known_are_labels_of_ones_own(tmp_path: Path) -> None:
    """Also beside known ones, and below the folder that an archive was unpacked into."""
    write(tmp_path / "zip" / "data", "rudeness/ann_1.wav", "Angst/ann_2.wav", "calm crying/bob_1.wav")
    assert {clip.emotion for clip in read(tmp_path).clips} == {"rudeness", "Angst", "calm crying"}
    write(tmp_path / "zip" / "data", "01Neutral/bob_2.wav", "Angry/bob_3.wav")
    found = {clip.emotion for clip in read(tmp_path / "zip").clips}
    assert found == {"rudeness", "Angst", "calm crying", "neutral", "anger"}


def test_corpora_beside_folders_by_emotion_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path, *RAVDESS, "anger/ann_1.wav", "Wut/ann_2.wav", "loose.wav")
    reading = read(tmp_path)
    assert counts(reading) == {"ravdess": len(RAVDESS), "raw": 2}
    assert {clip.emotion for clip in reading.clips if clip.corpus == tmp_path.name} == {"anger", "Wut"}
    assert next(a for a in reading.accounts if a.corpus == "raw").passed_over == {"beside the folders": 1}


def test_savee_as_its_owners_publish_it(tmp_path: Path) -> None:
    """The speaker is the folder."""
    write(tmp_path, *(f"AudioData/{man}/{code}{n:02}.wav" for man in ("DC", "KL") for code in "adfhn" for n in (1, 2)))
    assert {clip.speaker for clip in read(tmp_path).clips} == {"savee-dc", "savee-kl"}
    assert len(read(tmp_path / "AudioData" / "DC").clips) == 10


def test_linked_folders_count_as_in_a_scan(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "ann_7.wav")
    write(tmp_path / "data", "anger/ann_1.wav", "fear/ann_2.wav")
    (tmp_path / "data" / "fear" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(read(tmp_path / "data").clips) == 3


def test_two_folders_of_one_name_are_two_collections(tmp_path: Path) -> None:
    for owner in ("a", "b"):
        write(tmp_path / owner / "clips", f"anger/spk1_{owner}.wav", f"fear/spk1_{owner}2.wav")
    sources = [(tmp_path / owner / "clips", None) for owner in ("a", "b")]
    reading = balanced(read_corpora(sources, BUILT_IN_CORPORA))
    assert {clip.speaker for clip in reading.clips} == {"clips-spk1", "b/clips-spk1"}


def test_halves_of_one_collection_share_their_speakers(tmp_path: Path) -> None:
    for half in ("train", "test"):
        write(tmp_path / "mine" / half, f"anger/spk1_{half}.wav", f"fear/spk1_{half}2.wav")
    assert {clip.speaker for clip in read(tmp_path / "mine").clips} == {"mine-spk1"}


def test_a_table_of_labels_is_accounted_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "calls", "a.wav", "b.wav", "c.wav", "d.wav")
    rows = ["file;emotion;speaker", "a.wav;fear;ann", "A.WAV;fear;ann", "gone.wav;fear;bob", "b;;ann"]
    (folder / "labels.csv").write_text("\n".join(rows))
    reading = read(folder)
    (account,) = reading.accounts
    assert account.passed_over == {"not in labels.csv": 2, "without an emotion in labels.csv": 1}
    assert account.n_taken == 1
    assert reading.remarks == [
        f"{folder}/labels.csv: 3 of 4 rows match, 2 files have no row. 1 rows repeat another. "
        f"Line 4 names 'gone.wav', which is not there."
    ]
    (folder / "labels.csv").write_text("file,emotion,speaker\na.wav,fear,ann\na.wav,anger,ann\n")
    with pytest.raises(DataError, match=r"lines 2 and 3 .* but 'emotion' is 'fear' in one and 'anger' in the other"):
        read_corpus(folder, BUILT_IN_CORPORA)


def test_two_tables_of_labels_are_refused_and_one_beside_folders_is_said(tmp_path: Path) -> None:
    write(tmp_path, "a.wav")
    for name in ("labels.csv", "labels.tsv"):
        (tmp_path / name).write_text("file,emotion,speaker\na.wav,fear,ann\n")
    with pytest.raises(DataError, match=r"both labels.csv and labels.tsv. Keep the one that is true"):
        read_corpus(tmp_path, BUILT_IN_CORPORA)
    (tmp_path / "labels.tsv").unlink()
    write(tmp_path, "anger/ann_1.wav")
    assert any("labels file" in line and "--corpus labels=" in line for line in read(tmp_path).lines())


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415 - patched

    write(tmp_path, *RAVDESS)
    real = os.scandir
    closed = str(tmp_path / "Actor_02")

    def scandir(path: str) -> object:
        if str(path) == closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"Actor_02: Permission denied. Make it readable, or move it out"):
        read_corpus(tmp_path, BUILT_IN_CORPORA)


def test_commands_say_what_became_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "mix", *RAVDESS, *CREMA_D)
    lines = [
        f"ravdess, {folder}: 16 files found = 16 taken.",
        f"crema-d, {folder}: 12 files found = 12 taken.",
    ]
    assert main(["organize", "auto", str(folder), str(tmp_path / "raw")]) == ExitCode.OK
    assert set(lines) <= set(capsys.readouterr().out.splitlines())
    for command in (["train", "--data", str(folder)], ["evaluate", "ser6", str(folder)]):
        main(command)  # these files are no audio
        assert set(lines) <= set(capsys.readouterr().err.splitlines())


NAMES = [*RAVDESS[:5], *CREMA_D[:5], *EMO_DB[:4], "03-02-05-01-01-01-01.wav", "01-01-05-01-01-01-02.wav"]
NAMES += ["DC/a01.wav", "KL_sa02.ogg", "OAF_back_ps.wav", "dis-f1-b1.wav", "000001-02-1.mp3", "x.mp4", "x.wav"]
NAMES += ["ann_1.wav", "bob_2.flac", "readme.txt", ".hidden.wav", "WR0_anger_64.wav"]
FOLDERS = [
    "",
    "a",
    "b/c",
    "Actor_01",
    "anger",
    "Happy",
    "rudeness",
    "01Neutral",
    "data/anger",
    "data/train/fear",
    "mix",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.integers(0, 3)), max_size=25),
    st.lists(st.sampled_from([*FOLDERS, "nowhere"]), max_size=2),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["fear", "Wut", ""])), max_size=4),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([None, "raw", "labels", "ravdess", "crema-d"]),
)
def test_the_account_always_balances(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[str, str, int]],
    tables: list[str],
    rows: list[tuple[str, str]],
    delimiter: str,
    name: str | None,
) -> None:
    """Whatever lies there: it is read and every file is accounted for, or it is refused in one line."""
    root = tmp_path_factory.mktemp("tree")
    for folder, file, content in files:
        path = root / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}" if content else "")
    for number, folder in enumerate(tables):
        if (root / folder).is_dir():
            with (root / folder / ("labels.csv", "speakers.csv")[number]).open("w", newline="") as table:
                writer = csv.writer(table, delimiter=delimiter)
                writer.writerows([("File", "Emotion", "Speaker"), *((file, label, "ann") for file, label in rows)])
    try:
        reading = read(root, name)
    except (DataError, InputError) as error:
        assert "\n" not in str(error)
        return
    assert reading.clips
    assert len({clip.path for clip in reading.clips}) == len(reading.clips)
    assert all(Path(clip.path).is_file() for clip in reading.clips)
