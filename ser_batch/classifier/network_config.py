"""The shape of the network, without torch: stored in every model file and read by whatever rebuilds the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ser_batch.errors import ModelError

__all__ = ["N_DENSE", "NetworkConfig"]

#: Features of the dense branch.
N_DENSE = 13


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What is needed to build a `HybridCNN` that fits given weights.

    Attributes
    ----------
    n_labels : int
        Emotions.
    n_bands, n_frames : int
        Mel bands and frames of one window.
    n_views : int
        1: the spectrogram alone; 2: beside it, the same less the mean of each band, so that what moves is told apart
        from what a voice, a room or a microphone always sounds like.
    channels : tuple of 4 int
        Output channels of the four convolutions.
    strides : tuple of 4 (int, int)
        Stride of each convolution over (bands, frames).
    pools : tuple of 4 (int, int)
        Max-pooling after each convolution over (bands, frames); (1, 1) = none.
    attention_units : int
        Width of the attention over time.
    dense_units, mel_units, fusion_units : int
        Widths of the dense branch, of the mel embedding, and of the fusion layer.
    dynamic_range_db : float
        What lies further than this below the loudest cell of its window is raised to that level.
    audible_range_db : float
        A frame counts as audible when its loudest band lies at most this far below the loudest cell of the window.
    """

    n_labels: int = 6
    n_bands: int = 128
    n_frames: int = 130
    n_views: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 160)
    strides: tuple[tuple[int, int], ...] = ((2, 2), (1, 2), (1, 1), (1, 1))
    pools: tuple[tuple[int, int], ...] = ((2, 1), (2, 2), (2, 1), (1, 1))
    attention_units: int = 96
    mel_units: int = 256
    dense_units: int = 128
    fusion_units: int = 128
    dynamic_range_db: float = 50.0
    audible_range_db: float = 35.0

    def __post_init__(self) -> None:
        for name, is_sound in _SOUND.items():
            if not is_sound(getattr(self, name)):
                raise ModelError(f"The network cannot have {name} {getattr(self, name)!r}.")
        if not len(self.channels) == len(self.strides) == len(self.pools) == 4:
            raise ModelError("The network has four convolutions: channels, strides and pools need four entries each.")
        if self.n_views not in (1, 2):
            raise ModelError(f"The network has 1 or 2 views of a spectrogram, not {self.n_views}.")

    @property
    def n_bands_out(self) -> int:
        """Bands left after the convolutions."""
        return self._reduced(self.n_bands, 0)

    @property
    def n_steps_out(self) -> int:
        """Time steps left after the convolutions."""
        return self._reduced(self.n_frames, 1)

    @property
    def time_stride(self) -> int:
        """Frames per time step."""
        product = 1
        for stride, pool in zip(self.strides, self.pools, strict=True):
            product *= stride[1] * pool[1]
        return product

    def _reduced(self, size: int, axis: int) -> int:
        for stride, pool in zip(self.strides, self.pools, strict=True):
            # 3x3 kernel with padding 1, then max-pooling that keeps a last incomplete cell.
            size = -(-size // stride[axis])
            size = -(-size // pool[axis])
        return size

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Rebuild from `as_dict`, or from the same after a journey through JSON.

        Raises
        ------
        ModelError
            An unknown key: the model was made by a newer version.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"Network settings unknown to this version: {', '.join(unknown)}. Upgrade ser-batch.")
        # Models from before there were two views do not say how many they have.
        return cls(**{"n_views": 1, **{key: _tuples(value) for key, value in values.items()}})


#: Layers beyond are no network that a laptop runs.
_LARGEST_SIZE = 65_536


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_SIZE


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(map(_is_size, values))


def _are_pairs(values: Any) -> bool:
    return isinstance(values, tuple) and all(_are_sizes(pair) and len(pair) == 2 for pair in values)


def _is_range_db(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1_000


_SOUND: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("n_labels", "n_bands", "n_frames", "attention_units", "mel_units", "dense_units", "fusion_units"), _is_size
    ),
    "channels": _are_sizes,
    "strides": _are_pairs,
    "pools": _are_pairs,
    "dynamic_range_db": _is_range_db,
    "audible_range_db": _is_range_db,
}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
