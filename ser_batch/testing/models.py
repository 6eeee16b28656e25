"""The trial of a model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.contracts import CheckedExtractor
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import SerBatchError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Classifier, FeatureBlock, Prediction
from ser_batch.stages.analyse import select_extractors
from ser_batch.stages.predict import hear, stacked
from ser_batch.testing.kit import NEARLY, CheckReport, Finding, Kit, warnings_caught

__all__ = ["check_classifier"]

#: What half precision may change in a probability.
_HALF = 1e-3


def check_classifier(
    classifier: Classifier,
    *,
    config: Config | None = None,
    plugin: str = "",
    recipe: PluginRecipe | None = None,
) -> CheckReport:
    """Try a model, as ``load_classifier`` returns it, on unkind audio and return what was found.

    Parameters
    ----------
    classifier : Classifier
        The model to try, for a CPU.
    config : Config, optional
        Gives the sample rate and the windows; the defaults when None.
    plugin : str, optional
        Name of its plugin, for messages.
    recipe : PluginRecipe, optional
        Offers the extractors that it needs; the built-in and the installed plugins when None.

    Returns
    -------
    report : CheckReport
        ``report.ok`` is False when a promise is broken: wrong labels, needs or columns; probabilities that are not
        finite, below 0 or do not add up to 1, also where all features are undefined; other numbers at a second time, or
        where windows of several files are predicted at once, or where labels are made of embeddings.
    """
    kit = Kit(config or Config(), plugin or type(classifier).__module__)
    try:
        model = CheckedClassifier(kit.plugin, classifier)
        offered = hooks.register_extractors((recipe or PluginRecipe()).build(), kit.config)
        trial = _Model(model, select_extractors(offered, (), model), kit)
    except SerBatchError as error:
        finding = Finding("promises", str(error))
        return CheckReport("model", type(classifier).__name__, ("promises",), (finding,), np.nan, np.nan)
    for name in kit.signals:
        kit.run(name, partial(trial.try_signal, name))
    kit.run("undefined features", trial.check_undefined)
    kit.run("same numbers again", trial.check_repeatable)
    kit.run("windows of several files at once", trial.check_stacked)
    if model.n_embedding:
        kit.run("listening and labelling", trial.check_two_steps)
    return kit.report("model", model.name, trial.cost_per_window_s())


class _Model:
    """A model under trial."""

    def __init__(
        self, model: CheckedClassifier, extractors: Mapping[str, tuple[str, CheckedExtractor]], kit: Kit
    ) -> None:
        self._model, self._extractors, self._kit = model, extractors, kit
        self._blocks: dict[str, dict[str, FeatureBlock]] = {}
        self._first: dict[str, Prediction] = {}

    def _predict(self, blocks: Mapping[str, FeatureBlock]) -> Prediction:
        return self._model.pool(*self._model.predict(blocks))

    def try_signal(self, name: str) -> list[str]:
        samples = self._kit.signals[name]
        clip, windows_s = self._kit.clip(samples), self._kit.windows(samples)
        blocks = {key: extractor.extract(clip, windows_s) for key, (_, extractor) in self._extractors.items()}
        with warnings_caught() as caught:
            self._first[name] = self._predict(blocks)
        self._blocks[name] = blocks
        return [f"warned: {warning}" for warning in caught]

    def check_undefined(self) -> None:
        """Features may all be undefined: the model must have an answer."""
        undefined = {
            name: replace(block, scalars=np.full_like(block.scalars, np.nan))
            for name, block in self._blocks["voice"].items()
        }
        self._predict(undefined)

    def check_repeatable(self) -> list[str]:
        return [
            f"the probabilities for {name!r} differ between two calls"
            for name, blocks in self._blocks.items()
            if not np.array_equal(self._predict(blocks).probabilities, self._first[name].probabilities)
        ]

    def check_stacked(self) -> list[str]:
        names = list(self._blocks)
        together, _ = self._model.predict(stacked([tuple(self._blocks[name].values()) for name in names]))
        apart = np.concatenate([self._first[name].window_probabilities for name in names])
        difference = np.abs(together - apart).max()
        return [] if difference <= NEARLY else [f"windows predicted together differ by up to {difference:.2g}"]

    def check_two_steps(self) -> list[str]:
        """What is predicted at once is what is heard, then labelled, also from half precision as a run stores it."""
        problems = []
        for name, blocks in self._blocks.items():
            whole, _ = self._model.predict(blocks)
            difference = np.abs(self._model.label(hear(self._model, blocks).embeddings) - whole).max()
            if difference > _HALF:
                problems.append(f"label(listen(…)) of {name!r} differs from predict(…) by up to {difference:.2g}")
        return problems

    def cost_per_window_s(self) -> float:
        if "voice" not in self._blocks:
            return float("nan")
        begin = time.perf_counter()
        probabilities, _ = self._model.predict(self._blocks["voice"])
        return (time.perf_counter() - begin) / len(probabilities)
