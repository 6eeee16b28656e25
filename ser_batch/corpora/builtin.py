"""The plugin that offers the built-in corpora. A plugin adds one of its own with the hook ``register_corpora``."""

from __future__ import annotations

from collections.abc import Sequence

from ser_batch.corpora.crema_d import CREMA_D
from ser_batch.corpora.emo_db import EMO_DB
from ser_batch.corpora.emogator import EMOGATOR
from ser_batch.corpora.emovo import EMOVO
from ser_batch.corpora.folders import RAW
from ser_batch.corpora.labels import LABELS
from ser_batch.corpora.nemo import NEMO
from ser_batch.corpora.ravdess import RAVDESS
from ser_batch.corpora.savee import SAVEE
from ser_batch.corpora.tess import TESS
from ser_batch.hookspecs import hookimpl
from ser_batch.records import Corpus

__all__ = ["BUILT_IN_CORPORA", "register_corpora"]

BUILT_IN_CORPORA: tuple[Corpus, ...] = (
    RAVDESS,
    CREMA_D,
    TESS,
    SAVEE,
    EMO_DB,
    EMOVO,
    NEMO,
    EMOGATOR,
    RAW,
    LABELS,
)


@hookimpl
def register_corpora() -> Sequence[Corpus]:
    """Offer the built-in corpora."""
    return BUILT_IN_CORPORA
