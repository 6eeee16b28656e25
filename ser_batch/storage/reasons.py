"""Why a store did not do what it was asked: what obstore raises, as what a disk would say, in words without secrets."""

from __future__ import annotations

import re
from importlib.metadata import version

__all__ = ["KeyNotReadError", "NoBucketError", "as_os_error", "no_credentials", "replaced"]

#: Of what cannot be reached without credentials: the address at which machines of a cloud ask for them.
_ASKS_FOR_CREDENTIALS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "credential")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY give them, AWS_PROFILE where boto3 is installed; "
    "AWS_SKIP_SIGNATURE=true reads a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login` gives them; "
    "GOOGLE_SKIP_SIGNATURE=true reads a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN gives them",
}


class KeyNotReadError(OSError):
    """An object has a key that the library does not read; a page of a listing with it is lost as a whole."""


class NoBucketError(FileNotFoundError):
    """There is not even a bucket."""


def as_os_error(error: Exception, scheme: str) -> OSError:
    """Return what the library has raised at a request to a store of a scheme, such as ``s3``, as what a disk would say.

    A `ConnectionError` may be over when it is asked again.
    """
    from obstore import exceptions  # noqa: PLC0415 - an extra

    text = str(error)
    status, code = (found[1] if (found := pattern.search(text)) else "" for pattern in (_STATUS, _CODE))
    said = " ".join(filter(None, [status, code]))
    if isinstance(error, exceptions.PreconditionError):
        return replaced()
    if code in _NO_BUCKET or (status == "404" and "ListRequest" in text):
        return NoBucketError("there is no such bucket")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError("there is no such object, or no longer")
    is_refused = isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError)
    if is_refused or status in ("401", "403") or code.endswith("Token"):
        return PermissionError(f"access is denied ({said}). {_CREDENTIALS[scheme]}")
    if isinstance(error, exceptions.InvalidPathError | ValueError):
        name = re.search(r'"(.*?)"', text)
        return KeyNotReadError(
            f"an object has a name with an empty part, or one of dots alone: {name[1] if name else ''}"
        )
    if isinstance(error, TypeError | AttributeError):
        return OSError(
            f"obstore {version('obstore')} does not know the request ({text.splitlines()[0]}); "
            f'pip install -U "ser-batch[cloud]" brings one that does'
        )
    return _unanswered(text, status, said, scheme)


def _unanswered(text: str, status: str, said: str, scheme: str) -> OSError:
    """Return what is to be said of a store that gives no answer to a request, or none that helps."""
    if status == "400" or "redirect without LOCATION" in text:
        refusal = f"the store refuses ({said})" if said else "the store refuses"
        cure = ". Is the bucket in another region? AWS_REGION names it" if scheme == "s3" else ""
        return OSError(f"{refusal}{cure}")
    if status:
        return ConnectionError(f"the store answers {said}, also when asked again")
    if any(place in text.lower() for place in _ASKS_FOR_CREDENTIALS):
        return no_credentials(scheme)
    return ConnectionError("the store cannot be reached. Is there a network, and is the endpoint right")


def no_credentials(scheme: str) -> PermissionError:
    return PermissionError(f"no credentials were found. {_CREDENTIALS[scheme]}")


def replaced() -> OSError:
    """Return what is to be said of an object that has another version than the one that was asked for."""
    return OSError("the object was replaced after it was listed; the next scan reads it")
