"""What is done again: what changed, what PyAV reads now, and not what merely could not be looked at."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ser_batch.run import plan
from ser_batch.run.plan import Index, IndexedRows, make_plan, part_size
from ser_batch.stages import found as found_files
from ser_batch.stages.discover import NOT_SEEN_NS, Found
from ser_batch.stages.found import FoundFiles, Row

IDS = ["a.wav", "closed/b.wav", "closed/c.m4a", "closer.wav", "gone.wav"]
READERS = ["libsndfile 1.2.2", "PyAV 1.0", "PyAV", "", "libsndfile 1.2.2"]


def index(vanished=(False,) * 5) -> Index:
    parts = {}
    for part, rows in ((0, [0, 1]), (1, [2]), (2, [3, 4])):
        parts[part] = IndexedRows(
            clip_ids=pa.array([IDS[row] for row in rows], pa.string()),
            size_bytes=np.ones(len(rows), np.int64),
            mtime_ns=np.ones(len(rows), np.int64),
            status=np.array(["ok", "ok", "skipped", "failed", "ok"])[rows],
            vanished=np.array(vanished)[rows],
            reader=np.array(READERS)[rows],
            out_of_reach=np.zeros(len(rows), bool),
            segments_key=np.zeros(len(rows), np.int64),
            etag_key=np.zeros(len(rows), np.int64),
        )
    return Index.of(parts)


def found(ids: list[str], unlisted: list[str] | None = None) -> Found:
    return Found("/root", FoundFiles(Row(clip_id, "", 1, 1) for clip_id in ids), unlisted=unlisted or [])


def marked(made: plan.Plan) -> list[str]:
    return [name for shard in made.shards() for name in shard.vanished.to_pylist()]


def test_files_below_a_folder_that_could_not_be_listed_stay_as_they_were():
    seen = ["a.wav", "closer.wav"]
    assert marked(make_plan(found(seen), index(), 10)) == ["closed/b.wav", "closed/c.m4a", "gone.wav"]
    assert marked(make_plan(found(seen, ["closed/"]), index(), 10)) == ["gone.wav"]
    assert marked(make_plan(found(seen, [""]), index(), 10)) == []
    was_gone = index((False, True, False, False, True))
    made = make_plan(found(seen, ["closed/"]), was_gone, 10)
    assert made.is_empty, "what was marked stays marked, and no part is touched"


@pytest.mark.parametrize(
    ("installed", "again"),
    [("", []), ("PyAV 1.0", ["closed/c.m4a"]), ("PyAV 2.0", ["closed/b.wav", "closed/c.m4a"])],
)
def test_pyav_takes_up_what_waited_for_it_and_what_another_version_read(monkeypatch, installed, again):
    monkeypatch.setattr(plan, "pyav_reader", lambda: installed)
    made = make_plan(found(IDS), index(), 10)
    assert [ref.clip_id for shard in made.shards() for ref in shard.refs] == again


def test_parts_that_reach_into_each_other_are_compared_as_a_table_would_be(monkeypatch):
    """Held against a plain loop, with parts of several scans that interleave, over many small chunks."""
    monkeypatch.setattr(found_files, "_CHUNK_ROWS", 7)
    generator = np.random.default_rng(4)
    names = sorted(f"{number:03d}.wav" for number in range(200))
    for _ in range(20):
        of_part = generator.integers(-1, 6, len(names))  # -1: in no part
        of_part[50:100] = 2  # one that lies together
        is_there, changed = generator.random(len(names)) < 0.9, generator.random(len(names)) < 0.2
        was_gone, is_hidden = generator.random(len(names)) < 0.1, generator.random(len(names)) < 0.1
        outdated = {5} if generator.random() < 0.5 else set()
        parts = {}
        for part in range(6):
            rows = np.flatnonzero(of_part == part)
            words = np.array(["ok"] * len(rows))
            numbers = np.ones(len(rows), np.int64)
            ids, nothing = pa.array([names[row] for row in rows], pa.string()), np.zeros(len(rows), np.int64)
            marks = (words, np.zeros(len(rows), bool), nothing, nothing)
            parts[part] = IndexedRows(ids, numbers, numbers, words, was_gone[rows], *marks)
        rows = [
            Row(name, "", 2 if changed[place] else 1, NOT_SEEN_NS if is_hidden[place] else 1)
            for place, name in enumerate(names)
            if is_there[place]
        ]
        made = make_plan(Found("/root", FoundFiles(rows)), Index.of(parts, outdated), 30)
        again, gone, new = {part: [] for part in range(6)}, {part: [] for part in range(6)}, []
        touched, held = set(outdated), set()
        for place, name in enumerate(names):
            part = int(of_part[place])
            if part < 0:
                new += [name] if is_there[place] else []
                continue
            is_gone = was_gone[place] if is_there[place] and is_hidden[place] else not is_there[place]
            if is_gone:
                gone[part].append(name)
            if is_gone != was_gone[place]:
                touched.add(part)
            if is_there[place] and not is_hidden[place] and (changed[place] or part in outdated):
                again[part].append(name)
                touched.add(part)
            if part in outdated and is_there[place] and is_hidden[place] and not is_gone:
                held.add(part)
        shards = list(made.shards())
        assert made.held == sorted(held)
        rewritten = {shard.part: shard for shard in shards if shard.is_rewrite}
        assert set(rewritten) == touched - held
        for part, shard in rewritten.items():
            assert [ref.clip_id for ref in shard.refs] == again[part]
            assert shard.vanished.to_pylist() == gone[part]
            assert len(shard.lost) == (len(gone[part]) if part in outdated else 0)
        fresh = [shard for shard in shards if not shard.is_rewrite]
        assert [ref.clip_id for shard in fresh for ref in shard.refs] == new
        assert [shard.part for shard in fresh] == list(range(6, 6 + len(fresh)))
        assert made.n_files == sum(len(shard.refs) for shard in shards)
        chosen = made.found.only(made.positions())
        assert list(chosen.clip_ids) == sorted(ref.clip_id for shard in shards for ref in shard.refs)


def test_parts_grow_with_the_archive_and_stay_as_they_are_in_small_ones():
    n_files = 0, 256, 1_000_000, 2_000_000, 10_000_000, 10**9
    assert [part_size(n, 4_096) for n in n_files] == [256, 256, 256, 512, 4096, 4096]
    assert [part_size(n, 1_024) for n in n_files] == [256, 256, 1024, 2048, 4096, 4096]
