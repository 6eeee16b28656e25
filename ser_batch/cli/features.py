"""``ser-batch features``: extract features alone, without a model."""

from __future__ import annotations

from typing import Any

import click

from ser_batch.cli.options import analysis_options, input_options, run_options
from ser_batch.cli.scan import run_scan

__all__ = ["command"]


@click.command("features")
@input_options
@run_options
@analysis_options
def command(**options: Any) -> int:
    """Extract the features of every audio file below the INPUTs, without a model.

    The run is the same as that of `ser-batch scan`, without columns of a prediction: one row per file in RUN/files, one
    per window in RUN/windows.
    """
    return run_scan(options, model="")
