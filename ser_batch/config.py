"""One validated, frozen configuration: defaults, then a TOML file, then options of the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from ser_batch.errors import ConfigError
from ser_batch.kinds import is_number, is_text
from ser_batch.text import did_you_mean, printable, shown

__all__ = [
    "DEVICES",
    "SEGMENT_SOURCES",
    "AudioConfig",
    "Config",
    "ExtractConfig",
    "PredictConfig",
    "RunConfig",
    "SegmentsConfig",
    "load_config",
    "overlay",
    "read_toml",
    "require",
]

#: Where a network may compute; "auto" is the first that works.
DEVICES = ("auto", "cuda", "mps", "cpu")
#: Where segments come from, but for a table: files beside the recordings; these, or else what is found; or nowhere.
SEGMENT_SOURCES = ("auto", "voice", "none")


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """How recordings are decoded and cut."""

    sample_rate_hz: int = 22_050
    window_s: float = 3.0
    #: Distance between window starts; less than `window_s` for overlapping windows.
    window_hop_s: float = 3.0
    #: Bands of the spectrogram that the network sees, from 0 Hz to 8 kHz or half the sample rate.
    n_mel_bands: int = 128
    #: Long recordings are read in pieces of this length, so memory stays flat.
    piece_s: float = 60.0

    def __post_init__(self) -> None:
        require(8_000 <= self.sample_rate_hz <= 192_000, "audio.sample_rate_hz", "between 8000 and 192000")
        require(0.01 <= self.window_s <= 3_600, "audio.window_s", "from 0.01 to 3600")
        require(0.01 <= self.window_hop_s <= self.window_s, "audio.window_hop_s", "from 0.01 to window_s")
        is_fit = 16 <= self.n_mel_bands <= 128 and self.n_mel_bands % 8 == 0
        require(is_fit, "audio.n_mel_bands", "a multiple of 8 from 16 to 128")
        require(self.window_s <= self.piece_s <= 86_400, "audio.piece_s", "from window_s to 86400")

    def completed(self, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return changes of settings with those that follow from them: windows in a row stay in a row."""
        if "window_s" in changes and self.window_hop_s == self.window_s:
            return {"window_hop_s": changes["window_s"], **changes}
        return changes


@dataclass(frozen=True, slots=True)
class ExtractConfig:
    """Which features are computed and by how many workers."""

    #: Extractors to run; those that the model needs run in any case.
    extractors: tuple[str, ...] = ("mel", "prosodic", "voice_quality", "quality")
    #: Whether the channels of a recording are mixed, or each is analysed by itself: mix or split.
    channels: str = "mix"
    #: Worker processes; 0 = one per core.
    jobs: int = 0
    #: Processing limit for one file; 0 = none. Grows with the recording: this much per started 10 minutes of audio.
    timeout_s: float = 120.0
    #: Memory limit of one worker; 0 = none.
    memory_limit_mb: int = 4_096

    def __post_init__(self) -> None:
        require_one_of(self.channels, ("mix", "split"), "extract.channels")
        require(self.jobs >= 0, "extract.jobs", "0 (one per core) or more")
        require(self.timeout_s >= 0, "extract.timeout_s", "0 (none) or more")
        require(self.memory_limit_mb >= 0, "extract.memory_limit_mb", "0 (none) or more")


@dataclass(frozen=True, slots=True)
class PredictConfig:
    """The model and where it runs."""

    #: A shipped name or the path of a .safetensors file; "" = extraction alone.
    model: str = "ser6"
    device: str = "auto"
    batch_size: int = 64
    #: Answer among these labels of the model only; none means all.
    labels: tuple[str, ...] = ()
    #: Mark files whose confidence lies below this as `uncertain`; 0 = do not mark. The label stays.
    abstain: float = 0.0
    #: Store what the network heard in each window, of models that tell: labels can be made anew from it.
    embeddings: bool = True

    def __post_init__(self) -> None:
        require_one_of(self.device, DEVICES, "predict.device")
        require(self.batch_size >= 1, "predict.batch_size", "1 or more")
        require(0 <= self.abstain < 1, "predict.abstain", "from 0 to below 1")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is looked for and how a run is stored."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    #: Files per shard: the unit of memory, writing, retry and resume. 0 = 256, and more in archives of millions.
    shard_size: int = 0

    def __post_init__(self) -> None:
        require(self.shard_size >= 0, "run.shard_size", "0 or more")


@dataclass(frozen=True, slots=True)
class SegmentsConfig:
    """Which stretches of a recording are analysed by themselves, too."""

    #: One of `SEGMENT_SOURCES`, or the path of a table of segments of the whole archive.
    source: str = "auto"

    def __post_init__(self) -> None:
        if not self.is_table:
            require_one_of(self.source, SEGMENT_SOURCES, "segments.source", " or a table such as segments.csv")

    @property
    def is_table(self) -> bool:
        return self.source not in SEGMENT_SOURCES and Path(self.source).suffix != ""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a scan can be told. Sections are the tables of the TOML file."""

    audio: AudioConfig = field(default_factory=AudioConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    run: RunConfig = field(default_factory=RunConfig)
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)

    def with_values(self, values: Mapping[str, Mapping[str, Any]], source: str = "options") -> Config:
        """Return a copy with `values` (section -> key -> value) laid over it.

        Raises
        ------
        ConfigError
            Unknown section or key (the nearest known one is named), wrong type, or value out of range.
        """
        return overlay(self, values, source)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain nested dictionaries, as the TOML file would hold them."""
        return {
            section.name: {item.name: _plain(getattr(part, item.name)) for item in fields(part)}
            for section in fields(self)
            for part in [getattr(self, section.name)]
        }


def load_config(path: Path | None = None, base: Config | None = None) -> Config:
    """Return the defaults, or `base`, with the TOML file at `path` laid over them.

    Raises
    ------
    ConfigError
        The file is missing, is not TOML, or has an unknown key or a wrong value.
    """
    config = base or Config()
    return config if path is None else config.with_values(read_toml(path), source=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises
    ------
    ConfigError
        The file is missing, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"Configuration file {path} does not exist.") from None
    except OSError as error:
        raise ConfigError(f"Configuration file {path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise ConfigError(f"Configuration file {path} is nested too deeply.") from None
    except ValueError as error:  # no UTF-8, no TOML, or a number of thousands of digits
        raise ConfigError(f"Configuration file {path} is not valid TOML: {error}") from None


def overlay(target: Any, values: Mapping[str, Any], source: str, prefix: str = "") -> Any:
    known = {item.name for item in fields(target)}
    hints = get_type_hints(type(target))
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: {prefix.rstrip('.')!r} is a section, not a value.")
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near, unknown = did_you_mean(key, known), printable(prefix + key[:100])
            raise ConfigError(f"{source}: unknown key {unknown!r}.{near} Known here: {', '.join(sorted(known))}.")
        current = getattr(target, key)
        if is_dataclass(current):
            changes[key] = overlay(current, value, source, f"{prefix}{key}.")
        else:
            changes[key] = _typed(value, hints[key], f"{source}: {prefix + key!r}")
    if isinstance(target, AudioConfig):
        changes = dict(target.completed(changes))
    try:
        return replace(target, **changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _typed(value: Any, hint: Any, where: str) -> Any:
    if hint == tuple[str, ...]:
        if isinstance(value, list | tuple) and all(map(is_text, value)):
            return tuple(value)
        raise ConfigError(f"{where} must be a list of strings, not {shown(value)}.")
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not is_number(value):
            raise ConfigError(f"{where} must be a finite number of fewer than 20 digits.")
        if hint is float:
            return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} must be of type {hint.__name__}, not {shown(value)}.")
    if hint is str and not is_text(value):
        raise ConfigError(f"{where} must be text that can be a name, not {shown(value)}.")
    return value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def require(condition: bool, key: str, rule: str) -> None:
    if not condition:
        raise ConfigError(f"{key} must be {rule}.")


def require_one_of(value: str, known: Sequence[str], key: str, more: str = "") -> None:
    if value not in known:
        raise ConfigError(f"{key} must be one of {', '.join(known)}{more}, not {value!r}.{did_you_mean(value, known)}")
