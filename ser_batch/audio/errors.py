"""What a reader raises."""

__all__ = ["DeclinedError", "DecodeError"]


class DecodeError(Exception):
    """A file could not be decoded, or not to its end."""


class DeclinedError(DecodeError):
    """A decoder does not know the format; another one may."""
