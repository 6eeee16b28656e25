"""``run.json``: what a run is made of, and the fingerprint of all that changes its results."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.audio import READER_VERSION
from ser_batch.config import Config
from ser_batch.errors import RunError
from ser_batch.plugins import PluginRecipe, describe_plugins
from ser_batch.records import Classifier, FeatureSpec
from ser_batch.stages.analyse import select_extractors
from ser_batch.stages.discover import FileList, read_file_list
from ser_batch.stages.worker import Setup

if TYPE_CHECKING:
    import pluggy

__all__ = [
    "Ingredients",
    "config_of_run",
    "differences",
    "gather",
    "inputs_of_run",
    "new_manifest",
    "read_manifest",
]

#: Libraries whose versions a run records.
_LIBRARIES = ("joblib", "numpy", "onnxruntime", "pluggy", "pyarrow", "scipy", "soundfile", "soxr", "torch")

#: What of a model file is repeated in the run, so that its results can be understood without it.
_CARD_FIELDS = ("format_version", "features", "temperature", "pooling", "training", "scores", "created")
_TRAINING_FIELDS = ("corpora", "licences", "seeds", "n_clips", "n_speakers", "tool_version")


@dataclass(frozen=True)
class Ingredients:
    """All that decides the results of a scan, known before the first file is read."""

    config: Config
    recipe: PluginRecipe
    specs: tuple[FeatureSpec, ...]
    labels: tuple[str, ...]
    model: Mapping[str, Any]
    #: Plugins that read audio, the built-in one included.
    readers: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """Return everything that changes results, flat, by a name that people recognise."""
        settings = {f"audio.{key}": value for key, value in self.config.as_dict()["audio"].items()}
        settings |= {f"extractor {spec.extractor}": spec.version for spec in self.specs}
        settings["readers"] = [*self.readers, READER_VERSION]
        if self.model:
            settings |= {"model weights": self.model["sha256"], "labels": list(self.labels)}
            settings["predict.abstain"] = self.config.predict.abstain
        return settings

    def fingerprint(self) -> str:
        """Return a hash of `settings`, 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:16]

    def setup(self, predict: bool) -> Setup:
        """Return what a worker builds; `predict` says whether it predicts, too."""
        extractors = tuple(spec.extractor for spec in self.specs)
        return Setup(self.recipe, self.config, extractors, self.config.predict.model, predict)


def gather(manager: pluggy.PluginManager, recipe: PluginRecipe, config: Config) -> Ingredients:
    """Find out what a scan under `config` is made of, without computing anything.

    Raises
    ------
    ModelError, PluginError
        The model or an extractor is missing or does not fit.
    """
    offered = hooks.register_extractors(manager, config)
    model: dict[str, Any] = {}
    classifier: Classifier | None = None
    if config.predict.model:
        # For the CPU whatever computes later: that loads no weights into a device.
        classifier = hooks.load_classifier(manager, config.predict.model, "cpu")
        model = {
            "name": classifier.name,
            "sha256": classifier.sha256,
            "needs": [list(need) for need in classifier.needs],
        }
        card = getattr(getattr(classifier, "checkpoint", None), "meta", {})
        model |= {key: card[key] for key in _CARD_FIELDS if key in card}
        if "training" in model:
            # The keys of all training speakers and files are for `evaluate` alone, and a hundred kilobytes.
            model["training"] = {key: model["training"][key] for key in _TRAINING_FIELDS if key in model["training"]}
    needs = classifier.needs if classifier else ()
    selected = select_extractors(offered, config.extract.extractors, needs)
    # An extractor that gives a tensor and nothing else works for the model alone.
    selected = {
        name: item for name, item in selected.items() if item[1].spec.scalars or name in {need for need, _ in needs}
    }
    return Ingredients(
        config=config,
        recipe=recipe,
        specs=tuple(extractor.spec for _, extractor in selected.values()),
        labels=tuple(classifier.labels) if classifier else (),
        model=model,
        readers=tuple(sorted(item.plugin_name for item in manager.hook.read_clip.get_hookimpls())),
    )


def new_manifest(ingredients: Ingredients, manager: pluggy.PluginManager, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``run.json`` says at the start of a visit; identity and times of an earlier visit stay."""
    from ser_batch.run.schema import SCHEMA_VERSION  # noqa: PLC0415 - loads pyarrow

    now = _now()
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": old.get("run_id") or uuid.uuid4().hex,
        "tool_version": __version__,
        "created": old.get("created") or now,
        "updated": now,
        "state": "running",
        "config": ingredients.config.as_dict(),
        "fingerprint": ingredients.fingerprint(),
        "settings": ingredients.settings(),
        "labels": list(ingredients.labels),
        "model": dict(ingredients.model),
        "plugins": [
            {
                "name": plugin.name,
                "package": plugin.package,
                "version": plugin.version,
                "extractors": [spec.extractor for spec in plugin.extractors if spec in ingredients.specs],
            }
            for plugin in describe_plugins(manager, hooks.register_extractors(manager, ingredients.config))
        ],
        "plugin_files": [os.path.abspath(file) for file in ingredients.recipe.files],  # noqa: PTH100
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        },
        "counts": old.get("counts", {}),
        "audio_s": old.get("audio_s", 0.0),
        "wall_s": old.get("wall_s", 0.0),
        "stage_s": old.get("stage_s", {}),
    } | ({"metadata": old["metadata"]} if "metadata" in old else {})


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return ``run.json`` of a run.

    Raises
    ------
    RunError
        The folder is no run, or ``run.json`` is damaged.
    """
    path = run_dir / "run.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run_dir} is not a run: it has no run.json.") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). Restore it, or delete it and give --recompute changed: parts stay."
        ) from error
    return manifest


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


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def config_of_run(manifest: Mapping[str, Any]) -> Config:
    """Return the configuration that a run was made with."""
    return Config().with_values(manifest["config"], source="run.json")


def inputs_of_run(manifest: Mapping[str, Any]) -> list[str] | FileList:
    """Return the inputs that a run was made from."""
    if "files_from" in manifest:
        return read_file_list(Path(manifest["files_from"]))
    return list(manifest["inputs"])
