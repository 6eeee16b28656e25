"""What a training can be told: one validated, frozen object, laid out like its TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ser_batch.config import AudioConfig, overlay, read_toml, require, require_one_of
from ser_batch.extractors.mel import mel_shape
from ser_batch.training.augment import AugmentConfig

__all__ = ["DataConfig", "FitConfig", "TrainConfig", "load_train_config"]

#: Fewer frames leave too few steps to look at over time.
_MIN_FRAMES = 16


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which labels are learnt and how speakers are split."""

    #: Empty: all that the clips have, see `dataset.with_labels`.
    labels: tuple[str, ...] = ()
    #: Labels that count as another one, as ``"calm=neutral"``.
    merge: tuple[str, ...] = ()
    #: Share of the speakers of each corpus kept for early stopping and the temperature; 0 keeps nobody, for trainings
    #: of as many epochs as asked, with the temperature of a cross-validation (``train --scores``).
    validation_share: float = 0.12
    #: Share kept for the score at the end; 0 trains on everybody else (score by ``evaluate --cross-validate``).
    test_share: float = 0.15
    #: 1 gives every label of every corpus the same weight in training, 0 every clip.
    balance: float = 0.5
    #: What clips of a corpus count beside those of others, as ``"tess=0.25"``; 1 where nothing is said.
    corpus_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.labels) != 1, "data.labels", "two labels or more, or none for all that there are")
        require(len(set(self.labels)) == len(self.labels), "data.labels", "without repeats")
        require(all("=" in item for item in self.merge), "data.merge", 'a list of "from=to"')
        require(0 <= self.validation_share < 0.5, "data.validation_share", "from 0 to below 0.5")
        require(0 <= self.test_share < 0.5, "data.test_share", "from 0 to below 0.5")
        require(0 <= self.balance <= 1, "data.balance", "from 0 to 1")
        self.weight_of_corpus()

    def weight_of_corpus(self) -> dict[str, float]:
        """Return `corpus_weights` by corpus."""
        found = {}
        for item in self.corpus_weights:
            name, _, text = item.partition("=")
            with suppress(ValueError):
                found[name.strip()] = float(text)
            require(0 < found.get(name.strip(), 0) <= 100, "data.corpus_weights", 'a list of "corpus=weight", above 0')
        return found


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How the network is trained."""

    epochs: int = 60
    batch_size: int = 128
    #: "muon" for the weights of hidden layers, see `muon.Muon`, with AdamW for the rest; or "adamw" for all.
    optimiser: str = "muon"
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_epochs: float = 2.0
    dropout: float = 0.15
    label_smoothing: float = 0.1
    #: Decay per step of the average of weights that is validated and kept.
    average_decay: float = 0.998
    #: Epochs without a better validation UAR after which training stops.
    patience: int = 20
    #: Train once more on training and validation speakers, for as many epochs as were best.
    refit: bool = True
    #: Parameter of the Beta distribution of mixup (Zhang et al. 2018); 0 = off.
    mixup: float = 0.0
    #: SpecAugment (Park et al. 2019): masks per window and their greatest width.
    band_masks: int = 1
    band_mask_bands: int = 16
    frame_masks: int = 1
    frame_mask_frames: int = 20
    #: Frames of a random stretch, around what is audible, that is learnt from instead of the window; 0 = the window.
    crop_frames: int = 0
    #: Frequencies, and the pace, are changed by up to this factor either way: other sizes of speakers (Jaitly 2013).
    warp_frequency: float = 0.0
    warp_time: float = 0.0
    #: Share of windows that are drawn from augmented copies, where there are any.
    copy_share: float = 0.5
    #: Share of spectrograms that are tilted, band-limited, and raised to a floor of noise: other microphones and rooms.
    recolour: float = 0.0
    #: Share of windows whose features, or whose spectrogram, are dropped, so that neither branch leans on the other.
    branch_dropout: float = 0.05
    #: Weight of a second head that learns the corpora's own, finer categories.
    auxiliary_weight: float = 0.3
    #: Weight of a head whose reversed gradient makes corpora hard to tell apart (Ganin and Lempitsky 2015).
    adversary_weight: float = 0.0
    #: With a teacher, the share of the labels that it has a say in: 1 believes it alone.
    teacher_share: float = 0.5
    #: Which branches are trained: hybrid, mel or dense; the last two are for comparison.
    branches: str = "hybrid"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "fit.epochs", "1 or more")
        require(self.batch_size >= 2, "fit.batch_size", "2 or more")
        require(self.learning_rate > 0, "fit.learning_rate", "above 0")
        for name in ("weight_decay", "warmup_epochs", "mixup", "auxiliary_weight", "adversary_weight"):
            require(getattr(self, name) >= 0, f"fit.{name}", "0 or more")
        for name in ("band_masks", "frame_masks"):
            require(0 <= getattr(self, name) <= 100, f"fit.{name}", "from 0 to 100")
        for name in ("band_mask_bands", "frame_mask_frames"):
            require(getattr(self, name) >= 0, f"fit.{name}", "0 or more")
        require(0 <= self.dropout < 1, "fit.dropout", "from 0 to below 1")
        require(0 <= self.label_smoothing < 1, "fit.label_smoothing", "from 0 to below 1")
        require(0 <= self.average_decay < 1, "fit.average_decay", "from 0 to below 1")
        require(self.patience >= 1, "fit.patience", "1 or more")
        require(
            self.crop_frames == 0 or self.crop_frames >= _MIN_FRAMES, "fit.crop_frames", f"0, or {_MIN_FRAMES} or more"
        )
        require(0 <= self.warp_frequency < 0.5, "fit.warp_frequency", "from 0 to below 0.5")
        require(0 <= self.warp_time < 0.5, "fit.warp_time", "from 0 to below 0.5")
        require(0 <= self.copy_share <= 1, "fit.copy_share", "from 0 to 1")
        require(0 <= self.recolour <= 1, "fit.recolour", "from 0 to 1")
        require(0 <= self.teacher_share <= 1, "fit.teacher_share", "from 0 to 1")
        require(0 <= self.branch_dropout <= 0.5, "fit.branch_dropout", "from 0 to 0.5")
        require_one_of(self.optimiser, ("muon", "adamw"), "fit.optimiser")
        require_one_of(self.branches, ("hybrid", "mel", "dense"), "fit.branches")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything a training can be told. Sections are the tables of the TOML file."""

    #: How clips are heard; a model asks of whoever uses it that they are heard alike.
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        audio, fit = self.audio, self.fit
        n_bands, n_frames = mel_shape(audio.sample_rate_hz, audio.window_s, audio.n_mel_bands)
        require(n_frames >= _MIN_FRAMES, "audio.window_s", f"long enough for {_MIN_FRAMES} frames, of 512 samples each")
        require(fit.crop_frames <= n_frames, "fit.crop_frames", f"at most {n_frames}, the frames of a window")
        require(
            fit.frame_mask_frames <= n_frames, "fit.frame_mask_frames", f"at most {n_frames}, the frames of a window"
        )
        require(fit.band_mask_bands <= n_bands, "fit.band_mask_bands", f"at most {n_bands}, the bands of a spectrogram")

    def with_values(self, values: Mapping[str, Mapping[str, Any]], source: str = "options") -> TrainConfig:
        """Return a copy with `values` (section -> key -> value) laid over it.

        Raises
        ------
        ConfigError
            Unknown section or key (the nearest known one is named), wrong type, or value out of range.
        """
        changed: TrainConfig = overlay(self, values, source)
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Return plain nested dictionaries, as the TOML file would hold them."""
        return asdict(self)


def load_train_config(path: Path | None = None) -> TrainConfig:
    """Return the defaults, with the TOML file at `path` laid over them.

    Raises
    ------
    ConfigError
        The file is missing, is not TOML, or has an unknown key or a wrong value.
    """
    return TrainConfig() if path is None else TrainConfig().with_values(read_toml(path), source=str(path))
