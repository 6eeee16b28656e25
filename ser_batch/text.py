"""Text from outside - file names, tags, messages of plugins - made fit to be shown."""

from __future__ import annotations

import difflib
import os
import reprlib
from collections.abc import Iterable

__all__ = ["did_you_mean", "message_of", "printable", "shortened", "shown"]

#: Longest message of an exception that is kept; libraries and plugins may raise whole documents.
_MESSAGE_CHARACTERS = 500


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no number of more than 4,300 digits
            return f"<whole number of {x.bit_length()} bits>"


_repr = _Repr()
_repr.maxstring = _repr.maxother = 80


def printable(text: str | os.PathLike[str]) -> str:
    """Return `text` with everything escaped that a terminal would act upon or could not show.

    Control and formatting characters (newlines, escape sequences, changes of writing direction) appear as ``\\xNN`` or
    ``\\uNNNN``, bytes that are not UTF-8 as ``\\xNN``. All else stays, in any script.
    """
    shown = os.fspath(text)
    if shown.isprintable():
        return shown
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in shown)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'this'?`` for the nearest of the known words, "" where none is near."""
    by_folded = {item.casefold(): item for item in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return f" Did you mean {by_folded[near[0]]!r}?" if near else ""


def message_of(error: BaseException, note: str = "") -> str:
    """Return what an exception says, its type where it says nothing, with `note` behind it; at most 500 characters."""
    try:
        text = str(error)
    except Exception:  # the text of an exception of a plugin is code of a plugin
        text = ""
    text = text or type(error).__name__
    if note:
        text = f"{text}; {note}"
    return shortened(text)


def shortened(text: str) -> str:
    """Return a message, cut to 500 characters."""
    return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[: _MESSAGE_CHARACTERS - 1]}…"


def shown(value: object) -> str:
    """Return the ``repr`` of anything, shortened; one that raises costs its text alone."""
    return _repr.repr(value)


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        code -= 0xDC00
    return letter.encode("unicode_escape").decode() if code == ord(letter) else f"\\x{code:02x}"
