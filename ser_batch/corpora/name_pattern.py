"""Reads a corpus whose file names tell everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_batch.corpora.files import audio_files
from ser_batch.records import CorpusItem, LabelledClip, PassedOver

__all__ = ["NamePattern"]

#: Of one take in several formats the first of these is read.
_BEST_SUFFIXES = (".wav", ".flac", ".aiff", ".aif")


@dataclass(frozen=True, slots=True)
class NamePattern:
    """What the names of a corpus look like, and what is in them."""

    corpus: str
    #: Matches a whole name without its suffix, or with a slash and the name of its folder before it; has the groups
    #: ``emotion`` and ``speaker``.
    pattern: re.Pattern[str]
    #: Code in the name, in lower case -> emotion; a code that is missing is a category of the corpus's own.
    emotions: dict[str, str]
    #: Takes the group ``speaker``, gives the sex.
    sex: Callable[[str], str] = lambda speaker: ""
    #: What a clip is that is not taken, in the plural; ``""`` for one that is.
    passed_over: Callable[[re.Match[str]], str] = lambda match: ""
    #: (take, rank): of the files of one take only those of the least rank are read.
    take: Callable[[re.Match[str]], tuple[str, int]] = lambda match: (match[0], 0)

    def match(self, path: Path) -> re.Match[str] | None:
        """Return what the name of a file says."""
        return self.pattern.fullmatch(path.stem) or self.pattern.fullmatch(f"{path.parent.name}/{path.stem}")

    def looks_like(self, folder: Path, names: Sequence[str]) -> bool:
        """Say whether nearly all of `names` fit."""
        hits = sum(self.match(folder / name) is not None for name in names)
        return hits > 0.9 * len(names) > 0

    def read(self, folder: Path) -> Iterable[CorpusItem]:
        """Yield the clips below `folder` whose names fit."""
        takes: dict[str, dict[tuple[int, int], list[tuple[Path, re.Match[str]]]]] = {}
        for path in audio_files(folder):
            match = self.match(path)
            reason = self.passed_over(match) if match else ""
            if reason:
                yield PassedOver(str(path), reason)
            elif match:
                take, rank = self.take(match)
                suffix = path.suffix.lower()
                format_rank = _BEST_SUFFIXES.index(suffix) if suffix in _BEST_SUFFIXES else len(_BEST_SUFFIXES)
                takes.setdefault(take.lower(), {}).setdefault((rank, format_rank), []).append((path, match))
        for forms in takes.values():
            best = min(forms)
            for form, files in forms.items():
                for path, match in files:
                    if form == best:
                        yield self._clip(path, match)
                    else:
                        yield PassedOver(str(path), "the same takes in another form")

    def _clip(self, path: Path, match: re.Match[str]) -> LabelledClip:
        code, speaker = match["emotion"].lower(), match["speaker"]
        emotion = self.emotions.get(code, f"{self.corpus}-{code}")
        return LabelledClip(
            str(path), emotion, f"{self.corpus}-{speaker.lower()}", self.sex(speaker), self.corpus, code
        )
