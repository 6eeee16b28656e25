"""Probabilities as bars for a terminal: aligned in any script, plain where colour or block characters fail."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping

import click

from ser_batch.text import printable

__all__ = ["bar_lines", "n_cells", "padded"]

#: Longest bar, in character cells.
_MAX_BAR_CELLS = 40
_EIGHTHS = "▏▎▍▌▋▊▉█"


def n_cells(text: str) -> int:
    """Return how many character cells a terminal gives `text`: 2 for East Asian wide, 0 for combining characters."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def padded(text: str, cells: int) -> str:
    """Return `text` with spaces up to a width in cells."""
    return text + " " * (cells - n_cells(text))


def bar_lines(probabilities: Mapping[str, float], columns: int | None = None) -> list[str]:
    """Return a line per emotion, the most probable first: label, bar, percent.

    Parameters
    ----------
    probabilities : mapping
        Label -> probability in [0, 1].
    columns : int, optional
        Width of the terminal; by default that of the real one.
    """
    columns = columns or shutil.get_terminal_size().columns
    labels = {label: printable(label) for label in probabilities}
    label_cells = max(n_cells(text) for text in labels.values())
    bar_cells = max(4, min(_MAX_BAR_CELLS, columns - label_cells - 13))
    lines = []
    for rank, (label, share) in enumerate(sorted(probabilities.items(), key=lambda item: -item[1])):
        bar = padded(_bar(share, bar_cells), bar_cells)
        text = f"  {padded(labels[label], label_cells)}  {bar}  {100 * share:5.1f} %"
        lines.append(click.style(text, bold=True) if rank == 0 and _wants_style() else text)
    return lines


def _bar(share: float, cells: int) -> str:
    if not _has_blocks():
        return "#" * round(share * cells)
    eighths = round(share * cells * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _has_blocks() -> bool:
    try:
        _EIGHTHS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _wants_style() -> bool:
    # click drops styles where the output is no terminal; it knows nothing of the wish of no-color.org.
    return not os.environ.get("NO_COLOR")
