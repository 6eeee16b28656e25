"""Objects of a real S3 server: listed, fetched, and what goes wrong in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from s3_server import SECRET_KEY, Store

from ser_batch.errors import InputError
from ser_batch.records import ClipOutcome, Status
from ser_batch.stages import measure
from ser_batch.stages.discover import NOT_SEEN_NS, FileList, Found, discover
from ser_batch.stages.measure import estimate_audio_s
from ser_batch.stages.reach import Archive, can_be_read, probes_of
from ser_batch.storage import objects, places
from ser_batch.storage.address import Address

TREE = {
    "a/one.wav": b"1",
    "a/one.srt": b"1\n",
    "a/two.FLAC": b"22",
    "a/.hidden.wav": b"",
    "b/.cache/x/three.wav": b"",
    "b/.cache/four.wav": b"",
    "b/@eaDir/five.wav": b"",
    "b/c/ü is? [6].wav": b"666666",
    "b/notes.txt": b"",
    "seven.wav": b"7",
}


def write(tree: dict[str, bytes], folder: Path) -> Path:
    for name, data in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def facts(found: Found) -> tuple[object, ...]:
    refs = map(found.ref, range(len(found)))
    segments = {ref.clip_id: [Path(path).name for path in ref.segments.paths] for ref in refs if ref.segments}
    counts = found.n_hidden, found.n_unmatched, found.n_system
    return found.clip_ids, list(found.sizes_bytes), segments, counts, found.unlisted


@pytest.mark.parametrize("page", [1_000, 3])
@pytest.mark.parametrize(("include", "exclude"), [((), ()), (("*.wav",), ("c/*", "b/c/*")), (("*.txt",), ())])
def test_a_prefix_is_listed_as_a_folder_is(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
    include: Sequence[str],
    exclude: Sequence[str],
) -> None:
    monkeypatch.setattr(objects, "_PAGE", page)
    store.put_folder(write(TREE, tmp_path / "tree"), "the/tree")
    store.put("the/tree/", b"")
    store.put("the/trees/other.wav", b"")
    on_disk = discover([tmp_path / "tree"], include, exclude, with_segments=True)
    in_bucket = discover([f"{store.url}/the/tree/"], include, exclude, with_segments=True)
    assert facts(in_bucket) == facts(on_disk)
    assert in_bucket.root == f"{store.url}/the/tree"
    ref = in_bucket.ref(0)
    assert ref.path == f"{in_bucket.root}/{ref.clip_id}"
    assert ref.etag.startswith('"') and ref.mtime_ns != NOT_SEEN_NS


def test_several_prefixes_and_objects_have_the_root_that_folders_would_have(store: Store, tmp_path: Path) -> None:
    tree = write(TREE, tmp_path)
    store.put_folder(tree, "tree")
    names = ["a", "b/c", "b/notes.txt"]
    on_disk = discover([tree / name for name in names])
    in_bucket = discover([f"{store.url}/tree/{name}" for name in names])
    assert facts(in_bucket)[:2] == facts(on_disk)[:2]
    assert "b/notes.txt" in in_bucket.clip_ids  # named, so taken whatever its suffix
    assert in_bucket.root == f"{store.url}/tree"


def test_a_list_names_objects_and_one_that_is_missing_is_not_seen(store: Store) -> None:
    for name in ("a/one.wav", "a/one.srt", "b/two.wav"):
        store.put(name, b"some")
    urls = tuple(f"{store.url}/{name}" for name in ("b/two.wav", "a/one.wav", "a/gone.wav"))
    found = discover(FileList(urls, "list"), with_segments=True)
    assert found.clip_ids == ["a/gone.wav", "a/one.wav", "b/two.wav"]
    assert [time_ns == NOT_SEEN_NS for time_ns in found.mtimes_ns] == [True, False, False]
    assert [bool(found.ref(place).etag) for place in range(len(found))] == [False, True, True]
    assert found.segments["a/one.wav"].paths == (f"{store.url}/a/one.srt",)


def test_a_folder_with_a_name_that_cannot_be_read_costs_itself(store: Store) -> None:
    for name in ("a/one.wav", "a/two.wav", "b/c//three.wav", "b/d/four.wav"):
        store.put(name, b"some")
    found = discover([store.url])
    assert found.clip_ids == ["a/one.wav", "a/two.wav", "b/d/four.wav"]
    assert found.unlisted == ["b/c/"]
    (said,) = found.unreadable
    assert said.startswith(f"{store.url}/b/c: an object has a name with an empty part, or one of dots alone: b/c//")


def test_a_store_that_goes_away_in_the_middle_of_a_listing_ends_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_PATIENT", objects._IMPATIENT)
    monkeypatch.setattr(objects, "_PAGE", 2)
    monkeypatch.setattr(objects, "_N_LISTINGS", 2)
    for number in range(12):
        store.put(f"{number % 4}/{number}.wav", b"some")
    places._bucket.cache_clear()
    assert len(discover([store.url])) == 12
    n_before = len(store.front.seen)
    store.front.answer = lambda method, path: 501 if len(store.front.seen) > n_before + 3 else None
    with pytest.raises(InputError, match="cannot be listed: the store answers 501"):
        discover([store.url])
    store.front.answer = lambda method, path: 403 if len(store.front.seen) == n_limit else None
    store.front.seen.clear()
    n_limit = 4
    found = discover([store.url])
    assert len(found) == 9 and len(found.unlisted) == 1
    places._bucket.cache_clear()


def test_an_archive_in_a_bucket_that_is_gone_is_told_from_an_object_that_is(store: Store) -> None:
    for name in ("one.wav", "two.wav"):
        store.put(name, b"some")
    found = discover([store.url])
    lost = [
        ClipOutcome(found.ref(0), Status.FAILED, "decode", kind, "some reason")
        for kind in ("FileNotFoundError", "ConnectionError")
    ]
    archive = Archive(found.root, probes_of(found))
    archive.check(lost)
    # Who may read objects need not be allowed to list them.
    store.front.answer = lambda method, path: 403 if path.count("/") == 1 else None
    archive.check(lost)
    store.front.answer = lambda method, path: 404 if method == "HEAD" else None
    with pytest.raises(InputError, match=r"can no longer be read: none of its files can be looked at .*some reason"):
        archive.check(lost)
    assert not can_be_read(found.ref(0).path)
    store.front.answer = lambda method, path: None
    assert can_be_read(found.ref(0).path)
    for name in ("one.wav", "two.wav"):
        store.delete(name)
    with pytest.raises(InputError, match="its folder is gone"):
        archive.check(lost)


def test_a_long_object_is_read_in_ranges_of_one_version(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_RANGE_BYTES", 1_000)
    data = os.urandom(3_500)
    store.put("long.wav", data)
    ref = discover([store.url]).ref(0)
    bucket = places.bucket_of(Address.of(store.url))
    store.front.seen.clear()
    path = bucket.local(ref.path, ref.size_bytes, ref.etag, tmp_path)
    assert Path(path).read_bytes() == data
    assert Path(path).name == "long.wav"
    assert len(store.front.seen) == 4

    def replaced(method: str, path: str) -> None:
        if len(store.front.seen) == 2:
            store.put("long.wav", data[::-1])

    store.front.answer, store.front.seen = replaced, []
    with pytest.raises(OSError, match="the object was replaced after it was listed"):
        bucket.local(ref.path, ref.size_bytes, ref.etag, tmp_path)
    with pytest.raises(OSError, match="the object was replaced after it was listed"):
        bucket.local(ref.path, 4, "", tmp_path)  # told by its size, where the store gives no versions
    assert not list(tmp_path.iterdir())


def test_hours_are_estimated_from_headers_that_are_fetched(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, length_s in enumerate((1, 2, 9)):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(8_000 * length_s), 8_000)
    (tmp_path / "broken.flac").write_bytes(b"none")
    store.put_folder(tmp_path, "a")
    on_disk, in_bucket = discover([tmp_path]), discover([store.url])
    assert estimate_audio_s(in_bucket) == estimate_audio_s(on_disk) == {".wav": pytest.approx(12)}
    monkeypatch.setattr(measure, "_FETCHED_BYTES", 50_000)
    store.front.seen.clear()
    assert estimate_audio_s(in_bucket) == {".wav": pytest.approx(12, rel=0.01)}
    assert not [path for _, path in store.front.seen if path.endswith("2.wav")]


def test_a_store_that_is_busy_is_asked_again(store: Store, tmp_path: Path) -> None:
    store.put("a.wav", b"some")
    ref = discover([store.url]).ref(0)
    statuses = iter([500, 503, 503])
    store.front.answer = lambda method, path: next(statuses, None)
    path = places.storage_of(ref.path).local(ref.path, ref.size_bytes, ref.etag, tmp_path)
    assert Path(path).read_bytes() == b"some"
    assert next(statuses, None) is None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, r"cannot be listed: access is denied \(403\)\. AWS_ACCESS_KEY_ID"),
        (301, r"cannot be listed: the store refuses\. Is the bucket in another region\? AWS_REGION names it\."),
        (400, r"cannot be listed: the store refuses \(400\)\."),
        (501, r"cannot be listed: the store answers 501, also when asked again\."),
    ],
)
def test_a_store_that_refuses_is_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    monkeypatch.setattr(objects, "_PATIENT", objects._IMPATIENT)
    places._bucket.cache_clear()
    store.front.answer = lambda method, path: status
    with pytest.raises(InputError, match=said) as caught:
        discover([f"{store.url}/tapes"])
    assert "\n" not in str(caught.value) and SECRET_KEY not in str(caught.value)


def test_what_is_not_there_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket/a cannot be listed: there is no such bucket\."):
        discover(["s3://no-such-bucket/a"])
    with pytest.raises(InputError, match=r"Input s3://.*/nothing does not exist"):
        discover([f"{store.url}/nothing"])
    with pytest.raises(InputError, match="paths, or addresses of one bucket"):
        discover([store.url, "/tmp"])
    with pytest.raises(InputError, match="paths, or addresses of one bucket"):
        discover([store.url, "s3://another"])
    monkeypatch.setattr(objects, "_PATIENT", objects._IMPATIENT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    places._bucket.cache_clear()
    with pytest.raises(InputError, match=r"cannot be listed: the store cannot be reached\."):
        discover([store.url])
    places._bucket.cache_clear()


def test_credentials_of_files_are_found_by_boto3_and_missing_ones_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    store.put("a.wav", b"some")
    keys = f"aws_access_key_id = AKIA\naws_secret_access_key = {SECRET_KEY}\n"
    (tmp_path / "credentials").write_text(f"[tapes]\n{keys}[empty]\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for profile, said in (
        ("tapes", ""),
        ("empty", "no credentials were found"),
        ("other", "profile .other. could not"),
    ):
        places._bucket.cache_clear()
        monkeypatch.setenv("AWS_PROFILE", profile)
        if not said:
            assert len(discover([store.url])) == 1
            continue
        with pytest.raises(InputError, match=said):
            discover([store.url])
    places._bucket.cache_clear()


def test_a_missing_extra_is_one_line() -> None:
    code = """
import sys
sys.modules["obstore"] = None
from ser_batch.cli.main import main
sys.exit(main(["features", "s3://bucket/tapes", "-o", "run"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert result.stderr == 'Error: s3://bucket is read by obstore: pip install "ser-batch[cloud]"\n'


def test_a_version_is_the_same_whether_it_was_listed_or_looked_up() -> None:
    """Azure gives tags without quotes in its listings, and with them elsewhere."""
    meta = {"path": "one.wav", "size": 1, "last_modified": None, "e_tag": "0x8DE"}
    assert objects._listed(meta) == objects._listed(meta | {"e_tag": '"0x8DE"'})
    assert objects._version(meta).etag == '"0x8DE"'
    assert objects._listed(meta | {"e_tag": 'W/"0x8DE"'}).etag == 'W/"0x8DE"'
    assert objects._listed(meta | {"e_tag": None}).etag == ""


def test_a_library_that_does_not_know_a_request_is_not_a_store_that_cannot_be_reached(store: Store) -> None:
    bucket = places.bucket_of(Address.of(store.url))
    with pytest.raises(OSError, match=r'^obstore [\d.]+ does not know the request \(.*\); pip install -U "ser-batch'):
        bucket.swap("one.wav", b"", objects.Version(etag=7, version=None))  # type: ignore[arg-type]
