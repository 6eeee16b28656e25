"""A scan whose work is done by a cluster: planned here, done there, taken in here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ser_batch.engine import planned_run
from ser_batch.interrupt import Interruptions
from ser_batch.nodes.dask import Cluster
from ser_batch.plugins import PluginRecipe
from ser_batch.report.apart import ReportProcess, refresh_report
from ser_batch.stages.progress import Progress
from ser_batch.storage.address import on_disk

if TYPE_CHECKING:
    from ser_batch.run.summary import RunSummary
    from ser_batch.stages.discover import FileList

__all__ = ["scan_on"]


def scan_on(
    address: str,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FileList,
    run_dir: str | os.PathLike[str],
    *,
    plugins: PluginRecipe | None = None,
    progress: Progress | None = None,
    report: bool = True,
    **options: Any,
) -> RunSummary:
    """Do what `scan` does on the workers of a Dask scheduler, which see archive and run under the same names.

    The run is held all the while, so that a second driver, or a scan, is refused.

    Parameters
    ----------
    address : str
        Of the scheduler, as `ser_batch.nodes.dask.check_address` gives it.
    inputs, run_dir, plugins, progress, report, **options
        As for `ser_batch.engine.scan`.

    Raises
    ------
    ConfigError
        Dask is not installed.
    RunError
        The scheduler does not answer, no worker can do the work, or as for `scan`.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the same call goes on.
    """
    plugins, progress = plugins or PluginRecipe(), progress or Progress()
    folder = on_disk(run_dir)
    with Interruptions(), ReportProcess() as reporter:
        with Cluster(address, progress) as cluster:
            cluster.let_go(folder)
            with planned_run(inputs, folder, plugins=plugins, progress=progress, **options) as (planned, run):
                if planned.n_parts:
                    # The plan was written a moment ago, with the plugin files that were given here.
                    summary = cluster.do(run.collector(), {"trust_plugins": bool(plugins.files)})
                else:
                    summary = run.summary(n_processed=0)
        if report:
            refresh_report(reporter, folder, plugins, planned.n_files, progress.say)
        return summary
