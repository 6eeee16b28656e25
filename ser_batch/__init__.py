"""Label large audio archives with emotion.

All parts are imported on first use: ``import ser_batch`` loads no other library, so that `ser_batch.__main__` can see
to where they come from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ser_batch._version import __version__

if TYPE_CHECKING:
    from ser_batch.config import Config as Config
    from ser_batch.config import load_config as load_config
    from ser_batch.engine import scan as scan
    from ser_batch.errors import SerBatchError as SerBatchError
    from ser_batch.hookspecs import hookimpl as hookimpl
    from ser_batch.labelling import label as label
    from ser_batch.predictor import EmotionPredictor as EmotionPredictor
    from ser_batch.predictor import NetworkInputs as NetworkInputs
    from ser_batch.records import Clip as Clip
    from ser_batch.records import ClipOutcome as ClipOutcome
    from ser_batch.records import ClipRef as ClipRef
    from ser_batch.records import FeatureBlock as FeatureBlock
    from ser_batch.records import FeatureSpec as FeatureSpec
    from ser_batch.records import Prediction as Prediction
    from ser_batch.records import Segment as Segment
    from ser_batch.records import Status as Status
    from ser_batch.run.load import load_results as load_results

_LAZY = {
    "Clip": "ser_batch.records",
    "ClipOutcome": "ser_batch.records",
    "ClipRef": "ser_batch.records",
    "Config": "ser_batch.config",
    "EmotionPredictor": "ser_batch.predictor",
    "FeatureBlock": "ser_batch.records",
    "FeatureSpec": "ser_batch.records",
    "NetworkInputs": "ser_batch.predictor",
    "Prediction": "ser_batch.records",
    "Segment": "ser_batch.records",
    "SerBatchError": "ser_batch.errors",
    "Status": "ser_batch.records",
    "hookimpl": "ser_batch.hookspecs",
    "label": "ser_batch.labelling",
    "load_config": "ser_batch.config",
    "load_results": "ser_batch.run.load",
    "scan": "ser_batch.engine",
}

__all__ = [
    "Clip",
    "ClipOutcome",
    "ClipRef",
    "Config",
    "EmotionPredictor",
    "FeatureBlock",
    "FeatureSpec",
    "NetworkInputs",
    "Prediction",
    "Segment",
    "SerBatchError",
    "Status",
    "__version__",
    "hookimpl",
    "label",
    "load_config",
    "load_results",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'ser_batch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
