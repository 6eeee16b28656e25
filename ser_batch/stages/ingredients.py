"""What a scan, a training or a worker is made of: all that decides its numbers, and what differs between two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.contracts import CheckedExtractor
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.plugins import PluginRecipe
from ser_batch.records import FeatureSpec
from ser_batch.stages.analyse import ANALYSIS_VERSION, Change, select_extractors

if TYPE_CHECKING:
    import pluggy

__all__ = ["Ingredients", "Setup", "card_of", "differences", "fingerprint_of", "gather", "ingredients_of"]

#: What of a model file is repeated in a run, so that its results can be understood without it.
_CARD_FIELDS = (
    "format_version",
    "features",
    "temperature",
    "pooling",
    "training",
    "scores",
    "created",
    "derived_from",
    "adapted",
)
_TRAINING_FIELDS = ("corpora", "licences", "teacher", "seeds", "n_clips", "n_speakers", "tool_version")


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a worker needs to begin; small, picklable and hashable."""

    recipe: PluginRecipe
    config: Config
    #: Extractors to run, those of the model included.
    extractors: tuple[str, ...]
    #: Model to load; "" = none.
    model: str
    #: False where the parent predicts, on a GPU: blocks keep their tensors then.
    predict: bool
    #: Whether blocks keep their tensors, those of long recordings included.
    keep_tensors: bool = False
    #: Done to each file once it is decoded.
    change: Change | None = None
    #: What a worker must come to, too: see `Ingredients.promise`; "" = anything.
    promise: str = ""

    @property
    def built_in_extractors(self) -> tuple[str, ...]:
        """Those of `extractors` that compute in kernels of ours."""
        return tuple(name for name in self.extractors if f"ser_batch.{name}" in self.recipe.built_in)


@dataclass(frozen=True)
class Ingredients:
    """All that decides the results of a scan, known before the first file is read."""

    config: Config
    recipe: PluginRecipe
    specs: tuple[FeatureSpec, ...]
    labels: tuple[str, ...]
    model: Mapping[str, Any]
    #: Plugins that read audio, the built-in one included -> version.
    readers: Mapping[str, str | int]
    #: Plugins that find segments -> version; none unless they are looked for.
    finders: Mapping[str, str | int] = field(default_factory=dict)
    #: Numbers in the embedding of a window that is stored; 0 for none.
    n_embedding: int = 0

    @property
    def has_segments(self) -> bool:
        """Whether segments are looked for, anywhere."""
        return self.config.segments.source != "none"

    def settings(self) -> dict[str, Any]:
        """Return everything that changes results, flat, by a name that people recognise."""
        settings = {f"audio.{key}": value for key, value in self.config.as_dict()["audio"].items()}
        settings["analysis"] = ANALYSIS_VERSION
        settings |= {f"extractor {spec.extractor}": spec.version for spec in self.specs}
        settings |= {f"reader {plugin}": version for plugin, version in self.readers.items()}
        if self.config.extract.channels != "mix":
            settings["channels"] = self.config.extract.channels
        segments = self.config.segments
        if self.has_segments:
            settings["segments"] = "table" if segments.is_table else segments.source
        settings |= {f"finder {plugin}": version for plugin, version in self.finders.items()}
        if self.model:
            settings |= {"model weights": self.model["sha256"], "labels": list(self.labels)}
            settings["predict.abstain"] = self.config.predict.abstain
        if self.n_embedding:
            settings["embeddings"] = self.n_embedding
            if self.has_segments:
                settings["embeddings of segments"] = True
        return settings

    def fingerprint(self) -> str:
        """Return a hash of `settings`; see `fingerprint_of`."""
        return fingerprint_of(self.settings())

    def setup(self, predict: bool) -> Setup:
        """Return what a worker builds; `predict` says whether it predicts, too."""
        extractors = tuple(spec.extractor for spec in self.specs)
        return Setup(self.recipe, self.config, extractors, self.config.predict.model, predict, promise=self.promise())

    def promise(self) -> str:
        """Return `settings` and the columns of each extractor, as JSON: what every process of a scan must agree on."""
        columns = {f"columns of {spec.extractor}": [*spec.columns, spec.tensor_shape] for spec in self.specs}
        return json.dumps(self.settings() | columns, sort_keys=True)


def gather(manager: pluggy.PluginManager, recipe: PluginRecipe, config: Config) -> Ingredients:
    """Find out what a scan under `config` is made of, without computing anything.

    Raises
    ------
    ModelError, PluginError
        The model or an extractor is missing or does not fit.
    """
    offered = hooks.register_extractors(manager, config)
    # For the CPU whatever computes later: that loads no weights into a device.
    name = config.predict.model
    classifier = hooks.load_classifier(manager, name, "cpu", config.predict.labels) if name else None
    selected = select_extractors(offered, config.extract.extractors, classifier)
    # An extractor that gives a tensor and nothing else works for the model alone.
    needed = {name for name, _ in classifier.needs} if classifier else set()
    selected = {name: item for name, item in selected.items() if item[1].spec.scalars or name in needed}
    return ingredients_of(manager, recipe, config, selected, classifier)


def ingredients_of(
    manager: pluggy.PluginManager,
    recipe: PluginRecipe,
    config: Config,
    extractors: Mapping[str, tuple[str, CheckedExtractor]],
    classifier: CheckedClassifier | None,
) -> Ingredients:
    """Return the ingredients that are already loaded.

    Parameters
    ----------
    manager : pluggy.PluginManager
    recipe : PluginRecipe
        What `manager` was built from.
    config : Config
    extractors : mapping
        Those that run: name -> (plugin, extractor).
    classifier : CheckedClassifier or None

    Raises
    ------
    PluginError
        The version of a reader is neither a number nor text.
    """
    return Ingredients(
        config=config,
        recipe=recipe,
        specs=tuple(extractor.spec for _, extractor in extractors.values()),
        labels=tuple(classifier.labels) if classifier else (),
        model=card_of(classifier) if classifier else {},
        readers=hooks.reader_versions(manager),
        n_embedding=classifier.n_embedding if classifier and config.predict.embeddings else 0,
        finders=hooks.finder_versions(manager) if config.segments.source == "voice" else {},
    )


def card_of(classifier: CheckedClassifier) -> dict[str, Any]:
    """Return what ``run.json`` says of a model."""
    model: dict[str, Any] = {
        "name": classifier.name,
        "sha256": classifier.sha256,
        "needs": [list(need) for need in classifier.needs],
        **({"listening_sha256": classifier.listening_sha256} if classifier.n_embedding else {}),
    }
    model |= {key: classifier.card[key] for key in _CARD_FIELDS if key in classifier.card}
    if model.get("training"):
        # The keys of all training speakers and files are for `evaluate` alone, and a hundred kilobytes.
        model["training"] = {key: model["training"][key] for key in _TRAINING_FIELDS if key in model["training"]}
    return model


def fingerprint_of(settings: Mapping[str, Any]) -> str:
    """Return a hash of what changes results, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say, one line each, which settings differ between two runs."""
    absent = "absent"
    return [
        f"{name}: {_short(old.get(name, absent))} -> {_short(new.get(name, absent))}"
        for name in sorted({*old, *new})
        if old.get(name, absent) != new.get(name, absent)
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}…"
