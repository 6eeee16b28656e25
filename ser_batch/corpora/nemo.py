"""nEMO: a table of labels beside the samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ser_batch.corpora.labels import has_labels, labelled_reader
from ser_batch.records import Corpus

__all__ = ["NEMO"]

_NAME = re.compile(r"[A-Z]{2}\d_(anger|fear|happiness|neutral|sadness|surprised)_\d+")


def _looks_like(folder: Path, names: Sequence[str]) -> bool:
    hits = sum(_NAME.fullmatch(PurePosixPath(name).stem) is not None for name in names)
    return hits > 0.9 * len(names) > 0 and has_labels(folder)


NEMO = Corpus(
    "nemo",
    "nEMO (Christop 2024)",
    "CC BY-NC-SA 4.0",
    "https://github.com/amu-cai/nEMO",
    "pl",
    labelled_reader("nemo"),
    _looks_like,
)
