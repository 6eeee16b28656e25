"""From shards to outcomes, on one machine: extraction in workers, prediction where it is cheapest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.records import Classifier, ClipOutcome, ClipRef
from ser_batch.run.steps import reached
from ser_batch.stages.ingredients import Ingredients, Setup
from ser_batch.stages.pool import Extraction
from ser_batch.stages.predict import predict_outcomes
from ser_batch.stages.processes import Ahead
from ser_batch.stages.progress import Progress
from ser_batch.stages.reach import Archive, can_be_read, is_out_of_reach

if TYPE_CHECKING:
    import pluggy

    from ser_batch.run.plan import Shard

__all__ = ["Line", "choose_device"]


def choose_device(
    config: Config, manager: pluggy.PluginManager, progress: Progress
) -> tuple[Classifier | None, dict[str, str] | None]:
    """Return the classifier if the parent is to predict, on a GPU; and where the network computes, if anywhere."""
    name, requested = config.predict.model, config.predict.device
    if not name:
        return None, None
    from ser_batch.classifier.device import choose_device, open_classifier  # noqa: PLC0415 - only to predict

    choice, classifier = choose_device(requested), None
    if choice.device != "cpu":
        labels = config.predict.labels
        opened, choice = open_classifier(manager, name, requested, labels)
        if choice.device != "cpu":
            from ser_batch.classifier.standby import Standby  # noqa: PLC0415 - only for a GPU

            classifier = Standby(opened, lambda: hooks.load_classifier(manager, name, "cpu", labels), progress.say)
    progress.say(f"Device: {choice.device}. {choice.note}".strip())
    return classifier, {"requested": requested, "chosen": choice.device, "note": choice.note}


class Line:
    """Workers and a classifier that turn shards into outcomes; use as a context manager. It is kept over many shards.

    Parameters
    ----------
    ingredients : Ingredients
    classifier : Classifier or None
        That of the parent; None where workers predict.
    n_jobs : int
        Worker processes.
    folder : Path
        An empty folder of this work's own, for what workers write.
    archive : Archive
        Watched, so that nothing is made of an archive that is gone.
    progress : Progress
    ahead : Ahead, optional
        Workers that have begun.
    """

    def __init__(
        self,
        ingredients: Ingredients,
        classifier: Classifier | None,
        n_jobs: int,
        folder: Path,
        archive: Archive,
        progress: Progress,
        ahead: Ahead | None = None,
    ) -> None:
        self._setup = ingredients.setup(predict=classifier is None)
        self._classifier, self._folder, self._archive, self._progress = classifier, folder, archive, progress
        self._silenced: set[str] = set()
        self._extraction = Extraction(self._setup, n_jobs, folder, progress, ahead)

    def __enter__(self) -> Line:
        self._extraction.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._extraction.__exit__(*error)

    def run(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, list[ClipOutcome]]]:
        """Yield each shard with its outcomes, in order; while the caller stores one, the next are being worked on.

        Raises
        ------
        InputError
            The archive is gone.
        PluginError, ModelError, RunError
            The workers cannot begin or go on.
        """
        for shard, extracted in self._extraction.run((shard, shard.refs) for shard in shards):
            yield shard, self._finished(extracted)

    def outcomes(self, refs: Sequence[ClipRef]) -> list[ClipOutcome]:
        """Return the outcomes of some files, with nothing else in hand. Raises as `run`."""
        return self._finished(self._extraction.finish(self._extraction.start(refs)))

    def tell(self, manager: pluggy.PluginManager, outcomes: Sequence[ClipOutcome]) -> None:
        """Let plugins observe finished files; one that fails is said once and never stops the work."""
        for plugin, error in hooks.clip_finished(manager, outcomes):
            if plugin not in self._silenced:
                self._silenced.add(plugin)
                self._progress.say(f"{error} (Said once.)")

    def _finished(self, extracted: list[ClipOutcome]) -> list[ClipOutcome]:
        outcomes = _tried_again(extracted, self._setup, self._folder)
        self._archive.check(outcomes)
        reached("shard-extracted")
        if self._classifier is not None:
            outcomes = predict_outcomes(outcomes, self._classifier, self._setup.config.predict.batch_size)
        reached("shard-predicted")
        return outcomes


def _tried_again(outcomes: list[ClipOutcome], setup: Setup, folder: Path) -> list[ClipOutcome]:
    """Give files that could not be looked at, and can be now, to a fresh worker: perhaps the other one was spent."""
    again = [item.ref for item in outcomes if is_out_of_reach(item) and can_be_read(item.ref.path)]
    if not again:
        return outcomes
    place = Path(tempfile.mkdtemp(prefix="again-", dir=folder))
    with Extraction(setup, 1, place, Progress()) as extraction:
        better = {item.ref.clip_id: item for item in extraction.finish(extraction.start(again))}
    return [better.get(item.ref.clip_id, item) for item in outcomes]
