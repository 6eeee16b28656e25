"""``ser-batch bench``: measure the speed of this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import analysis_options, config_of, model_option, recipe_of
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.stages.measure import Speed

__all__ = ["command"]

#: Recordings made where no folder is given: as many, this long.
_N_MADE = 120
_MADE_S = 3.7


@click.command("bench")
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path())
@click.option(
    "--files",
    "n_files",
    type=click.IntRange(min=1),
    metavar="N",
    default=240,
    show_default=True,
    help="Files to process, out of DIR.",
)
@model_option(default=None)
@click.option("--no-model", is_flag=True, help="Measure the features alone.")
@analysis_options
def command(folder: str | None, n_files: int, no_model: bool, **options: Any) -> int:
    """Measure how fast this machine is, on files of DIR, or on made-up recordings of 3.7 s.

    Prints files per second, audio hours per hour and the time of each stage, all on the CPU. Nothing is kept.
    """
    from ser_batch.cli.progress import make_progress  # noqa: PLC0415
    from ser_batch.engine import find_audio  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.stages.ingredients import gather  # noqa: PLC0415
    from ser_batch.stages.measure import measure_speed, sample_refs  # noqa: PLC0415
    from ser_batch.stages.processes import worker_count  # noqa: PLC0415

    config = config_of(options, **({"model": ""} if no_model else {}))
    recipe = recipe_of(options)
    ingredients = gather(recipe.build(), recipe, config)
    with tempfile.TemporaryDirectory(prefix="ser-batch-") as made:
        if folder is None:
            _make_recordings(Path(made))
        found = find_audio([folder or made], config)
        refs = sample_refs(found, n_files)
        n_jobs = worker_count(config.extract.jobs, len(refs))
        speed = measure_speed(refs, ingredients.setup(predict=True), n_jobs, make_progress())
    _print(speed, n_jobs, ingredients.model.get("name"))
    return ExitCode.OK


def _print(speed: Speed, n_jobs: int, model: str | None) -> None:
    click.echo(f"{n_jobs} workers, {f'model {model}' if model else 'features alone'}, {speed.n_files:,} files")
    click.echo(f"  {speed.files_per_s:10.1f}  files per second")
    click.echo(f"  {speed.audio_per_s:10.1f}  hours of audio per hour")
    click.echo(f"  {speed.start_s:10.1f}  s to start")
    click.echo("\nTime of one core per file, in ms:")
    for stage, seconds in speed.stage_s.items():
        click.echo(f"  {stage:<10} {1e3 * seconds / speed.n_files:8.2f}")
    rest_s = n_jobs * speed.wall_s - sum(speed.stage_s.values())
    click.echo(f"  {'between':<10} {1e3 * rest_s / speed.n_files:8.2f}")
    click.echo(f"\nA night of 8 hours does about {8 * 3600 * speed.files_per_s:,.0f} such files.")
    for reason, n_files in speed.failures.items():
        click.echo(f"{n_files:,} files failed: {printable(reason)}")


def _make_recordings(folder: Path) -> None:
    """Write voices of many pitches, which keep every stage busy."""
    import numpy as np  # noqa: PLC0415 - for a call, not for --help
    import soundfile  # noqa: PLC0415

    from ser_batch.dsp.voice import synthetic_voice  # noqa: PLC0415

    rate_hz = 24_000
    for index, f0_hz in enumerate(np.geomspace(90, 260, _N_MADE)):
        samples = synthetic_voice(_MADE_S, rate_hz, f0_hz, seed=index)
        soundfile.write(folder / f"made{index:03d}.flac", samples, rate_hz)
