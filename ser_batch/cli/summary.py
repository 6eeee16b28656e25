"""What a scan came to, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import click

from ser_batch.cli.progress import hours_text
from ser_batch.cli.streams import OutputLostError
from ser_batch.run.summary import RunSummary
from ser_batch.text import printable

__all__ = ["counts_text", "failure_lines", "gap_lines", "told"]


def told(summary: RunSummary, quiet: bool) -> int:
    """Print counts, emotions, failures, and where everything is, unless `quiet`; return the exit code of the command.

    Where nothing can be printed, the run stands.
    """
    with suppress(OutputLostError):
        if not quiet:
            _print(summary)
    return summary.exit_code


def _print(summary: RunSummary) -> None:
    counts, run_dir = summary.counts, printable(summary.run_dir)
    if summary.n_processed:
        click.echo(f"{counts_text(counts)} {hours_text(summary.audio_s)} of audio.")
    else:
        click.echo(f"Nothing new: {counts_text(counts)}")
    if n_segments := counts.get("segments"):
        click.echo(f"{n_segments:,} segments in {counts['with_segments']:,} of the files.")
    n_labelled = sum(summary.emotions.values())
    if n_labelled:
        shares = {printable(emotion): n_files for emotion, n_files in summary.emotions.items()}
        width = max(map(len, shares))
        click.echo("")
        for emotion, n_files in sorted(shares.items(), key=lambda item: -item[1]):
            click.echo(f"  {emotion:<{width}}  {n_files:>9,}  {n_files / n_labelled:6.1%}")
    for doubt in summary.doubts:
        click.echo(f"\nWARNING: {printable(doubt)}")
    for line in (*failure_lines(summary.failures), *gap_lines(summary.gaps)):
        click.echo(line)
    click.echo("")
    more = f", {run_dir}/segments" if n_segments else ""
    click.echo(f"Tables: {run_dir}/files, {run_dir}/windows{more}, for pandas.read_parquet or ser_batch.load_results")
    if summary.has_report or (isinstance(summary.run_dir, Path) and (summary.run_dir / "report.html").exists()):
        click.echo(f"Report: {run_dir}/report.html")
    if summary.failures:
        click.echo(f"Next:   ser-batch show {run_dir}, or ser-batch retry {run_dir} once the files are mended")


def counts_text(counts: Mapping[str, int]) -> str:
    """One sentence of counts, without those that are zero."""
    parts = [f"{counts[name]:,} {name}" for name in ("ok", "partial", "skipped", "failed") if counts.get(name)]
    text = f"{counts.get('found', 0):,} files found: {', '.join(parts) or 'none done'}."
    if counts.get("vanished"):
        text += f" {counts['vanished']:,} of an earlier scan are gone (their rows are among these, marked)."
    left_out = {"hidden": "hidden_skipped", "system folders": "system_skipped", "of other kinds": "unmatched"}
    parts = [f"{counts[name]:,} {what}" for what, name in left_out.items() if counts.get(name)]
    if parts:
        text += f" Left out: {', '.join(parts)}."
    return text


def failure_lines(failures: Mapping[str, int]) -> list[str]:
    """Failures by reason, the most frequent first."""
    if not failures:
        return []
    rows = sorted(failures.items(), key=lambda item: -item[1])
    return ["", "Failed, by stage and error:", *(f"  {n_files:>9,}  {printable(reason)}" for reason, n_files in rows)]


def gap_lines(gaps: Sequence[str]) -> list[str]:
    """What could not be looked into, below what failed."""
    return ["", *map(printable, gaps)] if gaps else []
