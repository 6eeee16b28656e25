"""Reads a corpus whose file names tell everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ser_batch.corpora.files import audio_files
from ser_batch.records import LabelledClip

__all__ = ["NamePattern"]


@dataclass(frozen=True, slots=True)
class NamePattern:
    """What the names of a corpus look like, and what is in them."""

    corpus: str
    #: Matches a whole name without its suffix; has the groups ``emotion`` and ``speaker``.
    pattern: re.Pattern[str]
    #: Code in the name, in lower case -> emotion; a code that is missing is a category of the corpus's own.
    emotions: dict[str, str]
    #: Takes the group ``speaker``, gives the sex.
    sex: Callable[[str], str] = lambda speaker: ""

    def read(self, folder: Path) -> Iterable[LabelledClip]:
        """Yield the clips below `folder` whose names fit."""
        for path in audio_files(folder):
            match = self.pattern.fullmatch(path.stem)
            if match:
                code, speaker = match["emotion"].lower(), match["speaker"]
                emotion = self.emotions.get(code, f"{self.corpus}-{code}")
                name = f"{self.corpus}-{speaker.lower()}"
                yield LabelledClip(str(path), emotion, name, self.sex(speaker), self.corpus, code)

    def looks_like(self, _folder: Path, names: Sequence[str]) -> bool:
        """Say whether nearly all of `names` fit."""
        hits = sum(self.pattern.fullmatch(PurePosixPath(name).stem) is not None for name in names)
        return hits > 0.9 * len(names) > 0
