"""What is done again: what changed, what PyAV reads now, and not what merely could not be looked at."""

from __future__ import annotations

from array import array

import numpy as np
import pyarrow as pa
import pytest

from ser_batch.run import plan
from ser_batch.run.plan import Index, make_plan
from ser_batch.stages.discover import Found

IDS = ["a.wav", "closed/b.wav", "closed/c.m4a", "closer.wav", "gone.wav"]
READERS = ["libsndfile 1.2.2", "PyAV 1.0", "PyAV", "", "libsndfile 1.2.2"]


def index(vanished=(False,) * 5) -> Index:
    return Index(
        clip_ids=pa.array(IDS, pa.string()),
        size_bytes=np.ones(5, np.int64),
        mtime_ns=np.ones(5, np.int64),
        status=np.array(["ok", "ok", "skipped", "failed", "ok"]),
        vanished=np.array(vanished),
        part=np.array([0, 0, 1, 2, 2]),
        reader=np.array(READERS),
        out_of_reach=np.zeros(5, bool),
        is_current=np.ones(5, bool),
        segments_key=np.zeros(5, np.int64),
        etag_key=np.zeros(5, np.int64),
    )


def found(ids: list[str], unlisted: list[str] | None = None) -> Found:
    ones = array("q", [1] * len(ids))
    return Found("/root", ids, ones, ones, unlisted=unlisted or [])


def marked(made: plan.Plan) -> list[str]:
    return [IDS[row] for rows in made.vanished.values() for row in rows]


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
    assert [IDS[place] for places in made.rewrites.values() for place in places] == again
