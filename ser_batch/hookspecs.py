"""The hooks. A plugin implements any of them with ``@ser_batch.hookimpl``; see docs/hooks.md.

Installed packages are found by the entry-point group ``ser_batch``; a single file by ``--plugin file.py``. Calls are
made plugin by plugin in the order of plugin names, so that results never depend on the order of installation, and what
a plugin returns is checked and attributed to it.

Two facts of pluggy that trip people up: an implementation may take fewer arguments than the hook has, but not others;
and an argument with a default value is never filled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    import click

    from ser_batch.config import Config
    from ser_batch.records import Classifier, Clip, ClipOutcome, ClipRef, Corpus, Extractor, Segment

__all__ = ["ENTRY_POINT_GROUP", "hookimpl", "hookspec"]

#: Group of entry points by which installed plugins are found.
ENTRY_POINT_GROUP = "ser_batch"

hookspec = pluggy.HookspecMarker("ser_batch")
hookimpl = pluggy.HookimplMarker("ser_batch")


@hookspec
def register_extractors(config: Config) -> Sequence[Extractor]:  # type: ignore[empty-body]
    """Return the extractors that this plugin offers.

    Runs in the parent once, before any work, and once in each worker. Must be deterministic: the same configuration
    gives the same extractors. An extractor's name must be unique over all plugins. Return an empty list for none.
    """


@hookspec(firstresult=True)
def read_clip(ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterable[Clip] | None:
    """Decode one file to mono at `sample_rate_hz`, as an iterable of consecutive pieces; None means "not my format".

    Runs in a worker, once per file; the first answer that is not None wins, the built-in reader is asked
    last. A file shorter than `piece_s` gives one piece; a longer one gives pieces that start every `piece_s` and reach
    `overlap_s` beyond the start of the next one, so that memory stays flat and windows that straddle a border are
    whole. Raise any exception for a file that cannot be decoded: it becomes the row's reason.
    """


@hookspec(firstresult=True)
def find_segments(clip: Clip) -> Sequence[Segment] | None:
    """Find the segments in a recording, or in one piece of a long one, for ``--segments voice``; None means "not mine".

    Runs in a worker, once per piece, for recordings that have no file of segments beside them; the built-in finder,
    which takes what is voiced, is asked last. Times are in s of the recording. Segments of one speaker on both sides of
    a border between pieces are joined. An attribute ``FINDER_VERSION`` of the plugin says which numbers it gives.
    """


@hookspec(firstresult=True)
def load_classifier(name: str, device: str) -> Classifier | None:
    """Load the model called `name` for `device` (cpu, cuda or mps); None means "not mine".

    Runs in the process that computes: each worker on a CPU, the parent on MPS or CUDA. The built-in loader takes
    shipped names and paths of ``.safetensors`` files and is asked last.
    """


@hookspec
def register_corpora() -> Sequence[Corpus]:  # type: ignore[empty-body]
    """Return readers of labelled corpora, for ``organize``, ``train`` and ``evaluate``.

    Runs in the parent. A corpus says how file names or a label file give emotion, speaker and sex.
    """


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the command line. Runs in the parent whenever the command line is built: import lazily."""


@hookspec
def validate_config(config: Config) -> None:
    """Raise `ConfigError`, with the cure, when this plugin cannot work under `config`.

    Runs in the parent before any work. A configuration is frozen: this hook can refuse it, not change it.
    """


@hookspec
def clip_finished(outcome: ClipOutcome) -> None:
    """Observe one finished file. Runs in the parent after the file's shard was committed, in the order of the rows.

    An exception is logged once per plugin and never stops the run. Tensors are already dropped from `outcome`.
    """


@hookspec
def report_sections(run_dir: Path) -> Sequence[tuple[str, str]]:  # type: ignore[empty-body]
    """Return (title, HTML) sections for the report of a run, also of an old one. Runs in a process of the report's own.

    Read the Parquet files with `ser_batch.load_results`. The HTML is inserted as it is: escape what comes from files.
    """
