"""Eight corpora as their owners publish them, and folders of one's own: emotion, speaker and sex of each file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ser_batch.contracts import check_corpus
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.emotions import EMOTIONS, canonical_emotion
from ser_batch.corpora.reading import read_corpus
from ser_batch.corpora.speakers import speakers_of
from ser_batch.errors import DataError, InputError, PluginError
from ser_batch.records import Corpus, LabelledClip


def touch(folder: Path, *names: str) -> Path:
    """Readers look at names alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def read(folder: Path, name: str | None = None) -> dict[str, LabelledClip]:
    clips = read_corpus(folder, BUILT_IN_CORPORA, name).clips
    return {Path(clip.path).relative_to(folder).as_posix(): clip for clip in clips}


PUBLISHED = [
    # Livingstone and Russo 2018, table of identifiers: third field is the emotion, last the actor, odd actors male.
    ("ravdess", "Actor_01/03-01-01-01-01-01-01.wav", "neutral", "ravdess-01", "male"),
    ("ravdess", "Actor_02/03-01-02-01-01-01-02.wav", "calm", "ravdess-02", "female"),
    ("ravdess", "Actor_13/03-01-03-02-02-01-13.wav", "happiness", "ravdess-13", "male"),
    ("ravdess", "Actor_24/03-01-04-01-02-02-24.wav", "sadness", "ravdess-24", "female"),
    ("ravdess", "Actor_07/03-01-05-02-01-02-07.wav", "anger", "ravdess-07", "male"),
    ("ravdess", "Actor_08/03-01-06-01-01-01-08.wav", "fear", "ravdess-08", "female"),
    ("ravdess", "Actor_09/03-01-07-01-01-01-09.wav", "disgust", "ravdess-09", "male"),
    ("ravdess", "Actor_10/03-01-08-02-02-02-10.wav", "surprise", "ravdess-10", "female"),
    # Cao et al. 2014: actor, sentence, emotion, level. One file of the release has a level of one letter.
    ("crema-d", "AudioWAV/1001_DFA_ANG_XX.wav", "anger", "crema-d-1001", "male"),
    ("crema-d", "AudioWAV/1001_IEO_DIS_LO.wav", "disgust", "crema-d-1001", "male"),
    ("crema-d", "AudioWAV/1002_IEO_FEA_HI.wav", "fear", "crema-d-1002", "female"),
    ("crema-d", "AudioWAV/1002_TAI_HAP_MD.wav", "happiness", "crema-d-1002", "female"),
    ("crema-d", "AudioWAV/1091_WSI_NEU_XX.wav", "neutral", "crema-d-1091", ""),
    ("crema-d", "AudioWAV/1040_ITH_SAD_X.wav", "sadness", "crema-d-1040", ""),
    # Pichora-Fuller and Dupuis 2020: older and younger actress. One file of the release lacks the F.
    ("tess", "OAF_Pleasant_surprise/OAF_back_ps.wav", "surprise", "tess-oa", "female"),
    ("tess", "OAF_neutral/OA_bite_neutral.wav", "neutral", "tess-oa", "female"),
    ("tess", "YAF_happy/YAF_youth_happy.wav", "happiness", "tess-ya", "female"),
    ("tess", "YAF_fear/YAF_neat_fear.wav", "fear", "tess-ya", "female"),
    ("tess", "YAF_angry/YAF_chain_angry.wav", "anger", "tess-ya", "female"),
    ("tess", "YAF_disgust/YAF_chain_disgust.wav", "disgust", "tess-ya", "female"),
    ("tess", "YAF_sad/YAF_chain_sad.wav", "sadness", "tess-ya", "female"),
    # Burkhardt et al. 2005: speaker, text, initial of the German word for the emotion, version.
    ("emo-db", "wav/03a01Wa.wav", "anger", "emo-db-03", "male"),
    ("emo-db", "wav/08a05Lb.wav", "boredom", "emo-db-08", "female"),
    ("emo-db", "wav/10b01Ea.wav", "disgust", "emo-db-10", "male"),
    ("emo-db", "wav/16b10Aa.wav", "fear", "emo-db-16", "female"),
    ("emo-db", "wav/15a07Fa.wav", "happiness", "emo-db-15", "male"),
    ("emo-db", "wav/09a02Tb.wav", "sadness", "emo-db-09", "female"),
    ("emo-db", "wav/11b03Nd.wav", "neutral", "emo-db-11", "male"),
    # Costantini et al. 2014: emotion in Italian, speaker, sentence.
    ("emovo", "f1/dis-f1-b1.wav", "disgust", "emovo-f1", "female"),
    ("emovo", "f2/gio-f2-d1.wav", "happiness", "emovo-f2", "female"),
    ("emovo", "f3/neu-f3-l1.wav", "neutral", "emovo-f3", "female"),
    ("emovo", "m1/pau-m1-l4.wav", "fear", "emovo-m1", "male"),
    ("emovo", "m2/rab-m2-n1.wav", "anger", "emovo-m2", "male"),
    ("emovo", "m3/sor-m3-n5.wav", "surprise", "emovo-m3", "male"),
    ("emovo", "m3/tri-m3-b2.wav", "sadness", "emovo-m3", "male"),
    # Haq and Jackson 2009: speaker, emotion, sentence.
    ("savee", "DC_a01.wav", "anger", "savee-dc", "male"),
    ("savee", "JE_d15.wav", "disgust", "savee-je", "male"),
    ("savee", "JK_f07.wav", "fear", "savee-jk", "male"),
    ("savee", "KL_h02.wav", "happiness", "savee-kl", "male"),
    ("savee", "KL_n30.wav", "neutral", "savee-kl", "male"),
    ("savee", "KL_sa11.wav", "sadness", "savee-kl", "male"),
    ("savee", "DC_su12.wav", "surprise", "savee-dc", "male"),
    # Buhl 2023: contributor, category out of 30, take.
    ("emogator", "data/mp3/000001-02-1.mp3", "happiness", "emogator-000001", ""),
    ("emogator", "data/mp3/000017-03-2.mp3", "anger", "emogator-000017", ""),
    ("emogator", "data/mp3/000365-10-3.mp3", "disgust", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-13-1.mp3", "happiness", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-15-1.mp3", "fear", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-24-1.mp3", "sadness", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-27-1.mp3", "surprise", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-28-1.mp3", "surprise", "emogator-000365", ""),
    ("emogator", "data/mp3/000365-01-1.mp3", "emogator-01", "emogator-000365", ""),
    # Christop 2024: a table of labels beside the samples.
    ("nemo", "samples/WR0_surprised_64.wav", "surprise", "nemo-wr0", "male"),
    ("nemo", "samples/EB0_anger_13.wav", "anger", "nemo-eb0", "female"),
    ("nemo", "samples/EB0_neutral_13.wav", "neutral", "nemo-eb0", "female"),
]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All eight, each in a folder of its own, with the files that their owners put beside the audio."""
    tmp_path = tmp_path_factory.mktemp("downloads")
    for corpus, file, *_ in PUBLISHED:
        touch(tmp_path / corpus, file)
    (tmp_path / "crema-d" / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
    )
    (tmp_path / "nemo" / "data.tsv").write_text(
        "file_id\temotion\tsentence_id\tspeaker_id\tgender\tage\n"
        "WR0_surprised_64.wav\tsurprised\t64\tWR0\tmale\t23\n"
        "EB0_anger_13.wav\tanger\t13\tEB0\tfemale\t27\n"
        "EB0_neutral_13.wav\tneutral\t13\tEB0\tfemale\t27\n"
    )
    touch(tmp_path / "tess", "readme.txt")
    touch(tmp_path / "ravdess", ".hidden/03-01-05-01-01-01-01.wav")
    return tmp_path


@pytest.mark.parametrize(("corpus", "file", "emotion", "speaker", "sex"), PUBLISHED, ids=[row[1] for row in PUBLISHED])
@pytest.mark.parametrize("named", [True, False], ids=["named", "detected"])
def test_a_published_name_tells_emotion_speaker_and_sex(
    downloads: Path, corpus: str, file: str, emotion: str, speaker: str, sex: str, named: bool
) -> None:
    clip = read(downloads / corpus, corpus if named else None)[file]
    assert (clip.emotion, clip.speaker, clip.sex, clip.corpus) == (emotion, speaker, sex, corpus)


def test_a_folder_of_corpora_is_read_corpus_by_corpus(downloads: Path) -> None:
    counts = Counter(clip.corpus for clip in read(downloads).values())
    assert counts == Counter(row[0] for row in PUBLISHED)


def test_categories_stay_finer_than_emotions(downloads: Path) -> None:
    clips = read(downloads / "emogator")
    surprises = {clip.category for clip in clips.values() if clip.emotion == "surprise"}
    assert surprises == {"27", "28"}


def test_songs_of_ravdess_are_not_speech(tmp_path: Path) -> None:
    touch(tmp_path, "03-01-05-01-01-01-01.wav", "03-02-05-01-01-01-01.wav")
    assert list(read(tmp_path, "ravdess")) == ["03-01-05-01-01-01-01.wav"]


def test_every_other_name_of_an_emotion_means_one_emotion() -> None:
    names = [name for emotion, others in EMOTIONS.items() for name in (emotion, *others)]
    assert len(set(names)) == len(names)
    assert canonical_emotion(" Pleasant_Surprise ") == "surprise"
    assert canonical_emotion("hunger") is None


def test_what_a_scan_finds_is_read(tmp_path: Path) -> None:
    """Linked folders, and every suffix that the reader knows."""
    touch(tmp_path / "elsewhere", "03-01-05-01-01-01-02.wav", "03-01-05-01-01-02-02.oga")
    folder = touch(tmp_path / "download", "Actor_01/03-01-05-01-01-01-01.caf")
    (folder / "Actor_02").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert set(read(folder)) == {
        "Actor_01/03-01-05-01-01-01-01.caf",
        "Actor_02/03-01-05-01-01-01-02.wav",
        "Actor_02/03-01-05-01-01-02-02.oga",
    }


def test_folders_of_ones_own_give_speakers_by_the_leading_token(tmp_path: Path) -> None:
    names = ("angry/ann_1.wav", "angry/bob_1.wav", "Happy/ann_2.wav", "sad/bob-2.wav", "sad/notes.txt")
    found = {file: (clip.emotion, clip.speaker) for file, clip in read(touch(tmp_path / "mine", *names)).items()}
    # A speaker carries the name of the collection: ann of another one is somebody else.
    assert found == {
        "angry/ann_1.wav": ("anger", "mine-ann"),
        "angry/bob_1.wav": ("anger", "mine-bob"),
        "Happy/ann_2.wav": ("happiness", "mine-ann"),
        "sad/bob-2.wav": ("sadness", ""),
    }


def test_a_list_of_speakers_is_believed_over_names(tmp_path: Path) -> None:
    folder = touch(tmp_path / "mine", "anger/ann_1.wav", "fear/x1.wav", "fear/cleo_9.wav")
    rows = [".\\anger\\ANN_1.wav;Anna;f", f"{folder}/fear/x1.wav;Ben;MALE"]
    (folder / "speakers.csv").write_text("\r\n".join(["Filename;Speaker;Sex", *rows]), encoding="utf-16")
    clips = read(folder)
    assert (clips["anger/ann_1.wav"].speaker, clips["anger/ann_1.wav"].sex) == ("mine-Anna", "female")
    assert (clips["fear/x1.wav"].speaker, clips["fear/x1.wav"].sex) == ("mine-Ben", "male")
    assert clips["fear/cleo_9.wav"].speaker == "mine-cleo"


@pytest.mark.parametrize(
    ("stems", "speakers"),
    [
        (["001_take", "002_take", "003_take"], ["", "", ""]),
        (["12_a", "12_b", "7_a"], ["12", "12", "7"]),
        ([f"p{number:04}_x" for number in range(1000)], [f"p{number:04}" for number in range(1000)]),
        (["call0_30", "call0_60", "call12_0"], ["", "", ""]),
        (["clip_1", "Take-3_x", "utt001_b"], ["", "", ""]),
        (["anger_1", "fear2_x", "Happy_3"], ["", "", ""]),
        (["ann_1_2", "bob", "_x"], ["ann", "", ""]),
    ],
)
def test_who_speaks_is_told_from_what_numbers_the_takes(stems: list[str], speakers: list[str]) -> None:
    assert speakers_of(stems) == speakers


@pytest.mark.parametrize(
    ("speaker", "corpus"),
    [("ravdess-01", "ravdess"), ("crema-d-1001", "crema-d"), ("emo-db-03", "emo-db"), ("ann", "mine")],
)
def test_sorted_downloads_keep_their_corpus_and_licence(tmp_path: Path, speaker: str, corpus: str) -> None:
    folder = touch(tmp_path / "mine", f"anger/{speaker}_1.wav", f"fear/{speaker}_2.wav")
    assert {clip.corpus for clip in read(folder).values()} == {corpus}


def test_a_label_file_may_use_any_of_the_usual_column_names(tmp_path: Path) -> None:
    touch(tmp_path / "calls", "a.wav", "b.wav")
    (tmp_path / "calls" / "labels.csv").write_text("filename,label,actor,gender\na.wav,Angry,7,F\nb,contempt,8,M\n")
    clips = read(tmp_path / "calls")
    assert (clips["a.wav"].emotion, clips["a.wav"].speaker, clips["a.wav"].corpus) == ("anger", "calls-7", "calls")
    assert clips["b.wav"].emotion == "contempt"


@pytest.mark.parametrize(
    ("files", "labels", "name", "error", "words"),
    [
        ({"anger/a_1.wav"}, None, "ravdes", DataError, ("'ravdes'", "Did you mean 'ravdess'", "emo-db")),
        ({"anger/a_1.wav"}, None, "tess", DataError, ("No clip of TESS", "1 named otherwise")),
        ({"a.wav"}, None, None, DataError, ("looks like none of the known corpora", "--corpus NAME=")),
        ({"a.txt"}, None, None, DataError, ("holds no audio files",)),
        ({"agner/a_1.wav", "fear/a_2.wav"}, None, None, DataError, ("agner", "Did you mean 'anger'", "Rename")),
        ({"anger/a.wav", "fear/.keep"}, None, None, DataError, ("fear", "holds no audio")),
        ({"a.wav"}, "file,emotion\na.wav,fear\n", None, DataError, ("labels.csv", "'speaker'", "file, emotion")),
        ({"a.wav"}, "file,emotion,speaker\nb.wav,fear,1\n", None, DataError, ("'b.wav'", "labels.csv")),
        ({"a.wav"}, None, "nemo", DataError, ("No labels.tsv", "data.tsv")),
        (set(), None, None, InputError, ("does not exist",)),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_cure(
    tmp_path: Path, files: set[str], labels: str | None, name: str | None, error: type[Exception], words: tuple[str]
) -> None:
    folder = touch(tmp_path / "data", *files) if files else tmp_path / "data"
    if labels:
        (folder / "labels.csv").write_text(labels)
    with pytest.raises(error) as caught:
        read(folder, name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_label_file_of_excel_is_read(tmp_path: Path) -> None:
    touch(tmp_path / "calls", "sub/a.wav", "b.wav")
    text = "Datei;File;Label;Speaker\r\n1;sub\\a.wav;Fear;Jürgen\r\n2;b;rudeness;007\r\n"
    (tmp_path / "calls" / "labels.csv").write_bytes(text.encode("cp1252"))
    reading = read_corpus(tmp_path / "calls", BUILT_IN_CORPORA)
    assert [(clip.emotion, clip.speaker) for clip in reading.clips] == [
        ("rudeness", "calls-007"),
        ("fear", "calls-jürgen"),
    ]
    assert any("read as Windows-1252" in line for line in reading.lines())


@pytest.mark.corpora
def test_the_real_corpora_are_recognised_whole(corpora_dir: Path) -> None:
    clips = read(corpora_dir).values()
    assert Counter(clip.corpus for clip in clips) == {
        "ravdess": 1200,
        "nemo": 3403,
        # Three contributors gave the same file twice.
        "emogator": 4859,
        "emo-db": 535,
        "emovo": 588,
        "savee": 480,
        "tess": 938,
    }
    speakers = Counter(corpus for corpus, _ in {(clip.corpus, clip.speaker) for clip in clips})
    assert speakers == {"ravdess": 20, "nemo": 7, "emogator": 286, "emo-db": 10, "emovo": 6, "savee": 4, "tess": 2}


def test_a_reader_that_breaks_is_named(tmp_path: Path) -> None:
    def read_badly(folder: Path) -> list[LabelledClip]:
        raise KeyError("mood")

    own = Corpus("mine", "My corpus", "", "", "", read_badly, lambda folder, names: True)
    with pytest.raises(PluginError, match=r"Plugin 'moods': corpus 'mine' failed on .*KeyError: 'mood'"):
        read_corpus(tmp_path, [check_corpus("moods", own)], "mine")


def test_a_reader_that_gives_something_else_is_named(tmp_path: Path) -> None:
    own = Corpus("mine", "My corpus", "", "", "", lambda folder: ["a.wav"], lambda folder, names: True)  # type: ignore[list-item]
    with pytest.raises(PluginError, match=r"Plugin 'moods': corpus 'mine' gave 'a.wav', which is no LabelledClip"):
        read_corpus(tmp_path, [check_corpus("moods", own)], "mine")
