"""Numbers as people read them."""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

__all__ = ["attribute", "clock", "count", "hours", "percent", "plural", "ticks"]

#: Keeps a number and its unit on one line.
_NBSP = "\u00a0"


def count(n: int) -> str:
    """Return a count with thousands separated: 12,345."""
    return f"{n:,}"


def plural(n: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count(n)} {noun}" if n == 1 else f"{count(n)} {noun}s"


def percent(share: float) -> str:
    """Return a share as percent with one digit, so that 0 and 100 are said only of none and of all."""
    if not math.isfinite(share):
        return ""
    if 0 < share < 0.0005:
        return f"<{_NBSP}0.1{_NBSP}%"
    if 0.9995 <= share < 1:
        return f">{_NBSP}99.9{_NBSP}%"
    return f"{100 * share:.{1 if 0 < share < 1 else 0}f}{_NBSP}%"


def clock(seconds: float) -> str:
    """Return a time as m:ss, or h:mm:ss; nothing where it is undefined."""
    if not math.isfinite(seconds):
        return ""
    whole = int(seconds)
    hours_, minutes = divmod(whole // 60, 60)
    return f"{hours_}:{minutes:02d}:{whole % 60:02d}" if hours_ else f"{minutes}:{whole % 60:02d}"


def hours(seconds: float) -> str:
    """Return a length of audio in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3_600:,.1f} h"


def attribute(text: str) -> Markup:
    """Return text for an HTML attribute, with line breaks as references, since HTML would change a carriage return."""
    return Markup(str(escape(text)).replace("\r", "&#13;").replace("\n", "&#10;"))


def ticks(text: str) -> Markup:
    """Return text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
