"""What users would run instead, on the same files: openSMILE, and the script that every tutorial has."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import joblib
import numpy as np

__all__ = ["OpenSmile", "UsualScript"]


class _Peer(ABC):
    """Takes the time for a list of files; a context manager, since workers may be held."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @abstractmethod
    def process(self, paths: Sequence[str]) -> None:
        """Do all the work on `paths`."""

    def files_per_s(self, paths: Sequence[str]) -> float:
        begin = time.perf_counter()
        self.process(paths)
        return len(paths) / (time.perf_counter() - begin)


class OpenSmile(_Peer):
    """eGeMAPSv02 functionals by ``process_files``; features alone, no network."""

    def __init__(self, n_workers: int) -> None:
        super().__init__(n_workers)
        import opensmile

        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.Functionals,
            num_workers=n_workers,
            multiprocessing=True,
        )

    def process(self, paths: Sequence[str]) -> None:
        assert len(self._smile.process_files(list(paths))) == len(paths)


class UsualScript(_Peer):
    """librosa features with pyin, and a small CNN in torch, one file at a time, spread by joblib."""

    def process(self, paths: Sequence[str]) -> None:
        if _network is None:
            # Two workers that compile librosa's kernels at once can leave a broken cache, and crash from then on.
            _usual_features(paths[0])
        rows = joblib.Parallel(n_jobs=self.n_workers)(joblib.delayed(_usual_features)(path) for path in paths)
        assert len(rows) == len(paths)


_network: Any = None


def _usual_features(path: str) -> list[float]:
    import librosa
    import torch

    global _network  # noqa: PLW0603 - once per worker
    if _network is None:
        torch.set_num_threads(1)
        _network = _usual_network().eval()
    samples, rate_hz = librosa.load(path, sr=22_050)
    f0_hz, _, _ = librosa.pyin(
        samples, sr=rate_hz, fmin=float(librosa.note_to_hz("C2")), fmax=float(librosa.note_to_hz("C7"))
    )
    features = [float(np.nanmean(f0_hz)) if np.isfinite(f0_hz).any() else 0.0]
    features += [float(row) for row in librosa.feature.mfcc(y=samples, sr=rate_hz, n_mfcc=13).mean(axis=1)]
    for measure in (
        librosa.feature.rms(y=samples),
        librosa.feature.zero_crossing_rate(samples),
        librosa.feature.spectral_centroid(y=samples, sr=rate_hz),
        librosa.feature.spectral_rolloff(y=samples, sr=rate_hz),
        librosa.feature.spectral_bandwidth(y=samples, sr=rate_hz),
    ):
        features.append(float(measure.mean()))
    window = librosa.util.fix_length(samples, size=3 * int(rate_hz))
    mel = librosa.power_to_db(librosa.feature.melspectrogram(y=window, sr=rate_hz, n_mels=128))
    with torch.no_grad():
        scores = _network(torch.from_numpy(mel[None, None, :, :130].astype(np.float32)))
    return [*features, *torch.softmax(scores, dim=1)[0].tolist()]


def _usual_network() -> Any:
    from torch import nn

    layers: list[Any] = []
    for n_in, n_out in ((1, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 6))
