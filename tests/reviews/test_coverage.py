"""The 95 % intervals of audits hold the truth about as often as they say: the short form of the benchmark."""

from __future__ import annotations

import sys

from repository import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from benchmarks.audit_coverage import coverage_of, made_up


def test_intervals_cover_where_predicted_shares_are_wrong() -> None:
    # Of 150 audits; the long form has a thousand of each archive.
    found = coverage_of(made_up("made up", 1), 150)
    assert 0.9 <= found.accuracy <= 0.99
    assert 0.93 <= found.shares <= 0.98
    assert found.uar >= 0.9
    assert found.shares_half_width < found.alone_half_width
    assert found.raw_outside > 0.5
