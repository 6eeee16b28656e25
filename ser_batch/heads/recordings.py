"""The audio of answered stretches: recordings where a run found them, and what lies within others, cut out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.errors import DataError, InputError, SerBatchError
from ser_batch.heads.answered import Answered, Found
from ser_batch.records import ClipRef
from ser_batch.reviews.excerpts import recording_of
from ser_batch.run.read import Run
from ser_batch.stages.channels import check_channel
from ser_batch.text import shown

if TYPE_CHECKING:
    import pluggy

__all__ = ["audio_of"]

_PIECE_S = 60.0
#: A stretch that lacks no more of a recording is all of it.
_WHOLE_S = 0.05


def audio_of(
    run: Run, found: Found, root: Path, manager: pluggy.PluginManager, rate_hz: int, folder: Path
) -> list[str]:
    """Return a file with the audio of each stretch of `found`, in its order.

    Stretches whose recording is gone, is another one now or cannot be decoded are left out of `found`, and said.

    Parameters
    ----------
    run, found
    root : Path
        Where the recordings are.
    manager : pluggy.PluginManager
        Of those who read them.
    rate_hz : int
        Sample rate of what is cut out.
    folder : Path
        Where that is put, as WAV.

    Raises
    ------
    DataError
        None of the recordings can be used.
    InputError
        What is cut out cannot be written.
    """
    items: dict[str, list[Answered]] = {}
    for item in found.stretches:
        items.setdefault(item.clip_id, []).append(item)
    columns = ["clip_id", "duration_s", "size_bytes"]
    rows = run.read("files", columns, where=[("clip_id", "in", sorted(items))], metadata=False)
    known = {row["clip_id"]: row for row in rows.to_pylist()}
    files: dict[tuple[str, float, float, int], str] = {}
    lost: dict[str, str] = {}
    for clip_id, stretches in items.items():
        duration_s = known[clip_id]["duration_s"]
        try:
            path = recording_of(root, clip_id)
        except InputError:
            lost[clip_id] = f"is not in {root} any more"
            continue
        if os.stat(path).st_size != known[clip_id]["size_bytes"]:  # noqa: PTH116 - Path cannot hold every name
            lost[clip_id] = "is another file than was scanned"
            continue
        whole = [item for item in stretches if _is_whole(item, duration_s)]
        files |= {_key(item): path for item in whole}
        parts = [item for item in stretches if item not in whole]
        for item, samples in _cut(manager, path, rate_hz, parts):
            if len(samples):
                files[_key(item)] = _stored(folder / f"{len(files):06d}.wav", samples, rate_hz)
            else:
                lost[clip_id] = f"cannot be decoded from {item.start_s:.1f} s on"
    left = [item for item in found.stretches if _key(item) in files]
    if lost:
        clip_id, why = next(iter(lost.items()))
        told = f"The audio of {len(found.stretches) - len(left)} answers cannot be used: {shown(clip_id)} {why}"
        cure = "If the recordings have moved, say by --audio FOLDER where they are now."
        if not left:
            raise DataError(f"{told}, and so on. {cure}")
        found.notices.append(f"{told}{', and so on' if len(lost) > 1 else ''}. They are left out. {cure}")
        found.stretches = left
    return [files[_key(item)] for item in left]


def _key(item: Answered) -> tuple[str, float, float, int]:
    return item.clip_id, item.start_s, item.end_s, item.channel


def _is_whole(item: Answered, duration_s: float) -> bool:
    return item.channel == 0 and item.start_s < _WHOLE_S and item.end_s > duration_s - _WHOLE_S


def _cut(
    manager: pluggy.PluginManager, path: str, rate_hz: int, items: Sequence[Answered]
) -> Iterator[tuple[Answered, NDArray[np.float32]]]:
    """Yield stretches of one recording with their samples, each channel decoded once; none of what follows a break."""
    for channel in sorted({item.channel for item in items}):
        of_channel = [item for item in items if item.channel == channel]
        parts: list[list[NDArray[np.float32]]] = [[np.zeros(0, np.float32)] for _ in of_channel]
        last_s = max(item.end_s for item in of_channel)
        try:
            ref = ClipRef(of_channel[0].clip_id, path, 0, 0, channel=channel)
            pieces = hooks.read_clip(manager, ref, rate_hz, _PIECE_S, 0.0)
            for piece in check_channel(pieces, channel) if channel else pieces:
                for part, item in zip(parts, of_channel, strict=True):
                    part.append(piece.window(item.start_s, item.end_s))
                if piece.start_s + piece.duration_s >= last_s:
                    break
        except SerBatchError:
            raise
        except Exception:  # whatever a decoder raises
            pass
        yield from zip(of_channel, map(np.concatenate, parts), strict=True)


def _stored(path: Path, samples: NDArray[np.float32], rate_hz: int) -> str:
    import soundfile  # noqa: PLC0415 - heavy

    try:
        soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(
            f"{path} cannot be written: {error}. Free some space, or set TMPDIR to another disk."
        ) from None
    return str(path)
