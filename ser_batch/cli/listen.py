"""``ser-batch listen``: a microphone, or a file in its place, labelled as it is heard."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click

from ser_batch.cli.options import model_option, plugin_option
from ser_batch.errors import ConfigError, ExitCode, InputError, NoVoiceError
from ser_batch.plugins import PluginRecipe
from ser_batch.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ser_batch.predictor import EmotionPredictor, EmotionResult

__all__ = ["command", "sliding_windows"]

#: How often the network looks.
STEP_S = 1.0

#: Audio handed over at once, in s.
_BLOCK_S = 0.1


class Source(Protocol):
    """Gives mono audio as it comes."""

    sample_rate_hz: int
    #: Windows may be left out to keep up with a microphone, never of a file.
    live: bool

    def blocks(self) -> Iterator[NDArray[np.float32]]: ...


@click.command("listen")
@click.option("--input", "device_name", metavar="NAME|NUMBER", help="Microphone; by default that of the system.")
@click.option("--list-devices", is_flag=True, help="List the microphones and end.")
@click.option("--from-file", metavar="FILE", type=click.Path(), help="Hear a file instead of a microphone.")
@click.option("--fast", is_flag=True, help="With --from-file: as fast as it goes instead of as fast as it sounds.")
@click.option("--duration-s", type=click.FloatRange(min=0, min_open=True), help="End after so many seconds of audio.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per window and line.")
@model_option()
@plugin_option
def command(**options: Any) -> int:
    """Label a microphone as it is heard; end with Ctrl-C.

    Every second the last 3 seconds (or what the model sees at once) are shown: bars on a terminal, else a line. With
    --json each line holds start_s, end_s, emotion, probabilities and silent; where no voice is heard, silent is true,
    emotion null and probabilities empty.

    A microphone needs the extra: pip install "ser-batch[listen]", and the PortAudio library.
    """
    if options["list_devices"]:
        _list_devices()
        return ExitCode.OK
    if options["fast"] and options["from_file"] is None:
        raise ConfigError("--fast needs --from-file: a microphone is only as fast as it hears.")
    source: Source
    if options["from_file"] is not None:
        source = _File(options["from_file"], options["fast"])
    else:
        source = _Microphone(options["device_name"])
    from ser_batch.predictor import EmotionPredictor  # noqa: PLC0415 - after what can fail at once

    # One window at a time is fastest on the CPU.
    predictor = EmotionPredictor(options["model"], "cpu", PluginRecipe(files=options["plugins"]))
    try:
        _listen(source, predictor, options["duration_s"] or float("inf"), options["as_json"])
    except KeyboardInterrupt:
        click.echo()
    return ExitCode.OK


def _listen(source: Source, predictor: EmotionPredictor, duration_s: float, as_json: bool) -> None:
    show = _show_json if as_json else _Bars() if sys.stdout.isatty() else _show_line
    if not as_json:
        click.echo("Listening; Ctrl-C ends.", err=True)
    n_left_out = 0
    for start_s, end_s, samples, n_missed in sliding_windows(source, duration_s, predictor.window_s):
        n_left_out += n_missed
        try:
            show(start_s, end_s, predictor.predict_samples(samples, source.sample_rate_hz))
        except NoVoiceError:
            show(start_s, end_s, None)
    if n_left_out:
        click.echo(f"{n_left_out} windows were left out to keep up with the microphone.", err=True)


def sliding_windows(
    source: Source, duration_s: float = float("inf"), window_s: float = 3.0
) -> Iterator[tuple[float, float, NDArray[np.float32], int]]:
    """Cut audio into windows that begin 1 s apart; one shorter window where the audio ends before.

    Parameters
    ----------
    source : Source
    duration_s : float
        End after so much audio.
    window_s : float

    Yields
    ------
    start_s, end_s : float
        Times since the beginning.
    samples : float32 (n_samples,)
    n_missed : int
        Windows left out just before this one, since newer audio of a live source was already there.
    """
    import numpy as np  # noqa: PLC0415 - not for --help

    rate_hz = source.sample_rate_hz
    n_window, n_step = round(window_s * rate_hz), round(STEP_S * rate_hz)
    n_end = duration_s * rate_hz
    heard: NDArray[np.float32] = np.zeros(0, np.float32)
    start, n_windows = 0, 0
    for block in source.blocks():
        heard = np.concatenate([heard, block])
        if start + len(heard) > n_end:
            heard = heard[: int(n_end) - start]
        n_missed = max(0, (len(heard) - n_window) // n_step) if source.live else 0
        start, heard = start + n_missed * n_step, heard[n_missed * n_step :]
        while len(heard) >= n_window:
            yield start / rate_hz, (start + n_window) / rate_hz, heard[:n_window].copy(), n_missed
            n_windows, n_missed = n_windows + 1, 0
            start, heard = start + n_step, heard[n_step:]
        if start + len(heard) >= n_end:
            break
    if not n_windows and len(heard):
        yield 0.0, len(heard) / rate_hz, heard, 0


class _File:
    """A file as if it were a microphone."""

    live = False

    def __init__(self, path: str, fast: bool) -> None:
        import soundfile  # noqa: PLC0415 - not for --help

        self._fast = fast
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.LibsndfileError, OSError) as error:
            reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error.strerror
            raise InputError(f"{printable(path)} cannot be heard: {str(reason).rstrip('.')}.") from error
        self.sample_rate_hz = self._file.samplerate

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        n_block = max(1, round(_BLOCK_S * self.sample_rate_hz))
        begin_s, n_heard = time.monotonic(), 0
        while len(block := self._file.read(n_block, dtype="float32", always_2d=True)):
            n_heard += len(block)
            if not self._fast:
                time.sleep(max(0.0, begin_s + n_heard / self.sample_rate_hz - time.monotonic()))
            yield block.mean(axis=1)


class _Microphone:
    """PortAudio's input, by sounddevice."""

    live = True

    def __init__(self, name: str | None) -> None:
        self._sounddevice = _sounddevice()
        self._name: str | int | None = int(name) if name is not None and name.isdigit() else name
        try:
            info = self._sounddevice.query_devices(self._name, "input")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise _no_microphone(name, error) from error
        # The device's own rate: not every one can do another, and what is heard is resampled anyway.
        self.sample_rate_hz = round(info["default_samplerate"])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        waiting: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        try:
            with self._sounddevice.InputStream(
                samplerate=self.sample_rate_hz,
                blocksize=round(_BLOCK_S * self.sample_rate_hz),
                device=self._name,
                channels=1,
                dtype="float32",
                callback=lambda block, *_: waiting.put(block[:, 0].copy()),
            ):
                while True:
                    yield _all_waiting(waiting)
        except self._sounddevice.PortAudioError as error:
            raise _no_microphone(self._name, error) from error


def _all_waiting(waiting: queue.SimpleQueue[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what has come in since the last time, at least one block."""
    import numpy as np  # noqa: PLC0415 - not for --help

    blocks: list[NDArray[np.float32]] = []
    while not blocks or not waiting.empty():
        try:
            # A timeout, so that Ctrl-C is seen; a microphone that hangs gives nothing for good.
            blocks.append(waiting.get(timeout=5))
        except queue.Empty:
            raise InputError("The microphone has given nothing for 5 s. Is it unplugged or used elsewhere?") from None
    return np.concatenate(blocks)


def _sounddevice() -> Any:
    try:
        import sounddevice  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise ConfigError(
            'A microphone needs the package sounddevice: pip install "ser-batch[listen]". '
            "Without one, --from-file FILE hears a file."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"sounddevice cannot load PortAudio ({error}). Install the library: `apt install libportaudio2` on Debian "
            f"and Ubuntu, `brew install portaudio` on macOS."
        ) from error
    return sounddevice


def _no_microphone(name: str | int | None, error: Exception) -> InputError:
    which = "There is no microphone" if name is None else f"Microphone {name!r} cannot be opened"
    return InputError(f"{which}: {error}. `ser-batch listen --list-devices` shows what there is.")


def _list_devices() -> None:
    sounddevice = _sounddevice()
    default = sounddevice.default.device[0]
    found = [(number, item) for number, item in enumerate(sounddevice.query_devices()) if item["max_input_channels"]]
    for number, item in found:
        mark = "*" if number == default else " "
        click.echo(f"{mark} {number:3}  {printable(item['name'])}  ({item['default_samplerate']:,.0f} Hz)")
    if not found:
        click.echo("PortAudio finds no microphone.", err=True)


def _show_json(start_s: float, end_s: float, result: EmotionResult | None) -> None:
    probabilities = result.probabilities.items() if result else ()
    values = {
        "start_s": round(start_s, 3),
        "end_s": round(end_s, 3),
        "emotion": result.emotion if result else None,
        "probabilities": {label: round(share, 6) for label, share in probabilities},
        "silent": result is None,
    }
    click.echo(json.dumps(values))


def _show_line(start_s: float, end_s: float, result: EmotionResult | None) -> None:
    what = f"{printable(result.emotion or '')}  {100 * result.confidence:.1f} %" if result else "no voice"
    click.echo(f"{start_s:8.1f} - {end_s:.1f} s  {what}")


@dataclass
class _Bars:
    """Bars that are drawn over the last ones."""

    n_lines: int = 0

    def __call__(self, start_s: float, end_s: float, result: EmotionResult | None) -> None:
        from ser_batch.cli.bars import bar_lines  # noqa: PLC0415

        head = f"{start_s:.1f} - {end_s:.1f} s" + ("" if result else "  no voice")
        lines = [head, *(bar_lines(result.probabilities) if result else ())]
        # Up to the first of the old lines; each new one clears the rest of its line.
        up = f"\x1b[{self.n_lines}A" if self.n_lines else ""
        click.echo(up + "\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")
        self.n_lines = len(lines)
