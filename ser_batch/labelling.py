"""A run labelled anew, from Python: another last layer, or other labels to answer among, without audio."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ser_batch import hooks
from ser_batch.errors import ConfigError, RunError, SerBatchError
from ser_batch.interrupt import Interruptions
from ser_batch.plugins import PluginRecipe
from ser_batch.report.apart import Limits, ReportProcess
from ser_batch.run.summary import RunSummary
from ser_batch.stages.progress import Progress
from ser_batch.storage.address import on_disk, run_on_disk

__all__ = ["label"]


def label(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    model: str = "",
    labels: Sequence[str] = (),
    plugins: PluginRecipe | None = None,
    progress: Progress | None = None,
    report: bool = True,
) -> RunSummary:
    """Label a run anew from what its network heard; the audio is not read.

    Parameters
    ----------
    run : path
        A run with embeddings; it stays as it is.
    target : path
        Folder of the new run: new, empty, or one that an earlier call made of `run`, which is replaced.
    model : str
        A shipped name or the path of a ``.safetensors`` file whose network hears as that of the run does, as those of
        `ser-batch adapt` do; by default the model of the run.
    labels : sequence of str
        Answer among these labels of the model only; none means all.
    plugins, progress, report
        As for `ser_batch.engine.scan`.

    Returns
    -------
    summary : RunSummary

    Raises
    ------
    ConfigError
        Neither a model nor labels are given, so that nothing would change.
    RunError
        See `ser_batch.heads.relabel.label_run`.
    ModelError, PluginError
        The model cannot be used, or does not have a label.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the same call begins the new run again.
    """
    from ser_batch.heads.relabel import label_run  # noqa: PLC0415 - loads pyarrow
    from ser_batch.run.manifest import read_manifest  # noqa: PLC0415

    if not model and not labels:
        raise ConfigError("Nothing would change: give a model (--model), labels to answer among (--labels), or both.")
    run, target, plugins, progress = (
        run_on_disk(run),
        on_disk(target),
        plugins or PluginRecipe(),
        progress or Progress(),
    )
    info = read_manifest(run)
    model = model or info.get("config", {}).get("predict", {}).get("model", "")
    if not model:
        raise RunError(f"{run} was made without a model, so there is nothing to label: scan it with one.")
    classifier = hooks.load_classifier(plugins.build(), model, "cpu", labels)
    with Interruptions() as interruptions, ReportProcess() as reporter:
        summary = label_run(run, target, classifier, model, interruptions, progress)
        if report:
            # A report that cannot be built costs the report, never the run.
            try:
                reporter.build(target, plugins, Limits.of_scan(sum(summary.emotions.values())))
            except SerBatchError as error:
                progress.say(f"{error} The results are whole; `ser-batch report {target}` tries again.")
    return summary
