"""What a listener hears and sees of one stretch: decoded by the reader of scans, analysed as scans do."""

from __future__ import annotations

import base64
import io
import os
import re
import threading
import wave
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.errors import InputError, SerBatchError
from ser_batch.records import Clip, ClipRef
from ser_batch.reviews.sample import Unit
from ser_batch.stages.channels import check_channel
from ser_batch.text import message_of

if TYPE_CHECKING:
    import pluggy

    from ser_batch.run.read import Run

__all__ = ["CONTEXT_S", "Excerpt", "Excerpts", "recording_of", "root_of"]

#: Heard before and after a window, more quietly.
CONTEXT_S = 2.0
_CONTEXT_GAIN = 0.35
_FADE_S = 0.05
#: A whole file longer than this is heard up to here.
_LONGEST_S = 60.0
_N_BANDS = 96
#: Below the loudest, all is drawn alike.
_RANGE_DB = 70.0
_N_KEPT = 6
_N_LOOKED_FOR = 12
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, eq=False)
class Excerpt:
    """One stretch with its context, decoded."""

    clip: Clip
    #: Of the stretch itself, in s from the beginning of the excerpt.
    start_s: float
    end_s: float
    #: Whether the stretch goes on beyond what is heard.
    is_cut: bool = False

    def wav(self) -> bytes:
        """Return it as a WAV file, at full scale, the context more quietly."""
        samples, rate_hz = self.clip.samples, self.clip.sample_rate_hz
        times_s = np.arange(len(samples)) / rate_hz
        inside = np.minimum(times_s - self.start_s, self.end_s - times_s) / _FADE_S + 0.5
        gain = _CONTEXT_GAIN + (1 - _CONTEXT_GAIN) * np.clip(inside, 0, 1)
        peak = max(float(np.abs(samples).max(initial=0)), 1e-4)
        file = io.BytesIO()
        with wave.open(file, "wb") as target:
            target.setnchannels(1)
            target.setsampwidth(2)
            target.setframerate(rate_hz)
            target.writeframes((samples * gain * (0.9 * 32_767 / peak)).astype("<i2").tobytes())
        return file.getvalue()

    def picture(self) -> dict[str, Any]:
        """Return its spectrogram and F0 as JSON holds them.

        ``bands`` and ``frames`` are the size of ``levels``: base64 of a byte per band (lowest first) and frame, 255
        the loudest. ``f0`` holds a place per 10 ms, 0 for 75 Hz and 1 for 600 Hz, equal for equal semitones, null
        where unvoiced; ``f0_start_s`` and ``f0_hop_s`` say when.
        """
        from ser_batch.dsp.mel import log_mel  # noqa: PLC0415 - loads numba
        from ser_batch.extractors.analyses import F0_CEILING_HZ, F0_FLOOR_HZ, finite, pitch  # noqa: PLC0415

        samples = finite(self.clip.samples)
        level_db = log_mel(samples, len(samples), self.clip.sample_rate_hz, _N_BANDS)
        levels = np.clip(1 + (level_db - level_db.max()) / _RANGE_DB, 0, 1)
        track = pitch(self.clip)
        place = np.log(track.f0_hz / F0_FLOOR_HZ) / np.log(F0_CEILING_HZ / F0_FLOOR_HZ)
        times_s = track.times_s
        return {
            "bands": levels.shape[0],
            "frames": levels.shape[1],
            "levels": base64.b64encode((255 * levels).astype(np.uint8).tobytes()).decode(),
            "f0": [None if np.isnan(value) else round(float(value), 4) for value in place],
            "f0_start_s": float(times_s[0]) if len(times_s) else 0.0,
            "f0_hop_s": float(times_s[1] - times_s[0]) if len(times_s) > 1 else 0.01,
            "duration_s": self.clip.duration_s,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "is_cut": self.is_cut,
        }


class Excerpts:
    """Decodes stretches of the recordings of a run, and keeps the last few."""

    def __init__(self, root: Path, manager: pluggy.PluginManager, sample_rate_hz: int) -> None:
        self._root, self._manager, self._rate_hz = root, manager, sample_rate_hz
        self._kept: OrderedDict[Unit, Excerpt] = OrderedDict()
        # Analyses share work space, and one listener hears one clip at a time.
        self._lock = threading.Lock()

    def wav(self, unit: Unit) -> bytes:
        """Return the sound of a unit; see `Excerpt.wav`, and `InputError` where it cannot be had."""
        return self._of(unit).wav()

    def picture(self, unit: Unit) -> dict[str, Any]:
        """Return the picture of a unit; see `Excerpt.picture`."""
        excerpt = self._of(unit)
        with self._lock:
            return excerpt.picture()

    def _of(self, unit: Unit) -> Excerpt:
        with self._lock:
            if unit not in self._kept:
                self._kept[unit] = self._decoded(unit)
                while len(self._kept) > _N_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(unit)
            return self._kept[unit]

    def refuse_if_moved(self, units: Sequence[Unit]) -> None:
        """Look for the first units, so that a whole archive that has moved is said at once; single files are not.

        Raises
        ------
        InputError
            None of them is there.
        """
        problems: list[InputError] = []
        for unit in units[:_N_LOOKED_FOR]:
            try:
                self.path_of(unit.clip_id)
            except InputError as error:
                problems.append(error)
            else:
                return
        if problems:
            raise problems[0]

    def path_of(self, clip_id: str) -> str:
        """Return where a clip is; see `recording_of`."""
        return recording_of(self._root, clip_id)

    def _decoded(self, unit: Unit) -> Excerpt:
        path = self.path_of(unit.clip_id)
        first_s = max(unit.start_s - CONTEXT_S, 0.0)
        last_s = min(unit.end_s + CONTEXT_S, first_s + _LONGEST_S)
        ref = ClipRef(unit.clip_id, path, 0, 0, channel=unit.channel)
        parts: list[NDArray[np.float32]] = []
        try:
            pieces = hooks.read_clip(self._manager, ref, self._rate_hz, 60.0, 0.0)
            for piece in check_channel(pieces, unit.channel) if unit.channel else pieces:
                if piece.start_s < last_s:
                    parts.append(piece.window(first_s, last_s))
                else:
                    break
        except SerBatchError:
            raise
        except Exception as error:
            if not any(map(len, parts)):  # what comes before a break can be heard
                raise InputError(f"{unit.clip_id} cannot be decoded: {message_of(error)}.") from None
        samples = np.concatenate([np.zeros(0, np.float32), *parts])
        if not len(samples):
            raise InputError(f"{unit.clip_id} ends before {unit.start_s:.1f} s: it has changed since the scan.")
        clip = Clip(samples, self._rate_hz, self._rate_hz, 1)
        end_s = min(unit.end_s - first_s, clip.duration_s)
        return Excerpt(clip, unit.start_s - first_s, end_s, is_cut=unit.end_s - first_s > _LONGEST_S)


def root_of(run: Run, audio: str | None) -> Path:
    """Return the folder of the recordings of a run: `audio`, if they have moved there.

    Raises
    ------
    InputError
        It is not known, or not there.
    """
    root = audio or str(run.info.get("root") or "")
    if not root:
        raise InputError(f"{run.folder} does not say where its recordings are: give their folder by --audio.")
    if not Path(root).is_dir():
        raise InputError(f"The recordings are no longer at {root}: say by --audio FOLDER where they are now.")
    return Path(root).absolute()


def recording_of(root: Path, clip_id: str) -> str:
    """Return where a clip is.

    Raises
    ------
    InputError
        It is not there, or its name leads out of the folder of the recordings.
    """
    for name in (clip_id, _unescaped(clip_id)):
        path = os.path.normpath(root / name)
        if not path.startswith(os.path.join(os.path.normpath(root), "")):  # noqa: PTH118 - names are bytes
            raise InputError(f"{clip_id} is no clip of this run: it lies outside {root}.")
        if os.path.isfile(path):  # noqa: PTH113
            return path
    raise InputError(
        f"{clip_id} is not in {root} any more. If the recordings have moved, end this review and start it "
        f"again with --audio FOLDER, where they are now; answers are kept."
    )


def _unescaped(clip_id: str) -> str:
    """Return the name of a file whose bytes are not UTF-8, which a clip_id holds as ``\\xNN``."""
    return _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), clip_id)
