"""Addresses of objects, as people give them: ``s3://bucket/prefix``, ``gs://``, ``az://``, and ``file://`` for a path.

A key is taken as it stands; nothing in it is decoded, so that what a listing names can be read. An address that holds a
password or a query is refused and shown without them: it would end up in tables, logs and reports.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from ser_batch.errors import InputError, RunError
from ser_batch.text import printable

__all__ = ["SCHEMES", "Address", "is_url", "local_or_url", "on_disk", "run_on_disk", "without_secrets"]

#: Of buckets -> what whoever pays for them calls the service.
SCHEMES = {"s3": "Amazon S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_USER = re.compile(r"://[^/@?#\s]*@")
#: Of a signed address; a lone question mark is part of a name.
_QUERY = re.compile(r"\?[\w.%-]+=\S*")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell an address from a path on a disk. A `pathlib.Path` is never one: it has lost a slash."""
    return isinstance(path, str) and _URL.fullmatch(path) is not None


def without_secrets(text: str) -> str:
    """Return a text with users, passwords and queries of the addresses in it left out."""
    return _QUERY.sub("", _USER.sub("://", text))


def local_or_url(path: str) -> str:
    """Return the path that a ``file://`` means, an address of an object checked, and any other path as it is.

    Raises
    ------
    InputError
        It is an address of something else, or holds what must be kept secret.
    """
    parts = _URL.fullmatch(path)
    if parts is None:
        return path
    clean = without_secrets(path)
    if clean != path:
        raise InputError(
            f"{printable(clean)} was given with a password or a signature in it, which would be kept with the results. "
            f"Leave it out, and give credentials by the environment, such as AWS_ACCESS_KEY_ID."
        )
    scheme, rest = parts[1].lower(), parts[2]
    if scheme == "file":
        host, slash, below = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise InputError(f"{printable(path)} is no file of this machine: write file:///FOLDER.")
        return f"/{unquote(below, errors='surrogateescape')}"
    if scheme not in SCHEMES:
        raise InputError(
            f"{printable(path)} cannot be read: addresses begin with {', '.join(SCHEMES)} or file, and ://."
        )
    return Address.of(path).url


def on_disk(run_dir: str | os.PathLike[str]) -> Path:
    """Return the folder in which a run is to be written.

    Raises
    ------
    RunError
        It lies in a bucket.
    """
    if isinstance(run_dir, str) and is_url(run_dir):
        path = local_or_url(run_dir)
        if is_url(path):
            raise RunError(
                f"{printable(path)}: into a bucket a run is written by a plain scan of one machine, and nothing else. "
                f"Give a folder, and copy it there once it is done, for instance by `aws s3 sync`."
            )
        return Path(path)
    return Path(run_dir)


def run_on_disk(run: str | os.PathLike[str]) -> Path:
    """Return the folder of a run for what needs it in place, such as to write into it.

    Raises
    ------
    RunError
        It lies in a bucket.
    """
    path = local_or_url(run) if isinstance(run, str) else run
    if isinstance(path, str) and is_url(path):
        raise RunError(
            f"{printable(path)} is in a bucket, where scan, retry, status, show, verify, report and load_results work. "
            f"For all else copy it to a disk, for instance by `aws s3 sync`."
        )
    return Path(path)


@dataclass(frozen=True, slots=True)
class Address:
    """One object, or all whose keys begin with a prefix and a slash."""

    scheme: str
    bucket: str
    #: Without slashes at its ends; "" for the whole bucket.
    key: str = ""

    @classmethod
    def of(cls, url: str) -> Address:
        """Take an address apart.

        Raises
        ------
        InputError
            It names no bucket.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        if not bucket:
            raise InputError(f"{printable(url)} names no bucket: write {scheme.lower()}://BUCKET/PREFIX.")
        return cls(scheme.lower(), bucket, key.strip("/"))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    @property
    def home(self) -> tuple[str, str]:
        """Scheme and bucket."""
        return self.scheme, self.bucket

    def at(self, key: str) -> Address:
        """Return the address of another object of the bucket."""
        return Address(self.scheme, self.bucket, key)
