"""``ser-batch scan --dry-run``: what a scan would do, and about how long it would take."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ser_batch.audio.formats import MEDIA_SUFFIXES, pyav_reader
from ser_batch.cli.progress import hours_text, make_progress
from ser_batch.engine import prepare
from ser_batch.errors import ExitCode
from ser_batch.run.open import preview_run
from ser_batch.run.place import place_of
from ser_batch.stages.measure import estimate_audio_s, measure_speed, sample_refs
from ser_batch.stages.processes import worker_count
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.config import Config
    from ser_batch.plugins import PluginRecipe
    from ser_batch.stages.discover import FileList, Found
    from ser_batch.stages.ingredients import Ingredients

__all__ = ["show_plan"]

#: Files processed for the estimate of time, per worker.
_SAMPLE_PER_WORKER = 12


def show_plan(
    inputs: tuple[str, ...] | FileList,
    run_dir: Path | str,
    mode: str,
    config: Config,
    recipe: PluginRecipe,
    metadata: str | None,
) -> int:
    """Print the plan of a scan, which is checked as the scan would be; nothing is written."""
    _, found, _, ingredients, notices = prepare(inputs, config, recipe, metadata)
    with place_of(run_dir) as place:
        place.look()
        plan = preview_run(place.folder, ingredients, found, mode)
    for notice in (*(f"Cannot list {folder}" for folder in found.unreadable), *notices):
        click.echo(printable(notice))
    click.echo(f"{len(found):,} files below {printable(found.root)}, {plan.n_files:,} of them to do.")
    click.echo(
        f"Left out: {found.n_hidden:,} hidden entries, {found.n_system:,} system folders, "
        f"{found.n_unmatched:,} of other kinds."
    )
    click.echo(f"Model: {printable(ingredients.model.get('name') or 'none, features alone')}")
    click.echo(f"Extractors: {', '.join(f'{spec.extractor} {spec.version}' for spec in ingredients.specs)}")
    if plan.n_files:
        _print_work(found.only(plan.positions()), ingredients)
    return ExitCode.OK


def _print_work(found: Found, ingredients: Ingredients) -> None:
    """Print how much audio there is to do, and how long it takes, measured on a sample of it."""
    audio_s = estimate_audio_s(found)
    click.echo(f"To do: about {hours_text(sum(audio_s.values()))} of audio")
    for suffix, n_files in found.by_suffix().most_common():
        about = f"about {hours_text(audio_s[suffix])}" if suffix in audio_s else "no header could be read"
        if suffix in MEDIA_SUFFIXES and not pyav_reader():
            about = 'not read without PyAV: pip install "ser-batch[media]"'
        click.echo(f"  {printable(suffix) or 'no suffix':<10} {n_files:>10,}   {about}")
    n_jobs = worker_count(ingredients.config.extract.jobs, len(found))
    refs = sample_refs(found, _SAMPLE_PER_WORKER * n_jobs)
    speed = measure_speed(refs, ingredients.setup(predict=True), n_jobs, make_progress())
    for reason, n_files in speed.failures.items():
        click.echo(f"{n_files:,} of {speed.n_files:,} files of the sample failed: {printable(reason)}")
    if speed.audio_s:
        seconds = speed.start_s + sum(audio_s.values()) / speed.audio_per_s
        click.echo(
            f"About {timedelta(seconds=round(seconds))} with {n_jobs} workers on the CPU, "
            f"at {speed.audio_per_s:.0f} h/h, measured on {speed.n_files} of the files."
        )
