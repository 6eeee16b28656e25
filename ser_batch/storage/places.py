"""Finds out where a file lies."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from ser_batch.storage.address import Address, is_url
from ser_batch.storage.disk import LocalDisk, Storage

if TYPE_CHECKING:
    from ser_batch.storage.objects import Bucket

__all__ = ["bucket_of", "storage_of"]

_DISK = LocalDisk()


def storage_of(path: str) -> Storage:
    """Return where a file or a folder lies.

    Raises
    ------
    InputError
        It lies in a bucket, and what reads buckets is not installed.
    """
    return bucket_of(Address.of(path)) if is_url(path) else _DISK


def bucket_of(address: Address) -> Bucket:
    """Return the bucket of an address, with its connections the same for all its objects; raises as `storage_of`."""
    return _bucket(*address.home)


@lru_cache(maxsize=8)
def _bucket(scheme: str, name: str) -> Bucket:
    from ser_batch.storage.objects import Bucket  # noqa: PLC0415 - an extra, for those who have buckets

    return Bucket(scheme, name)
