"""R5: jobs, batch size, shard size and order of files do not change results."""

from __future__ import annotations

import pytest
from harness import CONFIG, assert_same


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        CONFIG | {"run": {"shard_size": 1}},
        CONFIG | {"run": {"shard_size": 1000}, "predict": CONFIG["predict"] | {"batch_size": 1}},
    ],
    ids=["two-jobs", "shards-of-one", "one-shard"],
)
def test_how_the_work_is_cut_changes_no_result(scanner, corpus, reference, tmp_path, config):
    scanner.scan(corpus, tmp_path / "run", config=config)
    assert_same(tmp_path / "run", reference)
