"""Discovery: what is found, what is left out and counted, and under which names."""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path

import pytest

from ser_batch.errors import InputError
from ser_batch.stages.discover import FileList, discover, read_file_list


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * len(name))


def test_suffixes_match_in_any_case_and_hidden_and_other_files_are_counted(tmp_path):
    make(tmp_path, "b.WAV", "a/x.Mp3", "a/y.flac", "notes.txt", ".hidden.wav", ".cache/z.wav", "a/.z.wav", "noext")
    found = discover([tmp_path])
    assert found.clip_ids == ["a/x.Mp3", "a/y.flac", "b.WAV"]
    assert list(found.sizes_bytes) == [len(name) for name in found.clip_ids]
    assert (found.n_hidden, found.n_unmatched) == (3, 2)
    assert found.by_suffix() == {".wav": 1, ".mp3": 1, ".flac": 1}
    ref = found.ref(2)
    assert ref.path == str(tmp_path / "b.WAV") and ref.mtime_ns == (tmp_path / "b.WAV").stat().st_mtime_ns


def test_clip_ids_are_sorted_as_strings_whatever_the_folders(tmp_path):
    make(tmp_path, "a/z.wav", "a-b/a.wav", "a.wav", "B.wav")
    assert discover([tmp_path]).clip_ids == sorted(["a/z.wav", "a-b/a.wav", "a.wav", "B.wav"])


def test_patterns_match_the_path_or_without_a_slash_the_name(tmp_path):
    make(tmp_path, "one/keep_1.wav", "one/drop_1.wav", "two/keep_2.wav", "two/sub/keep_3.wav")
    assert discover([tmp_path], include=["keep_*"]).clip_ids == [
        "one/keep_1.wav",
        "two/keep_2.wav",
        "two/sub/keep_3.wav",
    ]
    assert discover([tmp_path], include=["two/*"], exclude=["*_3.wav"]).clip_ids == ["two/keep_2.wav"]
    assert discover([tmp_path], exclude=["two/*", "drop*"]).clip_ids == ["one/keep_1.wav"]


def test_an_include_that_names_a_suffix_makes_it_one_of_audio(tmp_path):
    make(tmp_path, "a.m4a", "b.wav", "c.txt")
    assert discover([tmp_path], include=["*.m4a"]).clip_ids == ["a.m4a"]


def test_links_to_folders_do_not_loop_and_give_a_folder_its_own_name(tmp_path):
    make(tmp_path, "zz/real/a.wav", "b.wav")
    (tmp_path / "zz" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "zz" / "real")
    (tmp_path / "link.wav").symlink_to(tmp_path / "b.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "missing")
    assert discover([tmp_path]).clip_ids == ["b.wav", "gone.wav", "link.wav", "zz/real/a.wav"]


def test_folders_named_like_audio_are_folders_and_special_files_no_audio(tmp_path):
    make(tmp_path, "take.wav/a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    found = discover([tmp_path])
    assert found.clip_ids == ["take.wav/a.wav"] and found.n_unmatched == 1


def test_names_that_are_not_utf8_keep_their_bytes_and_get_ids_of_their_own(tmp_path):
    raw = os.fsencode(tmp_path) + b"/\xe9.wav"
    for name in (raw, os.fsencode(tmp_path) + rb"/\xe9.wav"):
        with open(name, "wb"):  # noqa: PTH123 - names are bytes
            pass
    found = discover([tmp_path])
    assert found.clip_ids == [r"\xe9.wav", r"\xe9.wav~2"]
    paths = {os.fsencode(found.ref(index).path) for index in range(2)}
    assert paths == {raw, os.fsencode(tmp_path) + rb"/\xe9.wav"}


def test_several_inputs_share_a_root_and_no_file_is_taken_twice(tmp_path):
    make(tmp_path, "one/a.wav", "one/sub/b.wav", "two/c.bin")
    found = discover(
        [tmp_path / "one", tmp_path / "one" / "sub", tmp_path / "one" / "a.wav", tmp_path / "two" / "c.bin"]
    )
    assert found.root == str(tmp_path)
    assert found.clip_ids == ["one/a.wav", "one/sub/b.wav", "two/c.bin"], "a file given by name needs no suffix"


def test_one_file_has_its_folder_as_root(tmp_path):
    make(tmp_path, "deep/a.wav")
    found = discover([tmp_path / "deep" / "a.wav"])
    assert (found.root, found.clip_ids) == (str(tmp_path / "deep"), ["a.wav"])


def test_a_missing_or_forbidden_input_is_an_error_that_names_it(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        discover([tmp_path / "nowhere"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_said_and_the_rest_is_found(tmp_path):
    make(tmp_path, "closed/a.wav", "open/b.wav")
    (tmp_path / "closed").chmod(0)
    found = discover([tmp_path])
    (tmp_path / "closed").chmod(0o700)
    assert found.clip_ids == ["open/b.wav"]
    assert len(found.unreadable) == 1 and "closed" in found.unreadable[0]


def test_links_to_themselves_cost_themselves_alone(tmp_path):
    make(tmp_path, "a/before.wav", "a/z.wav", "a/deep/x.wav")
    (tmp_path / "a" / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "a" / "loop").symlink_to("loop")
    found = discover([tmp_path])
    assert found.clip_ids == ["a/before.wav", "a/deep/x.wav", "a/loop.wav", "a/z.wav"]
    assert len(found.unreadable) == 1 and "a/loop: Too many levels" in found.unreadable[0]
    assert found.unlisted == ["a/loop/"]


def test_an_error_at_one_entry_or_in_mid_folder_costs_nothing_beside_it(tmp_path, monkeypatch):
    """As root may look everywhere, the errors are put in where the system would raise them."""
    make(tmp_path, "a/1.wav", "a/2.wav", "a/sub/3.wav", "b/4.wav")
    (tmp_path / "a" / "closed").symlink_to(tmp_path / "b")
    scandir = os.scandir

    class Entry:
        def __init__(self, entry):
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def is_dir(self):
            if self.name == "closed":
                raise PermissionError(13, "Permission denied")
            return self._entry.is_dir()

        def __getattr__(self, name):
            return getattr(self._entry, name)

    class Entries:
        def __init__(self, path):
            self._path = str(path)

        def __enter__(self):
            with scandir(self._path) as entries:
                yield_last = sorted(entries, key=lambda entry: entry.name)
            self._entries = iter([Entry(entry) for entry in yield_last])
            return self

        def __exit__(self, *_):
            pass

        def close(self):
            pass

        def __iter__(self):
            yield from self._entries
            if self._path.endswith("/a"):
                raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", Entries)
    found = discover([tmp_path])
    assert found.clip_ids == ["a/1.wav", "a/2.wav", "a/sub/3.wav", "b/4.wav"]
    assert [text.rpartition(": ")[2] for text in found.unreadable] == ["Permission denied", "Input/output error"]
    assert found.unlisted == ["a/closed/", "a/"]


@pytest.mark.parametrize(
    "name", ["$RECYCLE.BIN", "$Recycle.Bin", "lost+found", "@eaDir", "System Volume Information", "__MACOSX"]
)
def test_folders_of_systems_are_left_out_and_counted(tmp_path, name):
    make(tmp_path, "a.wav", f"{name}/b.wav", f"deep/{name}/c.wav")
    found = discover([tmp_path])
    assert found.clip_ids == ["a.wav"] and found.n_system == 2
    assert discover([tmp_path / name]).clip_ids == ["b.wav"], "whoever names one wants it"


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lists_are_read_in_the_codings_that_editors_and_shells_write(tmp_path, monkeypatch, coding, ending):
    make(tmp_path, "a.wav", "sub/größe.wav")
    monkeypatch.chdir(tmp_path)
    text = ending.join(["a.wav", "sub/größe.wav", ""])
    mark = codecs.BOM_UTF16_LE if coding == "utf-16-le" else codecs.BOM_UTF16_BE if coding == "utf-16-be" else b""
    (tmp_path / "list").write_bytes(mark + text.encode(coding))
    found = discover(read_file_list(Path("list")))
    assert found.clip_ids == ["a.wav", "sub/größe.wav"] and list(found.sizes_bytes) == [5, 13]


def test_names_that_are_not_utf8_stay_as_they_are_in_a_list(tmp_path):
    (tmp_path / "list").write_bytes(b"\xe9.wav\nb.wav\n")
    assert [os.fsencode(path) for path in read_file_list(tmp_path / "list").paths] == [b"\xe9.wav", b"b.wav"]


@pytest.mark.parametrize(
    "content",
    [b"RIFF\x24\x01\x02\x03WAVEfmt \x10\0\0\0\x01", b"a.wav\n" + b"x" * 5_000, b"a.wav\n\x07\x08", bytes(range(256))],
    ids=["audio", "endless line", "control characters", "bytes"],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(InputError, match="is no list of files") as caught:
        read_file_list(tmp_path / "list")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_lists_of_files_may_name_what_is_missing(tmp_path, monkeypatch, separator):
    make(tmp_path, "a.wav", "sub/b.wav")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text(separator.join(["a.wav", str(tmp_path / "sub/b.wav"), "gone.wav", "a.wav"]))
    found = discover(read_file_list(Path("list")))
    assert found.clip_ids == ["a.wav", "gone.wav", "sub/b.wav"]
    assert list(found.sizes_bytes) == [5, 0, 9]


def test_an_empty_list_finds_nothing(tmp_path):
    assert len(discover(FileList((), "nothing"))) == 0


def test_a_deep_tree_needs_no_recursion(tmp_path):
    folder = tmp_path
    for _ in range(min(sys.getrecursionlimit(), 300)):
        folder = folder / "d"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"")
    assert len(discover([tmp_path])) == 1
