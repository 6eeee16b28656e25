"""Who speaks, as far as the names of files say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ser_batch.corpora.emotions import canonical_emotion

__all__ = ["speakers_of"]

#: What people number that are no speakers.
_TAKES = re.compile(
    "audio|call|chunk|clip|cut|dia|dialog|dialogue|example|file|item|line|part|phrase|rec|record|recording|sample|seg|"
    "segment|sentence|session|sound|take|test|track|train|utt|utterance|wav|word"
)


def speakers_of(stems: Sequence[str]) -> list[str]:
    """Return the speaker in each name: what stands before its first underscore, or ``""``.

    An emotion is no speaker, nor is the number of a take (``call0``, ``clip``). A number alone is one only if it
    comes again somewhere: else it numbers the files.
    """
    tokens = [stem.split("_", 1)[0] if "_" in stem else "" for stem in stems]
    tokens = ["" if _is_no_name(token) else token for token in tokens]
    numbers = [token for token in tokens if token.isdecimal()]
    if len(set(numbers)) == len(numbers):
        tokens = ["" if token.isdecimal() else token for token in tokens]
    return tokens


def _is_no_name(token: str) -> bool:
    word = re.sub(r"[\W\d]+$", "", token.lower())
    return bool(word) and (_TAKES.fullmatch(word) is not None or canonical_emotion(word) is not None)
