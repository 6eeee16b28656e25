"""Emotions of single files and arrays from Python; `ser_batch.scan` is for many."""

from __future__ import annotations

import inspect
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch import hooks
from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.device import open_classifier
from ser_batch.classifier.loader import trained_audio
from ser_batch.config import Config
from ser_batch.errors import InputError, ModelError, NoVoiceError
from ser_batch.hookspecs import hookimpl
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip, ClipOutcome, ClipRef, Status
from ser_batch.stages.analyse import NO_VOICE_TYPE, analyse_clip, select_extractors
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.classifier.device import DeviceChoice
    from ser_batch.contracts_models import CheckedClassifier

__all__ = ["EmotionPredictor", "EmotionResult", "NetworkInputs"]

_log = logging.getLogger("ser_batch")

_CHUNK_BYTES = 2**20


class BinaryFile(Protocol):
    """What a file object must be able to do: an open file, `io.BytesIO`, the upload of a web framework."""

    def read(self, size: int, /) -> Any: ...


Source = str | os.PathLike[str] | BinaryFile


@dataclass(frozen=True, slots=True, eq=False)
class EmotionResult:
    """What was found in one file; ``emotion, probabilities = result`` unpacks the two that matter most."""

    #: The path as given, the name of a file object, or the one given to an array.
    path: str
    #: The emotion with the highest probability; None for a file that could not be analysed.
    emotion: str | None
    #: Emotion -> probability in the order of the model, calibrated, sums to 1; empty where `emotion` is None.
    probabilities: Mapping[str, float]
    #: ok, partial (broken midway: what came before was analysed), skipped (no audio or no voice in it) or failed.
    status: Status
    #: What went wrong, with the stage, or what was mended; "" for nothing.
    error: str = ""
    #: Length of what was analysed; NaN for nothing.
    duration_s: float = float("nan")
    #: Highest probability, in [0, 1]; NaN where `emotion` is None, as the next two.
    confidence: float = float("nan")
    #: Shannon entropy over log(n_labels), in [0, 1].
    entropy: float = float("nan")
    #: Highest minus second highest probability, in [0, 1].
    margin: float = float("nan")
    #: float64 (n_windows, 2), start and end in s; they lie on the voice.
    windows_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)), repr=False)
    #: float32 (n_windows, n_labels), rows sum to 1.
    window_probabilities: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32), repr=False)
    #: Features of the whole file by column name, of the extractors that the model needs; NaN = undefined.
    features: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[str | Mapping[str, float] | None]:
        yield self.emotion
        yield self.probabilities


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInputs:
    """What a network is fed with of one file, for programs that run it themselves (``model export --to onnx``)."""

    #: float32 (n_windows, n_bands, n_frames), dB re 1.
    mel: NDArray[np.float32]
    #: float32 (n_windows, 13), NaN = undefined.
    features: NDArray[np.float32]
    #: float32 (n_windows,), 0 or more: how much a window counts in its file, where one does at all.
    weights: NDArray[np.float32]
    #: float64 (n_windows, 2), start and end in s.
    windows_s: NDArray[np.float64]


class EmotionPredictor:
    """A loaded model with all that it needs, for files one at a time; not to be shared between threads.

    Parameters
    ----------
    model : str
        A shipped name or the path of a ``.safetensors`` file.
    device : str
        ``auto`` (cuda, then mps, then cpu), ``cuda``, ``mps`` or ``cpu``. A fallback is logged as a warning.
    plugins : PluginRecipe
        Plugins to load; by default the built-in and the installed ones.
    config : Config, optional
        Audio settings; by default those that the model was trained with.
    labels : sequence of str
        Answer among these labels of the model only; none means all.

    Raises
    ------
    ModelError
        No such model, it is damaged, or it does not fit this version.
    PluginError
        A plugin cannot be loaded, or an extractor that the model needs is missing or has another version.
    ConfigError
        `device` is unknown, or `config` does not fit the model.

    Examples
    --------
    >>> from ser_batch import EmotionPredictor
    >>> predictor = EmotionPredictor()  # doctest: +SKIP
    >>> emotion, probabilities = predictor.predict("call.wav")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "ser6",
        device: str = "auto",
        plugins: PluginRecipe | None = None,
        config: Config | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        plugins = plugins or PluginRecipe()
        config = config or Config().with_values({"audio": trained_audio(model)}, f"model {model}")
        predict = {"model": model, "device": device, "labels": tuple(labels)}
        self._config = config.with_values({"predict": predict}, "options")
        self._manager = plugins.build()
        self._arrays = _Arrays()
        self._manager.register(self._arrays)
        hooks.validate_config(self._manager, self._config)
        self.classifier: CheckedClassifier
        self.device: DeviceChoice
        self.classifier, self.device = open_classifier(self._manager, model, device, labels)
        if self.device.note:
            _log.warning("%s", self.device.note)
        offered = hooks.register_extractors(self._manager, self._config)
        self._extractors = select_extractors(offered, (), self.classifier)

    @property
    def window_s(self) -> float:
        """Length of the stretch that is given to the network at once."""
        return self._config.audio.window_s

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotions, in the order of the probabilities."""
        return self.classifier.labels

    def predict(self, path: Source) -> EmotionResult:
        """Analyse one file, just as a scan does.

        Parameters
        ----------
        path : str, path-like or file object
            A file object is read as bytes, from its beginning where it can be rewound: an open file, `io.BytesIO`, an
            upload.

        Returns
        -------
        EmotionResult
            Unpacks into ``emotion, probabilities``.

        Raises
        ------
        InputError
            The file is missing or holds nothing that can be analysed; the message says why.
        NoVoiceError
            Nobody is heard in it.
        """
        result, has_voice = self._analysed(path)
        return _labelled(result, has_voice)

    def network_inputs(self, path: Source) -> NetworkInputs:
        """Return what the network is fed with of one file; `path` as for `predict`.

        Raises
        ------
        InputError
            The file is missing or holds nothing that can be analysed; the message says why.
        ModelError
            The model is that of a plugin, whose inputs are its own.
        """
        network = self.classifier.inner
        if not isinstance(network, CheckpointClassifier):
            raise ModelError(f"Model {self.classifier.name!r} is fed otherwise: it is that of a plugin.")
        name = _name_of(path)
        try:
            with _on_disk(path) as ref:
                outcome = analyse_clip(ref, self._config, self._extractors, None, self._manager, keep_tensors=True)
        except _UnusableError as error:
            raise InputError(f"{printable(name)}: {error}") from None
        if not outcome.blocks:
            kind = NoVoiceError if outcome.error_type == NO_VOICE_TYPE else InputError
            raise kind(f"{printable(name)}: {outcome.status} in {outcome.stage}: {outcome.error_message}")
        blocks = {block.extractor: block for block in outcome.blocks}
        return NetworkInputs(*network.inputs(blocks), network.pooling_weights(blocks), outcome.windows_s)

    def predict_batch(self, paths: Iterable[Source]) -> list[EmotionResult]:
        """Analyse files one after the other; use `ser_batch.scan` for more than a few hundred.

        Returns
        -------
        list of EmotionResult
            One for each path, in order. A file that cannot be analysed has ``emotion`` None and says why in ``error``.
        """
        return [self._analysed(path)[0] for path in paths]

    def predict_samples(self, samples: ArrayLike, sample_rate_hz: int, name: str = "samples") -> EmotionResult:
        """Analyse an array, just as a file of the same samples would be.

        Parameters
        ----------
        samples : array_like
            (n_samples,) or (n_samples, n_channels); floats in [-1, 1], or integers, scaled by the range of their type.
        sample_rate_hz : int
            At least 1,000.
        name : str
            Stands for the path in the result.

        Raises
        ------
        InputError
            No sample, no finite sample, or an array that is not audio.
        NoVoiceError
            Nobody is heard in it.
        """
        checked = _checked(np.asarray(samples), sample_rate_hz)
        self._arrays.offered[name] = (checked, sample_rate_hz)
        try:
            outcome = self._outcome(ClipRef(name, name, checked.nbytes, 0))
        finally:
            del self._arrays.offered[name]
        return _labelled(self._result(name, outcome), outcome.error_type != NO_VOICE_TYPE)

    def _analysed(self, path: Source) -> tuple[EmotionResult, bool]:
        """Return what was found in a file, and False where nobody is heard in it."""
        name = _name_of(path)
        try:
            with _on_disk(path) as ref:
                outcome = self._outcome(ref)
        except _UnusableError as error:
            return EmotionResult(name, None, {}, Status.FAILED, str(error)), True
        return self._result(name, outcome), outcome.error_type != NO_VOICE_TYPE

    def _outcome(self, ref: ClipRef) -> ClipOutcome:
        return analyse_clip(ref, self._config, self._extractors, self.classifier, self._manager)

    def _result(self, path: str, outcome: ClipOutcome) -> EmotionResult:
        error = outcome.error_message
        if outcome.stage:
            error = f"{outcome.status} in {outcome.stage}: {error}"
        prediction = outcome.prediction
        if prediction is None:
            return EmotionResult(path, None, {}, outcome.status, error, outcome.duration_s)
        features: dict[str, float] = {}
        for block in outcome.blocks:
            spec = self._extractors[block.extractor][1].spec
            features.update(zip(spec.columns, block.clip_scalars.tolist(), strict=True))
        return EmotionResult(
            path=path,
            emotion=prediction.emotion,
            probabilities=dict(zip(self.labels, prediction.probabilities.tolist(), strict=True)),
            status=outcome.status,
            error=error,
            duration_s=outcome.duration_s,
            confidence=prediction.confidence,
            entropy=prediction.entropy,
            margin=prediction.margin,
            windows_s=outcome.windows_s,
            window_probabilities=prediction.window_probabilities,
            features=features,
        )


def _labelled(result: EmotionResult, has_voice: bool) -> EmotionResult:
    if result.emotion is None:
        raise (InputError if has_voice else NoVoiceError)(f"{printable(result.path)}: {result.error}")
    return result


class _UnusableError(Exception):
    """Why there is nothing to read."""


def _name_of(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    # Web frameworks call it a file name; the name of an open file may be its number.
    names = (getattr(source, key, None) for key in ("filename", "name"))
    return next((name for name in names if isinstance(name, str) and name), f"<{type(source).__name__}>")


@contextmanager
def _on_disk(source: Source) -> Iterator[ClipRef]:
    """Give the file to be read. A file object is copied into one: readers, those of plugins too, take paths."""
    if isinstance(source, str | os.PathLike):
        yield _ref(os.fspath(source))
        return
    suffix = os.path.splitext(_name_of(source))[1]  # noqa: PTH122 - a name may be anything
    suffix = suffix if re.fullmatch(r"[.]\w{1,8}", suffix) else ""
    with tempfile.TemporaryDirectory(prefix="ser-batch-") as folder:
        copy = Path(folder, f"upload{suffix}")
        try:
            with copy.open("wb") as file:
                file.writelines(_chunks(source))
        except _UnusableError:
            raise
        except Exception as error:  # a closed file, a broken connection, a full disk
            raise _UnusableError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
        yield _ref(str(copy))


def _ref(path: str) -> ClipRef:
    try:
        stat = Path(path).stat()
    except (OSError, ValueError) as error:
        # ValueError: a null byte in the name.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _UnusableError(f"cannot be read: {reason}") from error
    if Path(path).is_dir():
        raise _UnusableError("is a directory; use `ser-batch scan` or ser_batch.scan")
    return ClipRef(printable(path), path, stat.st_size, stat.st_mtime_ns)


def _chunks(source: Any) -> Iterator[bytes]:
    """Yield the bytes of a file object, from the beginning where it can be rewound."""
    if inspect.iscoroutinefunction(getattr(source, "read", None)):
        source = getattr(source, "file", source)  # where the uploads of Starlette and FastAPI keep what they read
    read = getattr(source, "read", None)
    if read is None:
        cure = "give bytes as io.BytesIO(data), and arrays to predict_samples"
        raise _UnusableError(f"is neither a path nor a file object; {cure}")
    if inspect.iscoroutinefunction(read):
        raise _UnusableError("cannot be read without `await`; give io.BytesIO(await file.read())")
    if getattr(source, "seekable", lambda: False)():
        source.seek(0)
    while True:
        chunk = read(_CHUNK_BYTES)
        if isinstance(chunk, str):
            raise _UnusableError("is open as text; open it with mode 'rb'")
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise _UnusableError(f"cannot be read: its read() gives {type(chunk).__name__}, not bytes")
        if not chunk:
            return
        yield bytes(chunk)


class _Arrays:
    """A plugin that "decodes" arrays: so they take the very way that files take."""

    def __init__(self) -> None:
        #: Name -> samples, (n_samples, n_channels), and their rate in Hz.
        self.offered: dict[str, tuple[NDArray[np.float32], int]] = {}

    @hookimpl(tryfirst=True)
    def read_clip(self, ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterable[Clip] | None:
        if ref.path not in self.offered:
            return None
        return _pieces(*self.offered[ref.path], sample_rate_hz, piece_s, overlap_s)


def _pieces(
    samples: NDArray[np.float32], source_rate_hz: int, sample_rate_hz: int, piece_s: float, overlap_s: float
) -> Iterator[Clip]:
    """Mix, resample and cut an array as the reader does what it has decoded."""
    from ser_batch.audio.pieces import Cutter  # noqa: PLC0415 - loads libsndfile
    from ser_batch.audio.sound import Block, block_frames  # noqa: PLC0415
    from ser_batch.audio.source import Account  # noqa: PLC0415

    cutter = Cutter(sample_rate_hz, round(piece_s * sample_rate_hz), round(overlap_s * sample_rate_hz), Account())
    n_block = block_frames(samples.shape[1])
    for start in range(0, len(samples), n_block):
        yield from cutter.push(Block(samples[start : start + n_block], source_rate_hz))
    yield from cutter.finish()


def _checked(samples: NDArray, sample_rate_hz: int) -> NDArray[np.float32]:
    """Return samples as (n_samples, n_channels), finite, nominally in [-1, 1]."""
    if sample_rate_hz < 1_000:
        raise InputError(f"The sample rate must be at least 1,000 Hz, not {sample_rate_hz}.")
    if samples.ndim not in (1, 2) or not np.issubdtype(samples.dtype, np.number) or np.iscomplexobj(samples):
        raise InputError(
            f"Samples must be numbers of shape (n_samples,) or (n_samples, n_channels), "
            f"not {samples.dtype} {samples.shape}."
        )
    if samples.size == 0:
        raise InputError("The array holds no samples.")
    if samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise InputError(f"Samples of shape {samples.shape} look like (n_channels, n_samples); transpose them.")
    if np.issubdtype(samples.dtype, np.integer):
        half = (int(np.iinfo(samples.dtype).max) + 1) / (2 if np.issubdtype(samples.dtype, np.unsignedinteger) else 1)
        # Unsigned samples have their silence in the middle.
        middle = half if np.issubdtype(samples.dtype, np.unsignedinteger) else 0
        samples = (samples.astype(np.float64) - middle) / half
    channels = samples.reshape(len(samples), -1).astype(np.float32)
    finite = np.isfinite(channels)
    if not finite.any():
        raise InputError("The array holds no finite sample.")
    return np.where(finite, channels, np.float32(0))
