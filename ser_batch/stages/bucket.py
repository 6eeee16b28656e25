"""Finds objects in a bucket, as `ser_batch.stages.discover` finds files on a disk."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from ser_batch.errors import InputError
from ser_batch.records import SegmentSource
from ser_batch.segments.files import SEGMENT_SUFFIXES
from ser_batch.segments.marked import state_key
from ser_batch.storage.address import Address, is_url
from ser_batch.storage.objects import Listed, Unlisted
from ser_batch.storage.places import bucket_of
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.storage.objects import Bucket

__all__ = ["Marks", "Objects", "look_into_bucket"]


@dataclass(eq=False)
class Objects:
    """What some addresses mean."""

    root: Address
    #: Those below folders: to be chosen from.
    below: Iterator[Listed | Unlisted]
    #: Those that were named each; `modified` is None for one that cannot be looked at.
    named: Sequence[Listed]
    #: Of those named, what else lies in their folders.
    beside: Iterator[Listed]


def look_into_bucket(urls: Sequence[str], is_list: bool, with_segments: bool) -> Objects:
    """Find the objects that addresses mean.

    Parameters
    ----------
    urls : sequence of str
        All of one bucket.
    is_list : bool
        Each is an object, which may be missing; else an object or a folder, which must be there.
    with_segments : bool
        Look for what lies beside those that were named.

    Raises
    ------
    InputError
        There are paths or other buckets among them; one that must be there is not; or the bucket cannot be read.
    """
    addresses = [Address.of(url) for url in urls if is_url(url)]
    if len(addresses) < len(urls) or len({address.home for address in addresses}) > 1:
        raise InputError(
            "The inputs of a scan are paths, or addresses of one bucket: a run has one root. Scan each into its own."
        )
    bucket = bucket_of(addresses[0])
    keys = [address.key for address in addresses]
    named: list[Listed] = []
    folders: list[str] = []
    below: list[Iterator[Listed | Unlisted]] = []
    if is_list:
        for address, item in zip(addresses, bucket.look(keys), strict=True):
            if isinstance(item, ConnectionError):
                raise InputError(f"{printable(address.url)} cannot be looked at: {item}.")
            named.append(Listed(address.key, 0, None, "") if isinstance(item, OSError) else item)
    for address in () if is_list else addresses:
        items = _listed(bucket, address)
        first = next(items, None)
        if first is None and address.key:
            named.append(_named(bucket, address))
        else:
            folders.append(address.key)
            below.append(chain([first] if first else [], items))
    parents = [posixpath.dirname(item.key) for item in named]
    root = posixpath.commonpath(["/" + key for key in (*folders, *parents)]).strip("/")
    beside = _beside(bucket, {*parents}) if with_segments else iter(())
    return Objects(addresses[0].at(root), chain.from_iterable(below), named, beside)


def _listed(bucket: Bucket, address: Address) -> Iterator[Listed | Unlisted]:
    try:
        yield from bucket.objects(address.key)
    except OSError as error:
        raise InputError(f"{printable(address.url)} cannot be listed: {error}.") from None


def _named(bucket: Bucket, address: Address) -> Listed:
    (item,) = bucket.look([address.key])
    if isinstance(item, FileNotFoundError):
        raise InputError(f"Input {printable(address.url)} does not exist: no key is this one, or begins with it and /.")
    if isinstance(item, OSError):
        raise InputError(f"Input {printable(address.url)} cannot be read: {item}.")
    return item


def _beside(bucket: Bucket, folders: Iterable[str]) -> Iterator[Listed]:
    for folder in sorted(folders):
        try:
            yield from bucket.within(folder)
        except OSError:
            continue  # whoever may not list has no files beside recordings, as on a disk


@dataclass(eq=False)
class Marks:
    """Objects that say who speaks when in the recordings beside them."""

    root: Address
    _by_stem: dict[str, list[Listed]] = field(default_factory=dict)

    def take(self, item: Listed) -> None:
        """Keep an object, if it may be one."""
        stem, suffix = posixpath.splitext(item.key)
        if suffix.lower() in SEGMENT_SUFFIXES:
            self._by_stem.setdefault(stem, []).append(item)

    def of(self, key: str) -> SegmentSource | None:
        """Return what there is beside an object."""
        found = [item for item in self._by_stem.get(posixpath.splitext(key)[0], ()) if item.key != key]
        if not found:
            return None
        found.sort(key=lambda item: (SEGMENT_SUFFIXES.index(posixpath.splitext(item.key)[1].lower()), item.key))
        state = [part for item in found for part in (posixpath.basename(item.key), item.size_bytes, item.etag)]
        return SegmentSource(state_key(*state), tuple(self.root.at(item.key).url for item in found))
