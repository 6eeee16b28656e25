"""A bucket for each test that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from s3_server import Front, Store, s3_server

from ser_batch.storage import places


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    pytest.importorskip("obstore", reason='buckets need the extra: pip install "ser-batch[cloud]"')
    pytest.importorskip("moto", reason='the server of these tests is missing: pip install "moto[s3,server]"')
    with s3_server(tmp_path_factory.mktemp("server") / "log") as server:
        places._bucket.cache_clear()
        yield server
    places._bucket.cache_clear()


@pytest.fixture(scope="module")
def new_store(front: Front) -> Callable[[], Store]:
    names = iter(range(1_000))
    return lambda: Store(front, f"archive-{next(names)}")


@pytest.fixture
def store(front: Front, new_store: Callable[[], Store]) -> Iterator[Store]:
    yield new_store()
    front.behave()
