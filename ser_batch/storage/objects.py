"""Buckets: objects listed and fetched by obstore, and what goes wrong said in a few words without secrets.

Credentials are the library's business: it takes them from the environment, from the files of Google's tools, and here
from those of Amazon's, too, where boto3 is installed. A request that fails by the network or with 5xx is made again,
for a minute; once the store is down, only for some seconds, until it is there again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from queue import Full, Queue
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from ser_batch.errors import InputError
from ser_batch.storage.address import Address, without_secrets
from ser_batch.storage.reasons import KeyNotReadError, NoBucketError, as_os_error, no_credentials, replaced
from ser_batch.text import message_of

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Bucket", "Listed", "Present", "Unlisted", "Version"]

#: Objects are fetched in stretches of this size, each a request with its own time limit.
_RANGE_BYTES = 8 * 2**20
#: Objects that a store lists at once.
_PAGE = 1_000
#: Requests side by side: for what is listed below each folder, and for what is looked up by name.
_N_LISTINGS, _N_LOOKS = 16, 32
#: So many looks are handed out, to be done by and by.
_LOOKS_AHEAD = 10_000
#: How long a request may take, and be repeated.
_PATIENT: dict[str, Any] = {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}
_IMPATIENT: dict[str, Any] = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
#: Between two tries of a request whose answer was lost, in s.
_PAUSE_S = 0.5
_BACKOFF: dict[str, Any] = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
_TIMEOUTS = {"patient": "60 seconds", "impatient": "10 seconds"}

#: By any of these the library finds Amazon's credentials itself.
_AWS_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")


class Listed(NamedTuple):
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    #: None for one that could not be looked at.
    modified: datetime | None
    #: "" where the store gives none.
    etag: str


class Unlisted(NamedTuple):
    """A folder of a bucket that could not be listed, and why."""

    #: Without a slash at its end.
    prefix: str
    error: OSError


class Version(NamedTuple):
    """What tells one content of an object from all others; which of the two a store gives is its business."""

    etag: str | None
    version: str | None

    def is_that_of(self, other: Version) -> bool:
        both = self.etag and other.etag
        return self.etag == other.etag if both else self.version == other.version

    def condition(self) -> dict[str, str]:
        """Return what the library takes to mean this version."""
        known = {"e_tag": self.etag, "version": self.version}
        return {name: value for name, value in known.items() if value is not None}


class Present(NamedTuple):
    """An object as it was read."""

    data: bytes
    version: Version


class Bucket:
    """One bucket, as a place where files lie.

    Parameters
    ----------
    scheme : {"s3", "gs", "az"}
    name : str

    Raises
    ------
    InputError
        obstore is not installed, or does not take what the environment says.
    """

    def __init__(self, scheme: str, name: str) -> None:
        self._scheme, self._name = scheme, name
        try:
            import obstore  # noqa: PLC0415 - an extra
            import obstore.exceptions  # noqa: PLC0415
        except ImportError:
            raise InputError(f'{scheme}://{name} is read by obstore: pip install "ser-batch[cloud]"') from None
        self._obstore: Any = obstore
        #: Whether the store could not be reached when it was last asked for an object.
        self._is_down = False
        try:
            given = self._given()
            self._patient, self._impatient = (
                self._store({"retry_config": {**retry, "backoff": _BACKOFF}, **given}, timeout)
                for retry, timeout in ((_PATIENT, _TIMEOUTS["patient"]), (_IMPATIENT, _TIMEOUTS["impatient"]))
            )
        except PermissionError as error:
            raise InputError(f"{scheme}://{name} cannot be read: {error}.") from None
        except Exception as error:
            reason = without_secrets(message_of(error).splitlines()[0])
            raise InputError(f"{scheme}://{name} cannot be read with what the environment says: {reason}") from None

    def _given(self) -> Mapping[str, Any]:
        """Return credentials that the library would not find."""
        if self._scheme != "s3" or any(os.environ.get(name) for name in _AWS_CREDENTIALS):
            return {}
        try:
            from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - where boto3 is
        except ImportError:
            return {}
        try:
            provider = Boto3CredentialProvider()
        except ValueError:
            raise no_credentials(self._scheme) from None
        except Exception as error:  # of boto3, about its files
            raise PermissionError(f"its credentials cannot be read ({message_of(error)})") from None
        region = os.environ.get("AWS_REGION")
        return {"credential_provider": provider, **({"region": region} if region else {})}

    def _store(self, given: Mapping[str, Any], timeout: str) -> ObjectStore:
        from obstore import store  # noqa: PLC0415

        kind: Any = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[self._scheme]
        # Whoever gives an address without TLS means it.
        is_plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
        options = {"timeout": timeout, "connect_timeout": "5 seconds", **({"allow_http": True} if is_plain else {})}
        made: ObjectStore = kind(self._name, client_options=options, **given)
        return made

    def objects(self, prefix: str) -> Iterator[Listed | Unlisted]:
        """Yield all objects below a prefix, in no particular order.

        Folders below it are listed side by side, unless the first page shows that there are none.

        Raises
        ------
        OSError
            The bucket cannot be listed at all, or not any more.
        """
        pages = self._pages(prefix)
        try:
            first = next(pages, [])
        except KeyNotReadError:
            yield from self._by_folder(prefix)
            return
        depth = len(prefix) + 1 if prefix else 0
        if len(first) < _PAGE or not any("/" in item.key[depth:] for item in first):
            yield from chain(first, chain.from_iterable(pages))
            return
        yield from self._by_folder(prefix)

    def _by_folder(self, prefix: str) -> Iterator[Listed | Unlisted]:
        here, folders = self._within(prefix)
        yield from here
        # Pages wait for whoever takes them, so that memory stays flat however much is listed.
        pages: Queue[Sequence[Listed | Unlisted] | None] = Queue(2 * _N_LISTINGS)
        is_over = Event()
        failed: list[Exception] = []

        def put(page: Sequence[Listed | Unlisted] | None) -> None:
            while not is_over.is_set():
                with suppress(Full):
                    pages.put(page, timeout=0.2)
                    return

        def list_folder(folder: str) -> None:
            try:
                for page in self._below(folder):
                    put(page)
                    if is_over.is_set():
                        return
            except Exception as error:  # raised by whoever takes the pages, who would wait for ever
                failed.append(error)
            put(None)

        with ThreadPoolExecutor(_N_LISTINGS) as pool:
            try:
                waiting = [pool.submit(list_folder, folder) for folder in folders]
                for _ in waiting:
                    # As many ends as there are folders, in whatever order.
                    while (page := pages.get()) is not None:
                        yield from page
                    if failed:
                        raise failed[0]
            finally:
                is_over.set()
                pool.shutdown(cancel_futures=True)

    def within(self, prefix: str) -> list[Listed]:
        """Return the objects of one folder, without those of the folders in it. Raises as `objects`."""
        return self._within(prefix)[0]

    def names(self, prefix: str) -> set[str]:
        """Return the names of what is directly below a prefix, objects and folders. Raises as `objects`."""
        here, folders = self._within(prefix)
        depth = len(prefix) + 1 if prefix else 0
        return {name[depth:].strip("/") for name in (*(item.key for item in here), *folders)} - {""}

    def _within(self, prefix: str) -> tuple[list[Listed], list[str]]:
        try:
            found = self._obstore.list_with_delimiter(self._patient, prefix=prefix or None)
        except Exception as error:
            raise self._as_os_error(error) from None
        return [_listed(meta) for meta in found["objects"]], found["common_prefixes"]

    def _below(self, prefix: str) -> Iterator[Sequence[Listed | Unlisted]]:
        """Yield pages of what is below a folder; raises `ConnectionError` where the store is not there any more."""
        last = ""
        try:
            try:
                for page in self._pages(prefix):
                    yield page
                    last = page[-1].key if page else last
            except KeyNotReadError:
                # Pages are in the order of keys.
                here, folders = self._within(prefix)
                yield [item for item in here if item.key > last]
                for folder in folders:
                    for items in self._below(folder):
                        yield [item for item in items if isinstance(item, Unlisted) or item.key > last]
        except ConnectionError:
            raise
        except OSError as error:
            yield [Unlisted(prefix, error)]

    def _pages(self, prefix: str) -> Iterator[list[Listed]]:
        try:
            for page in self._obstore.list(self._patient, prefix=prefix or None, chunk_size=_PAGE):
                yield [_listed(meta) for meta in page]
        except Exception as error:
            raise self._as_os_error(error) from None

    def look(self, keys: Sequence[str]) -> Iterator[Listed | OSError]:
        """Yield what is known of some objects, in the order of their keys, or why it is not."""
        with ThreadPoolExecutor(_N_LOOKS) as pool:
            for first in range(0, len(keys), _LOOKS_AHEAD):
                yield from pool.map(self._look, keys[first : first + _LOOKS_AHEAD])

    def _look(self, key: str) -> Listed | OSError:
        try:
            return _listed(self._obstore.head(self._patient, key))
        except Exception as error:
            return self._as_os_error(error)

    def is_there(self, path: str) -> bool:
        try:
            self._obstore.head(self._impatient, Address.of(path).key)
        except Exception:
            return False
        return True

    can_be_read = is_there

    def identity(self, folder: str) -> tuple[str, str] | None:
        """Return the bucket, None where it cannot be reached or has nothing below the folder any more."""
        try:
            pages = self._obstore.list(self._impatient, prefix=Address.of(folder).key or None, chunk_size=1)
            return (self._scheme, self._name) if next(iter(pages), None) else None
        except Exception as error:
            # Whoever may read objects need not be allowed to list them.
            return (self._scheme, self._name) if isinstance(self._as_os_error(error), PermissionError) else None

    def local(self, path: str, size_bytes: int, etag: str, folder: Path) -> str:
        address = Address.of(path)
        target = folder / _file_name(address.key)
        try:
            with target.open("wb") as file:
                for data in self._stretches(address.key, size_bytes, etag):
                    file.write(data)
        except OSError:
            target.unlink(missing_ok=True)
            raise
        return str(target)

    def read(self, key: str) -> bytes:
        """Return a whole object.

        Raises
        ------
        OSError
            It cannot be read.
        """
        return b"".join(self._stretches(key, 0, ""))

    def get(self, key: str) -> Present | None:
        """Return a whole object, None where there is none. Raises as `read`."""
        try:
            result = self._obstore.get(self._patient, key)
            return Present(bytes(result.bytes()), _version(result.meta))
        except Exception as error:
            reason = self._as_os_error(error)
        if isinstance(reason, FileNotFoundError) and not isinstance(reason, NoBucketError):
            return None
        raise reason

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write a whole object, whatever is there.

        Raises
        ------
        OSError
            It cannot be written.
        """
        self._insist(lambda: self._obstore.put(self._patient, key, bytes(data), use_multipart=False))

    def swap(self, key: str, data: bytes, known: Version | None) -> Version:
        """Write an object in the place of one version of it and of no other, or, with None, where there is none.

        Where the answer of the store was lost, what is there says whether it was done: nobody else may write the same.

        Returns
        -------
        version : Version
            The one that it has now.

        Raises
        ------
        FileExistsError
            Something else is there.
        OSError
            It cannot be written, or nobody knows whether it was.
        """
        mode: Any = "create" if known is None else known.condition()
        deadline_s = time.monotonic() + _PATIENT["retry_timeout"].total_seconds()
        while True:
            try:
                return _version(self._obstore.put(self._patient, key, data, mode=mode))
            except Exception as error:
                reason = self._why_not_swapped(error)
            there = self.get(key)
            if there is not None and there.data == data:
                return there.version
            is_as_known = there is None if known is None else there is not None and there.version.is_that_of(known)
            if not is_as_known:
                raise FileExistsError("another process has written the object")
            if time.monotonic() > deadline_s:
                raise reason
            time.sleep(_PAUSE_S)

    def _why_not_swapped(self, error: Exception) -> OSError:
        """Return why a conditional request failed; raise where asking again leads nowhere."""
        from obstore import exceptions  # noqa: PLC0415

        if isinstance(error, exceptions.AlreadyExistsError | exceptions.PreconditionError):
            return FileExistsError("another process has written the object")
        reason = self._as_os_error(error)
        if not isinstance(reason, ConnectionError | FileNotFoundError) or isinstance(reason, NoBucketError):
            raise reason from None
        return reason

    def copy(self, source: str, target: str) -> None:
        """Put an object in the place of another, within the store. Raises as `put`."""
        self._insist(lambda: self._obstore.copy(self._patient, source, target))

    def delete(self, key: str) -> None:
        """Delete an object, if it is there. Raises as `put`."""
        with suppress(FileNotFoundError):
            self._insist(lambda: self._obstore.delete(self._patient, key))

    def _insist(self, request: Callable[[], object]) -> None:
        """Make a request that may be made twice: where an answer was lost, the library does not ask again."""
        deadline_s = time.monotonic() + _PATIENT["retry_timeout"].total_seconds()
        while True:
            try:
                request()
                return
            except Exception as error:
                reason = self._as_os_error(error)
            if not isinstance(reason, ConnectionError) or time.monotonic() > deadline_s:
                raise reason
            time.sleep(_PAUSE_S)

    def _stretches(self, key: str, size_bytes: int, etag: str) -> Iterator[memoryview]:
        """Yield the bytes of an object, all of the same version of it."""
        # A weak tag never matches, by the rules of HTTP.
        wanted = "" if etag.startswith("W/") else etag
        n_read = 0
        while n_read == 0 or n_read < size_bytes:
            options: dict[str, Any] = {"if_match": wanted} if wanted else {}
            if size_bytes > _RANGE_BYTES:
                options["range"] = (n_read, min(n_read + _RANGE_BYTES, size_bytes))
            try:
                result = self._obstore.get(self._impatient if self._is_down else self._patient, key, options=options)
                data = memoryview(result.bytes())
            except Exception as error:
                reason = self._as_os_error(error)
                self._is_down = isinstance(reason, ConnectionError)
                raise reason from None
            self._is_down = False
            if size_bytes and result.meta["size"] != size_bytes:
                raise replaced()
            now = _etag(result.meta)
            wanted = wanted or ("" if now.startswith("W/") else now)
            n_read += len(data)
            yield data
            if not size_bytes or not data:
                return

    def _as_os_error(self, error: Exception) -> OSError:
        return as_os_error(error, self._scheme)


def _version(meta: Mapping[str, Any]) -> Version:
    return Version(_etag(meta) or None, meta.get("version"))


def _listed(meta: Mapping[str, Any]) -> Listed:
    return Listed(meta["path"], meta["size"], meta["last_modified"], _etag(meta))


def _etag(meta: Mapping[str, Any]) -> str:
    """Return the tag of an object, "" for none, by whatever request it was learnt: Azure lists tags without quotes."""
    tag = meta.get("e_tag") or ""
    return tag if not tag or tag.endswith('"') else f'"{tag}"'


def _file_name(key: str) -> str:
    """Return a name for the copy of an object: its own, if a disk takes it."""
    name = key.rpartition("/")[2]
    if len(os.fsencode(name)) <= 200 and "\0" not in name and name not in ("", ".", ".."):
        return name
    return f"object{os.path.splitext(name)[1][:20]}"  # noqa: PTH122 - not a path
