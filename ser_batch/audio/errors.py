"""What a reader raises."""

__all__ = ["DeclinedError", "DecodeError", "NeedsMediaError", "NoSoundError", "SkippedError"]


class DecodeError(Exception):
    """A file could not be decoded, or not to its end.

    Attributes
    ----------
    reader : str
        What read it, as in the row.
    """

    reader = ""


class DeclinedError(DecodeError):
    """A decoder does not know the format; another one may."""


class SkippedError(Exception):
    """There is nothing in a file to read, or nothing to read it with: its row is ``skipped``, not ``failed``.

    Attributes
    ----------
    reader : str
        What read it, or would read it if it were there.
    """

    reader = ""


class NeedsMediaError(SkippedError):
    """A file is read by PyAV, which is not installed."""


class NoSoundError(SkippedError):
    """A film without a sound track."""
