"""What runs in a worker process: a chunk of files, one after the other, spooled as they finish.

A worker may die at any moment, so nothing that matters goes through its pipe: each outcome is appended to a spool file
as soon as it is there, and a small heartbeat file says which file is in hand, at which stage, since when. Whoever finds
the worker dead reads from both what is done and whom to blame.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import pickle
import signal
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import hooks
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import PluginError, SerBatchError
from ser_batch.records import Clip, ClipOutcome, ClipRef, Status
from ser_batch.stages.analyse import analyse_clip, select_extractors
from ser_batch.stages.ingredients import Setup, differences, ingredients_of
from ser_batch.windows import plan_windows

if TYPE_CHECKING:
    import pluggy

__all__ = ["BEAT_PREFIX", "Beat", "Workshop", "read_beat", "read_spool", "run_chunk", "start_worker"]

BEAT_PREFIX = "beat-"

#: Heartbeat on disk: chunk, position in it, stage, time it began, time limit; all in s of the system's monotonic clock.
_BEAT = struct.Struct("<qiidd")
_STAGES = ("start", "decode", "extract", "predict", "idle")

#: A worker that has not loaded and warmed up all plugins by then never will. Compiling takes minutes on a slow machine.
_START_LIMIT_S = 900.0
#: Audio per started stretch of which a file is given its time limit once more.
_LIMIT_PER_AUDIO_S = 600.0


@dataclass(frozen=True, slots=True)
class Beat:
    """What a worker was about when it was last heard of."""

    pid: int
    chunk: int
    position: int
    stage: str
    began_s: float
    limit_s: float


class Workshop:
    """Plugins, extractors and classifier of one process, built once."""

    def __init__(self, setup: Setup) -> None:
        self.config = setup.config
        self._setup = setup
        self.manager: pluggy.PluginManager = setup.recipe.build()
        offered = hooks.register_extractors(self.manager, setup.config)
        # Where the parent predicts, long recordings are predicted here all the same.
        self._model = hooks.load_classifier(self.manager, setup.model, "cpu") if setup.model else None
        self.extractors = select_extractors(offered, setup.extractors)
        self.classifier = self._model if setup.predict else None
        self._check_promise()
        self._warm_up()

    def _check_promise(self) -> None:
        """See that this process has the versions and the weights that the parent has.

        Raises
        ------
        PluginError
            It has not; says which.
        """
        if not self._setup.promise:
            return
        own = ingredients_of(self.manager, self._setup.recipe, self.config, self.extractors, self._model).promise()
        differing = differences(json.loads(self._setup.promise), json.loads(own))
        if differing:
            raise PluginError(
                f"they have other ingredients than the scan that starts them: {'; '.join(differing)}. Was a plugin or "
                f"the model replaced meanwhile? Then begin again. A plugin must be the same in every process."
            )

    def _warm_up(self) -> None:
        """Analyse a made-up clip, so that no file pays for loading libraries or, once per machine, compiling kernels.

        That can take minutes, and would run into the time limit of whichever file came first. A model that cannot
        label it will label no file.

        Raises
        ------
        PluginError, ModelError
            The model cannot.
        """
        audio = self.config.audio
        samples = synthetic_voice(audio.window_s + 0.5, audio.sample_rate_hz)
        clip = Clip(samples, audio.sample_rate_hz, audio.sample_rate_hz, 1)
        windows_s = plan_windows(clip.duration_s, audio.window_s, audio.window_hop_s)
        try:
            blocks = {name: extractor.extract(clip, windows_s) for name, (_, extractor) in self.extractors.items()}
        except SerBatchError:
            return  # an extractor that fails here fails on the first file too, where it has a row to say so
        if self.classifier is not None:
            self.classifier.pool(*self.classifier.predict(blocks))

    def analyse(self, ref: ClipRef, observe: Any) -> ClipOutcome:
        model = self._model
        keep = self._setup.keep_tensors if model is None else lambda: model
        return analyse_clip(
            ref, self.config, self.extractors, self.classifier, self.manager, observe, keep, self._setup.change
        )


@functools.lru_cache(maxsize=1)
def _workshop(setup: Setup) -> Workshop:
    return Workshop(setup)


class _Heart:
    """Writes the heartbeat of this process: one small write in place, about a microsecond."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / f"{BEAT_PREFIX}{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o600)

    def beat(self, chunk: int, position: int, stage: str, began_s: float, limit_s: float) -> None:
        os.pwrite(self._file, _BEAT.pack(chunk, position, _STAGES.index(stage), began_s, limit_s), 0)


_heart: _Heart | None = None


def start_worker(folder: Path, parent: int) -> None:
    """Prepare a fresh worker: signals, heartbeat, output, and an end with its parent."""
    global _heart  # noqa: PLW0603 - one heart per process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    # Codecs write warnings and plugins print: neither belongs between the lines of a progress bar.
    log = os.open(folder / f"log-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    _heart = _Heart(folder)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Arrays are freed by counting; what the collector would walk through are the plugins, loaded once.
    gc.freeze()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def run_chunk(setup: Setup, folder: Path, chunk: int, refs: Sequence[ClipRef]) -> str:
    """Analyse files and spool their outcomes; return "" or why no file could be begun."""
    heart = _heart
    assert heart is not None
    heart.beat(chunk, 0, "start", time.monotonic(), _START_LIMIT_S)
    try:
        workshop = _workshop(setup)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    timeout_s = setup.config.extract.timeout_s
    with (folder / f"spool-{chunk}").open("wb") as spool:
        for position, ref in enumerate(refs):
            began_s = time.monotonic()

            def observe(stage: str, audio_s: float, position: int = position, began_s: float = began_s) -> None:
                limit_s = timeout_s * (1 + audio_s // _LIMIT_PER_AUDIO_S)
                heart.beat(chunk, position, stage, began_s, limit_s)

            try:
                outcome = workshop.analyse(ref, observe)
            except KeyboardInterrupt as error:  # raised by a plugin: real ones are ignored here
                outcome = _refused(ref, error)
            heart.beat(chunk, position, "idle", time.monotonic(), 0.0)
            pickle.dump(outcome, spool, protocol=pickle.HIGHEST_PROTOCOL)
            spool.flush()
    return ""


def _refused(ref: ClipRef, error: BaseException) -> ClipOutcome:
    return ClipOutcome(ref, Status.FAILED, "extract", type(error).__name__, str(error) or type(error).__name__)


def read_spool(folder: Path, chunk: int) -> list[ClipOutcome]:
    """Return the outcomes that a worker finished, in order; one that it was cut off in is not among them."""
    outcomes: list[ClipOutcome] = []
    try:
        data = (folder / f"spool-{chunk}").read_bytes()
    except FileNotFoundError:
        return outcomes
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        try:
            outcomes.append(pickle.load(stream))  # written by our own worker, in the run's own folder
        except (EOFError, pickle.UnpicklingError):
            break
    return outcomes


def read_beat(path: Path) -> Beat | None:
    """Return the last heartbeat in a file, None where there is none yet."""
    data = path.read_bytes()
    if len(data) < _BEAT.size:
        return None
    chunk, position, stage, began_s, limit_s = _BEAT.unpack_from(data)
    return Beat(int(path.name.removeprefix(BEAT_PREFIX)), chunk, position, _STAGES[stage], began_s, limit_s)
