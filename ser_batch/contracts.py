"""What plugins return, held against what docs/hooks.md promises. Everything that comes from a plugin passes here."""

from __future__ import annotations

import numpy as np

from ser_batch.errors import PluginError
from ser_batch.records import FeatureBlock, FeatureSpec

__all__ = ["check_block", "check_spec"]


def check_spec(plugin: str, extractor: object) -> FeatureSpec:
    """Return the spec of `extractor` if it is an extractor whose name, version and columns are well formed.

    Raises
    ------
    PluginError
        It is not; the message names the plugin and says what was expected.
    """
    spec = getattr(extractor, "spec", None)
    if not isinstance(spec, FeatureSpec) or not callable(getattr(extractor, "extract", None)):
        raise PluginError(
            f"Plugin {plugin!r} registered {extractor!r}, which is not an extractor: an instance with a `spec` "
            f"(FeatureSpec) and a method `extract(clip, windows_s)`."
        )
    where = f"Plugin {plugin!r}: extractor {spec.extractor!r}"
    if not spec.extractor.isidentifier() or "__" in spec.extractor:
        raise PluginError(f"{where}: the name must be a Python identifier without a double underscore.")
    if not isinstance(spec.version, int) or spec.version < 1:
        raise PluginError(f"{where}: version must be a whole number from 1, not {spec.version!r}.")
    for scalar in spec.scalars:
        if len(scalar) != 2 or not f"{scalar[0]}_{scalar[1]}".isidentifier():
            raise PluginError(f'{where}: scalars must be pairs (name, unit) such as ("f0_mean", "hz"), not {scalar!r}.')
    twice = sorted({column for column in spec.columns if spec.columns.count(column) > 1})
    if twice:
        raise PluginError(f"{where} declares column {twice[0]!r} twice.")
    return spec


def check_block(plugin: str, spec: FeatureSpec, block: object, n_windows: int) -> FeatureBlock:
    """Return `block` if it keeps the promise of `spec`: shapes, float32, and NaN (never infinity) for undefined.

    Raises
    ------
    PluginError
        It does not; the message names plugin, extractor and column, and what was expected.
    """
    where = f"Plugin {plugin!r}: extractor {spec.extractor!r}"
    if not isinstance(block, FeatureBlock):
        raise PluginError(f"{where} must return a FeatureBlock, not {type(block).__name__}.")
    if block.extractor != spec.extractor:
        raise PluginError(f"{where} returned a block named {block.extractor!r}; name it after the extractor.")
    n_scalars = len(spec.scalars)
    _check_array(where, "scalars", block.scalars, (n_windows, n_scalars))
    _check_array(where, "clip_scalars", block.clip_scalars, (n_scalars,))
    infinite = np.isinf(np.vstack([block.scalars, block.clip_scalars])).any(axis=0)
    if infinite.any():
        column = spec.columns[int(np.argmax(infinite))]
        raise PluginError(f"{where} gave infinity in column {column!r}; use NaN where a number is undefined.")
    if spec.tensor_shape is None:
        if block.tensor is not None:
            raise PluginError(f"{where} returned a tensor, but its spec declares none (tensor_shape=None).")
        return block
    if block.tensor is None:
        raise PluginError(f"{where} returned no tensor, but its spec declares one of shape {spec.tensor_shape}.")
    _check_array(where, "tensor", block.tensor, (n_windows, *spec.tensor_shape))
    if np.isinf(block.tensor).any():
        raise PluginError(f"{where} gave infinity in its tensor; limit it, or use NaN where a number is undefined.")
    return block


def _check_array(where: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray):
        raise PluginError(f"{where}: {name} must be a numpy array, not {type(value).__name__}.")
    if value.dtype != np.float32 or value.shape != shape:
        raise PluginError(
            f"{where}: {name} must be float32 of shape {shape}, not {value.dtype} of shape {value.shape}."
        )
