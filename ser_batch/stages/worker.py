"""What runs in a worker process: a chunk of files, one after the other, spooled as they finish.

A worker may die at any moment, so nothing that matters goes through its pipe: each outcome is appended to a spool file
as soon as it is there, and a small heartbeat file says which file is in hand, at which stage, since when. Whoever finds
the worker dead reads from both what is done and whom to blame.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import json
import os
import pickle
import signal
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from ser_batch import hooks
from ser_batch.births import born_s
from ser_batch.dsp import kernel_cache
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import PluginError, SerBatchError
from ser_batch.records import Clip, ClipOutcome, ClipRef, Status
from ser_batch.stages.analyse import Observer, analyse_clip, select_extractors
from ser_batch.stages.fetch import Fetched
from ser_batch.stages.ingredients import Setup, differences, gather, ingredients_of
from ser_batch.text import message_of
from ser_batch.windows import plan_windows

if TYPE_CHECKING:
    import pluggy

__all__ = [
    "BEAT_PREFIX",
    "FATAL_PREFIX",
    "LOG_PREFIX",
    "Answer",
    "Beat",
    "Workshop",
    "read_beat",
    "read_spool",
    "run_chunk",
    "start_ahead",
    "start_worker",
]

BEAT_PREFIX = "beat-"

#: Output of a worker, and what faulthandler says of its end.
LOG_PREFIX, FATAL_PREFIX = "log-", "fatal-"

#: Heartbeat on disk: birth of the worker, chunk, position in it, stage, time it began and limit on the monotonic clock.
_BEAT = struct.Struct("<dqiidd")
_SPOOL_PREFIX = "spool-"
#: Before each outcome in a spool: its length.
_FRAME = struct.Struct("<Q")
_STAGES = ("start", "decode", "extract", "predict", "idle")

#: A worker that has not loaded and warmed up all plugins by then never will. Compiling takes minutes on a slow machine.
_START_LIMIT_S = 900.0
#: Audio per started stretch of which a file is given its time limit once more.
_LIMIT_PER_AUDIO_S = 600.0
#: A worker that cannot open as many files beside those that it has open may fail the next file for it.
_SPARE_DESCRIPTORS = 8


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker was about when it was last heard of."""

    pid: int
    #: When its process began, in s since 1970: tells it from a later process of the same number.
    born_s: float
    chunk: int
    position: int
    stage: str
    began_s: float
    limit_s: float


class Workshop:
    """Plugins, extractors and classifier of one process, built once."""

    def __init__(self, setup: Setup) -> None:
        self.config = setup.config
        self.setup = setup
        self.manager: pluggy.PluginManager = setup.recipe.build()
        offered = hooks.register_extractors(self.manager, setup.config)
        # Where the parent predicts, long recordings are predicted here all the same.
        self._model = (
            hooks.load_classifier(self.manager, setup.model, "cpu", setup.config.predict.labels)
            if setup.model
            else None
        )
        self.extractors = select_extractors(offered, setup.extractors)
        self.classifier = self._model if setup.predict else None
        #: Whether a file has been analysed here.
        self.is_used = False
        self._check_promise()
        self._warm_up()

    def _check_promise(self) -> None:
        """See that this process has the versions and the weights that the parent has.

        Raises
        ------
        PluginError
            It has not; says which.
        """
        if not self.setup.promise:
            return
        own = ingredients_of(self.manager, self.setup.recipe, self.config, self.extractors, self._model).promise()
        differing = differences(json.loads(self.setup.promise), json.loads(own))
        if differing:
            raise PluginError(
                f"they have other ingredients than the scan that starts them: {'; '.join(differing)}. Was a plugin or "
                f"the model replaced meanwhile? Then begin again. A plugin must be the same in every process."
            )

    def _warm_up(self) -> None:
        """Analyse a made-up clip, so that no file pays for loading libraries or, once per machine, compiling kernels.

        That can take minutes, and would run into the time limit of whichever file came first; workers share it out. A
        model that cannot label the clip will label no file.

        Raises
        ------
        PluginError, ModelError
            The model cannot.
        """
        from ser_batch.dsp.highpass import HighPass  # noqa: PLC0415 - not before the worker says that it has begun
        from ser_batch.extractors.voicing import voice_spans  # noqa: PLC0415

        audio = self.config.audio
        samples = synthetic_voice(audio.window_s + 0.5, audio.sample_rate_hz)
        clip = Clip(samples, audio.sample_rate_hz, audio.sample_rate_hz, 1)
        windows_s = plan_windows(clip.duration_s, audio.window_s, audio.window_hop_s)
        own = self.setup.built_in_extractors
        if is_cold := bool(kernel_cache.not_warm(own)):
            from ser_batch.extractors.units import units  # noqa: PLC0415 - once per machine

            kernel_cache.share_out(units(clip, windows_s, own))
        HighPass(clip.sample_rate_hz)(samples)
        voice_spans(clip)
        try:
            blocks = {name: extractor.extract(clip, windows_s) for name, (_, extractor) in self.extractors.items()}
        except SerBatchError:
            return  # an extractor that fails here fails on the first file too, where it has a row to say so
        if is_cold:
            kernel_cache.mark_warm(own)
        if self.classifier is not None:
            self.classifier.pool(*self.classifier.predict(blocks))

    def analyse(self, ref: ClipRef, observe: Observer) -> ClipOutcome:
        model = self._model
        keep = self.setup.keep_tensors or (model is not None and (lambda: model))
        return analyse_clip(
            ref, self.config, self.extractors, self.classifier, self.manager, observe, keep, self.setup.change
        )


@functools.lru_cache(maxsize=1)
def _workshop(setup: bytes) -> Workshop:
    wanted: Setup = pickle.loads(setup)
    return _ahead if _ahead is not None and _ahead.setup == wanted else Workshop(wanted)


#: Built before anybody has told what is wanted.
_ahead: Workshop | None = None


class _Heart:
    """Writes the heartbeat of this process: one small write in place, about a microsecond."""

    def __init__(self, folder: Path) -> None:
        self._born_s = born_s(os.getpid())
        self._file = os.open(folder / f"{BEAT_PREFIX}{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)

    def beat(self, chunk: int, position: int, stage: str, began_s: float, limit_s: float) -> None:
        beat = _BEAT.pack(self._born_s, chunk, position, _STAGES.index(stage), began_s, limit_s)
        os.pwrite(self._file, beat, 0)


_heart: _Heart | None = None
#: Kept open, so that a worker that can open nothing more can still say what is open.
_reserve: list[int] = []


def start_worker(folder: Path, parent: int) -> None:
    """Prepare a fresh worker: signals, an end with its parent, input and output, heartbeat."""
    _begin()
    _settle(folder)
    _live(parent)


def start_ahead(parent: int, ingredients: bytes) -> None:
    """Prepare a worker that has no folder yet, and build what it will most likely be asked for.

    Parameters
    ----------
    parent : int
    ingredients : bytes
        A pickled `PluginRecipe`, of built-in plugins alone, and a `Config`.
    """
    global _ahead  # noqa: PLW0603 - one per process
    _begin()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    _live(parent)
    # What fails here is tried again once there is somebody to tell.
    with suppress(Exception):
        recipe, config = pickle.loads(ingredients)
        _ahead = Workshop(gather(recipe.build(), recipe, config).setup(predict=True))


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    # A group of its own, so that what a plugin starts can be ended together with the worker.
    with suppress(OSError):
        os.setpgid(0, 0)


def _live(parent: int) -> None:
    """Live as long as the parent; begun last, since a thread may be refused, and nothing may be said of it aloud."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Arrays are freed by counting; what the collector would walk through are the plugins, loaded once.
    gc.freeze()


def _settle(folder: Path) -> None:
    """Open what a worker writes into the folder of its pool."""
    global _heart  # noqa: PLW0603 - one heart per process
    try:
        # Codecs write warnings and plugins print: neither belongs between the lines of a progress bar.
        log = os.open(folder / f"{LOG_PREFIX}{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        fatal = os.open(folder / f"{FATAL_PREFIX}{os.getpid()}", os.O_WRONLY | os.O_CREAT, 0o600)
        faulthandler.enable(fatal, all_threads=False)
        _heart = _Heart(folder)
        _reserve.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(4))
    except OSError:
        os._exit(1)  # where the folder is gone, the parent knows better what to say


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    with suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)  # with what plugins have started; not the group of whoever started us
    os._exit(1)


class Answer(NamedTuple):
    """How a chunk ended in a worker that is alive."""

    #: ``done``; ``tired`` where the worker can open no more files, so that the rest of the chunk needs another one; or
    #: the name of the error that keeps a worker from beginning at all. The parent adds ``lost``.
    kind: str
    text: str = ""


def run_chunk(setup: bytes, folder: Path, chunk: int, refs: Sequence[ClipRef]) -> Answer:
    """Analyse files and spool their outcomes; `setup` is a pickled `Setup`.

    Raises
    ------
    OSError
        An outcome cannot be spooled.
    """
    if _heart is None:
        _settle(folder)
    heart = _heart
    assert heart is not None
    heart.beat(chunk, 0, "start", time.monotonic(), _START_LIMIT_S)
    try:
        workshop = _workshop(setup)
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        name = type(error).__name__
        if isinstance(error, SerBatchError):
            return Answer(name, message_of(error))
        is_machine = isinstance(error, OSError | MemoryError)
        return Answer("RunError" if is_machine else "PluginError", f"{name}: {message_of(error)}")
    if workshop.is_used and _is_exhausted():
        return Answer("tired", _held_open())
    timeout_s = workshop.config.extract.timeout_s
    with (folder / f"{_SPOOL_PREFIX}{chunk}").open("wb") as spool, Fetched(refs, folder) as fetched:
        for position, ref in enumerate(refs):
            # Nobody's time but the network's: requests have limits of their own.
            waited_s = time.perf_counter()
            file = fetched.take(position)
            waited_s = time.perf_counter() - waited_s
            began_s = time.monotonic()

            def observe(stage: str, audio_s: float, position: int = position, began_s: float = began_s) -> None:
                limit_s = timeout_s * (1 + audio_s // _LIMIT_PER_AUDIO_S)
                heart.beat(chunk, position, stage, began_s, limit_s)

            was_used, workshop.is_used = workshop.is_used, True
            data = _analysed(workshop, ref, file, observe, waited_s)
            fetched.drop(position)
            heart.beat(chunk, position, "idle", time.monotonic(), 0.0)
            if data.failed and was_used and _is_exhausted():
                return Answer("tired", _held_open())  # perhaps not the fault of this file
            spool.write(_FRAME.pack(len(data.pickled)) + data.pickled)
            spool.flush()
    return Answer("done")


class _Analysed(NamedTuple):
    pickled: bytes
    failed: bool


def _analysed(
    workshop: Workshop, ref: ClipRef, file: ClipRef | ClipOutcome, observe: Observer, waited_s: float
) -> _Analysed:
    """Analyse one file; whatever a plugin makes of its outcome, there is one that can be sent.

    `file` is what is opened for `ref`, or says that it cannot be; waiting for it is part of decoding.
    """
    try:
        outcome = file if isinstance(file, ClipOutcome) else workshop.analyse(file, observe)
        if file is not ref:
            seconds = {**outcome.seconds, "decode": outcome.seconds.get("decode", 0.0) + waited_s}
            outcome = replace(outcome, ref=ref, seconds=seconds)
        return _Analysed(pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL), outcome.status is Status.FAILED)
    except BaseException as error:  # a KeyboardInterrupt is a plugin's: real ones are ignored here
        refusal = ClipOutcome(ref, Status.FAILED, "extract", type(error).__name__, message_of(error))
        return _Analysed(pickle.dumps(refusal, pickle.HIGHEST_PROTOCOL), failed=True)


def _is_exhausted() -> bool:
    """Whether this process can hardly open a file any more."""
    opened: list[int] = []
    try:
        for _ in range(_SPARE_DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False


def _held_open() -> str:
    """Describe what this process has open, by its number and the latest of them."""
    while _reserve:
        os.close(_reserve.pop())
    process = psutil.Process()
    files = process.open_files()
    return f"{process.num_fds():,} at once" + (f", such as {files[-1].path}" if files else "")


def read_spool(folder: Path, chunk: int, refs: Sequence[ClipRef]) -> list[ClipOutcome]:
    """Return the outcomes that a worker finished of a chunk of `refs`, in order.

    One that it was cut off in is not among them; one that cannot be loaded here costs its own file.
    """
    path = folder / f"{_SPOOL_PREFIX}{chunk}"
    if not path.exists():
        return []
    data = path.read_bytes()
    outcomes: list[ClipOutcome] = []
    first = _FRAME.size
    while first <= len(data) and first + (size := _FRAME.unpack_from(data, first - _FRAME.size)[0]) <= len(data):
        outcomes.append(_loaded(data[first : first + size], refs[len(outcomes)]))
        first += size + _FRAME.size
    path.unlink(missing_ok=True)
    return outcomes


def _loaded(pickled: bytes, ref: ClipRef) -> ClipOutcome:
    try:
        outcome: ClipOutcome = pickle.loads(pickled)  # written by our own worker, in the run's own folder
        return outcome
    except Exception as error:
        return ClipOutcome(ref, Status.FAILED, "extract", type(error).__name__, message_of(error))


def read_beat(path: Path) -> Beat | None:
    """Return the last heartbeat in a file, None where there is none yet."""
    data = path.read_bytes()
    if len(data) < _BEAT.size:
        return None
    born_s, chunk, position, stage, began_s, limit_s = _BEAT.unpack_from(data)
    return Beat(int(path.name.removeprefix(BEAT_PREFIX)), born_s, chunk, position, _STAGES[stage], began_s, limit_s)
