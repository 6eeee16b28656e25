"""Pauses in speech: a whole ser-batch plugin in one module. Copy it, rename it, and put your own measure in."""

from __future__ import annotations

import html
import logging

import numpy as np

from ser_batch import Clip, FeatureBlock, FeatureSpec, hookimpl

logger = logging.getLogger(__name__)

FRAME_S = 0.01
#: Frames this far below the loudest one of the clip count as silent.
THRESHOLD_DB = 35.0
#: Shorter silences belong to the articulation of plosives.
SHORTEST_PAUSE_S = 0.2


class PauseExtractor:
    """Silences within speech, by the level of 10 ms frames."""

    spec = FeatureSpec("pauses", version=1, scalars=(("rate", "per_s"), ("mean", "s"), ("fraction", "")))

    def extract(self, clip: Clip, windows_s: np.ndarray) -> FeatureBlock:
        """Measure each window, and the clip as a whole."""
        silent = find_silence(clip)
        # The first window may begin before the recording does.
        frames = np.round(np.maximum(windows_s - clip.start_s, 0) / FRAME_S).astype(int)
        rows = [describe(silent[first:last]) for first, last in frames]
        scalars = np.array(rows, np.float32).reshape(len(rows), len(self.spec.scalars))
        return FeatureBlock("pauses", scalars, np.array(describe(silent), np.float32))


def find_silence(clip: Clip) -> np.ndarray:
    """Say of each 10 ms whether it is silent, as bool (n_frames,); empty for a clip without any sound."""
    n_samples = round(FRAME_S * clip.sample_rate_hz)
    n_frames = len(clip.samples) // n_samples
    frames = clip.samples[: n_frames * n_samples].astype(float).reshape(n_frames, n_samples)
    power = frames.var(axis=1)  # without the mean, so that a constant offset does not count as sound
    loudest = power.max(initial=0.0)
    return power < loudest * 10 ** (-THRESHOLD_DB / 10) if loudest > 0 else np.zeros(0, bool)


def describe(silent: np.ndarray) -> tuple[float, float, float]:
    """Return pauses per second, their mean length in s, and their share of the time; NaN where undefined."""
    if not len(silent):
        return np.nan, np.nan, np.nan
    steps = np.diff(np.concatenate([[0], silent.astype(int), [0]]))
    lengths_s = (np.flatnonzero(steps < 0) - np.flatnonzero(steps > 0)) * FRAME_S
    pauses_s = lengths_s[lengths_s >= SHORTEST_PAUSE_S - FRAME_S / 2]
    duration_s = len(silent) * FRAME_S
    mean_s = pauses_s.mean() if len(pauses_s) else np.nan  # no pause has no length; 0 would be a lie
    return len(pauses_s) / duration_s, mean_s, pauses_s.sum() / duration_s


@hookimpl
def register_extractors(config):
    """Offer the extractor; it runs when a scan asks for ``--extractor pauses``."""
    return [PauseExtractor()]


@hookimpl
def clip_finished(outcome):
    """Say aloud which files are mostly silence."""
    for block in outcome.blocks:
        if block.extractor == "pauses" and block.clip_scalars[2] > 0.8:
            logger.warning("%s is silent for %.0f %% of its time", outcome.ref.clip_id, 100 * block.clip_scalars[2])


@hookimpl
def report_sections(run_dir):
    """Add a table to the report of any run that has our columns."""
    from ser_batch import load_results

    files = load_results(run_dir)
    if "pauses__fraction" not in files or "emotion" not in files:
        return []
    means = files.groupby("emotion", observed=True)["pauses__fraction"].mean().dropna()
    rows = "".join(f"<tr><td>{html.escape(str(name))}</td><td>{share:.0%}</td></tr>" for name, share in means.items())
    return [("Pauses", f"<table><tr><th>Emotion</th><th>Share of pauses</th></tr>{rows}</table>")]


@hookimpl
def register_commands(cli):
    """Add ``ser-batch pauses RUN``. Import here what only the command needs: this runs for every ``--help``."""
    import click

    @cli.command("pauses", help="List the files of a run with the most pauses.")
    @click.argument("run", type=click.Path(exists=True, file_okay=False))
    def pauses(run):
        from ser_batch import load_results

        files = load_results(run).dropna(subset="pauses__rate_per_s").nlargest(10, "pauses__rate_per_s")
        click.echo(files[["clip_id", "pauses__rate_per_s", "pauses__mean_s"]].to_string(index=False))
