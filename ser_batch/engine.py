"""The scan on one page: discover, plan, extract, predict, store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.errors import ConfigError, InputError, NothingToDoError, RunError
from ser_batch.interrupt import Interruptions
from ser_batch.nodes.outcomes import Line, choose_device
from ser_batch.plugins import PluginRecipe
from ser_batch.report.apart import ReportProcess, refresh_report
from ser_batch.resources import lasting_name
from ser_batch.run.place import FolderPlace, Place, place_of
from ser_batch.run.summary import RunSummary
from ser_batch.stages.discover import FileList, Found, discover
from ser_batch.stages.ingredients import Ingredients, gather
from ser_batch.stages.processes import Ahead, worker_count
from ser_batch.stages.progress import Progress
from ser_batch.stages.reach import Archive, probes_of
from ser_batch.storage.address import is_url, on_disk
from ser_batch.text import printable

if TYPE_CHECKING:
    import pluggy

    from ser_batch.records import Classifier
    from ser_batch.run.metadata import FileTable
    from ser_batch.run.open import OpenRun

__all__ = ["MODES", "Planned", "Prepared", "RunSummary", "find_audio", "plan", "planned_run", "prepare", "scan"]

#: What to do with a run that exists: go on; delete its results and begin again; process again what other settings made;
#: process the failed files again and nothing else.
MODES = ("resume", "restart", "recompute", "retry")

#: Of so many files the report is due before what builds it is loaded.
_SOON_DONE_FILES = 256


def scan(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FileList,
    run_dir: str | os.PathLike[str],
    *,
    config: Config | None = None,
    plugins: PluginRecipe | None = None,
    mode: str = "resume",
    metadata: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    report: bool = True,
) -> RunSummary:
    """Analyse every audio file below the inputs into one run; go on where an earlier scan of it ended.

    Parameters
    ----------
    inputs : path, sequence of paths, or FileList
        Directories and files; or addresses of objects and what is below them, all of one bucket.
    run_dir : path, or address in a bucket
        Folder of the run; made where it does not exist.
    config : Config, optional
        The defaults, unless given.
    plugins : PluginRecipe, optional
        Built-in and installed plugins, unless given.
    mode : str
        One of `MODES`.
    metadata : path, optional
        A table about the files (CSV, Parquet, Excel), joined to the results wherever they are read, and checked before
        anything is computed; `ser_batch.tables.match.match_rows` says how its rows may name the files.
    progress : Progress, optional
        Is told how the scan goes.
    report : bool
        Build ``report.html`` at the end.

    Returns
    -------
    summary : RunSummary

    Raises
    ------
    NothingToDoError
        No audio file was found.
    InputError, ConfigError, PluginError, ModelError
        An input, a setting, a plugin or the model cannot be used.
    DataError
        The table about the files is no table, or its rows match no file or contradict each other.
    RunError
        The folder holds something else, is in use, was made with other settings, or cannot be written.
    KeyboardInterrupt
        Ctrl-C or SIGTERM. What was committed stays, and the same call goes on from there.
    """
    begin = time.monotonic()
    inputs, config, plugins, progress = _given(inputs, mode, config, plugins, progress)
    with Interruptions() as interruptions, place_of(run_dir) as place, ReportProcess() as reporter, Ahead() as ahead:

        def early(n_files: int) -> None:
            """Let others load what they need meanwhile, unless there may be nothing to do."""
            if ahead.has_begun or os.path.exists(place.folder / "run.json"):  # noqa: PTH110 - a folder that is not to be seen
                return
            # Plugins of others may hang, and nobody watches these workers yet.
            recipe = plugins if plugins.is_built_in else PluginRecipe((), (), plugins.built_in)
            ahead.start(worker_count(config.extract.jobs, n_files), recipe, _lasting(config))
            if report and n_files <= _SOON_DONE_FILES:
                with suppress(RunError):
                    reporter.start()

        if not isinstance(inputs, FileList) and inputs and all(map(os.path.isfile, inputs)):
            early(len(inputs))
        manager, found, about, ingredients, told = prepare(inputs, config, plugins, metadata, early)
        from ser_batch.run.open import open_run  # noqa: PLC0415 - loads pyarrow

        with open_run(place, ingredients, found, mode, interruptions) as run:
            _say_notices(progress, found, run, told)
            nothing_new = run.is_complete and about is None
            if not nothing_new:
                classifier, device = choose_device(config, manager, progress) if run.plan.n_files else (None, None)
                run.begin(manager, inputs, about, device)
                if report and run.plan.n_files <= run.plan.shard_size:
                    # Soon done: what builds the report loads what it needs meanwhile.
                    with suppress(RunError):
                        reporter.start()
                if not run.plan.is_empty:
                    _process(run, ingredients, classifier, manager, progress, ahead)
                run.complete(time.monotonic() - begin)
            summary = run.summary(n_processed=0 if nothing_new else run.plan.n_files)
        # The run is let go of before: whatever its report does, others may use it.
        has_report = report and _report(place, reporter, plugins, len(found), progress)
        return replace(summary, has_report=has_report)


def _given(
    inputs: Any, mode: str, config: Config | None, plugins: PluginRecipe | None, progress: Progress | None
) -> tuple[FileList | Sequence[Any], Config, PluginRecipe, Progress]:
    """Check what `scan` and `plan` are given, and fill in what is not."""
    if mode not in MODES:
        raise ConfigError(f"Unknown mode {mode!r}; it must be one of {', '.join(MODES)}.")
    if isinstance(inputs, str | os.PathLike):
        inputs = [inputs]
    return inputs, config or Config(), plugins or PluginRecipe(), progress or Progress()


def _say_notices(progress: Progress, found: Found, run: OpenRun, told: Iterable[str]) -> None:
    for notice in (*(f"Cannot list {folder}" for folder in found.unreadable), *run.notices, *told):
        progress.say(notice)


def _report(place: Place, reporter: ReportProcess, plugins: PluginRecipe, n_files: int, progress: Progress) -> bool:
    """See to the report of a run, and tell whether there is one now."""
    if place.has_report():
        return True
    try:
        place.fetch_for_report()
        refresh_report(reporter, place.folder, plugins, n_files, lambda text: progress.say(place.told(text)))
        return place.publish_report()
    except RunError as error:  # of a bucket: it costs the report, never the run
        progress.say(place.told(f"{error} The results are whole; `ser-batch report {place.name}` tries again."))
        return False


class Prepared(NamedTuple):
    """A scan that is checked, and has touched nothing yet."""

    manager: pluggy.PluginManager
    found: Found
    #: The user's table about the files.
    about: FileTable | None
    ingredients: Ingredients
    #: What the user's tables say that matches nothing, one line each.
    notices: tuple[str, ...]


def prepare(
    inputs: Any,
    config: Config,
    plugins: PluginRecipe,
    metadata: str | os.PathLike[str] | None,
    early: Callable[[int], None] = lambda n_files: None,
) -> Prepared:
    """Check everything about a scan but its run folder; other arguments and errors are those of `scan`.

    `early` is told how many files there are once they are found, before what takes longer.
    """
    config = _lasting(config)
    manager = plugins.build()
    hooks.validate_config(manager, config)
    found = find_audio(inputs, config)
    early(len(found))
    from ser_batch.run.metadata import read_file_table  # noqa: PLC0415 - loads pyarrow

    notices = _add_segments(found, config)
    about = read_file_table(metadata, found) if metadata is not None else None
    notices += about.notices if about else ()
    return Prepared(manager, found, about, gather(manager, plugins, config), notices)


def _lasting(config: Config) -> Config:
    """Return a configuration that means the same anywhere: for a later `retry`, and nodes, which begin elsewhere."""
    kept: dict[str, dict[str, str]] = {"predict": {"model": lasting_name(config.predict.model)}}
    if config.segments.is_table:
        kept["segments"] = {"source": os.path.abspath(config.segments.source)}  # noqa: PTH100 - it would follow links
    return config.with_values(kept)


def _add_segments(found: Found, config: Config) -> tuple[str, ...]:
    """Give files the segments that a table has for them; say what matches.

    Raises
    ------
    DataError, InputError
        It is no table of segments, or none of its rows means one of the files.
    """
    if not config.segments.is_table:
        return ()
    from ser_batch.segments.table import read_archive_segments  # noqa: PLC0415 - for those who have one

    table = read_archive_segments(Path(config.segments.source), found.root, found.clip_ids)
    found.segments = {found.clip_ids[place]: source for place, source in table.of.items()}
    return (table.summary,)


def find_audio(inputs: Any, config: Config) -> Found:
    """Find the files of a scan; see `discover`.

    Raises
    ------
    NothingToDoError
        There are none.
    InputError
        An input is missing, or all that was found are links that lead nowhere, or names of a list that do not exist.
    """
    found = discover(inputs, config.run.include, config.run.exclude, config.segments.source in ("auto", "voice"))
    if not len(found):
        where = inputs.source if isinstance(inputs, FileList) else ", ".join(printable(path) for path in inputs)
        raise NothingToDoError(
            f"No audio files found in {where}. Looked for files that end in .wav, .mp3, .flac, .ogg, .opus, .aiff and "
            f"other suffixes of audio and film, in any case; {found.n_unmatched} other and {found.n_hidden} hidden "
            f"entries were left out, {len(found.unreadable)} folders could not be listed."
        )
    if not found.is_seen:
        raise InputError(
            f"None of {len(found):,} files below {printable(found.root)} can be looked at, such as "
            f"{printable(found.clip_ids[0])}. {_ARE_THEY_THERE[is_url(found.root)]} Nothing was changed."
        )
    return found


_ARE_THEY_THERE = {False: "Is the archive mounted?", True: "Are they in the bucket, and may they be read?"}


def _process(
    run: OpenRun,
    ingredients: Ingredients,
    classifier: Classifier | None,
    manager: pluggy.PluginManager,
    progress: Progress,
    ahead: Ahead,
) -> None:
    from ser_batch.run.folder import scratch_folder  # noqa: PLC0415 - loads pyarrow

    n_jobs = worker_count(run.config.extract.jobs, run.plan.n_files)
    archive = Archive(run.plan.found.root, probes_of(run.plan.found))
    progress.begin(run.plan.n_files, len(run.plan.found))
    try:
        with (
            scratch_folder(run.run_dir) as folder,
            Line(ingredients, classifier, n_jobs, folder, archive, progress, ahead) as line,
        ):
            for shard, outcomes in line.run(run.plan.shards()):
                run.commit(shard, outcomes)
                line.tell(manager, outcomes)
    finally:
        progress.end()
    if run.kept_notice:
        progress.say(run.kept_notice)


class Planned(NamedTuple):
    """What `plan` has come to."""

    n_files: int
    #: Of them, that the run has already.
    n_done: int
    n_parts: int
    n_bundles: int


def plan(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FileList,
    run_dir: str | os.PathLike[str],
    **options: Any,
) -> Planned:
    """Check and plan a scan, and leave the work to nodes: `ser_batch.nodes.work` on any machine that sees the run.

    Arguments and errors are those of `scan`, but for ``report``. What the run has already is not planned; a plan that
    is there, and what nodes have published of it, is taken in first.
    """
    with planned_run(inputs, run_dir, **options) as (planned, _):
        return planned


@contextmanager
def planned_run(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FileList,
    run_dir: str | os.PathLike[str],
    *,
    config: Config | None = None,
    plugins: PluginRecipe | None = None,
    mode: str = "resume",
    metadata: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[Planned, OpenRun]]:
    """Do what `plan` does, and hold the run meanwhile."""
    from ser_batch.run.open import open_run  # noqa: PLC0415 - loads pyarrow

    begin = time.monotonic()
    inputs, config, plugins, progress = _given(inputs, mode, config, plugins, progress)
    folder = on_disk(run_dir)
    with Interruptions() as interruptions:
        manager, found, about, ingredients, told = prepare(inputs, config, plugins, metadata)
        with open_run(FolderPlace(folder), ingredients, found, mode, interruptions) as run:
            _say_notices(progress, found, run, told)
            written = None
            if not (run.is_complete and about is None):
                run.begin(manager, inputs, about, None)
                if run.plan.is_empty:
                    run.complete(time.monotonic() - begin)
                else:
                    written = run.leave_to_nodes(manager)
            n_parts, n_bundles = (len(written.parts), len(written.bundles)) if written else (0, 0)
            yield Planned(len(found), len(found) - run.plan.n_files, n_parts, n_bundles), run
