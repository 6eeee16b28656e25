"""A reader that notes which files it is asked for, and crashes, hangs or computes where their names say so."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np

import ser_batch
from ser_batch.records import Clip


@ser_batch.hookimpl
def read_clip(ref, sample_rate_hz):
    name = Path(ref.path).name
    with Path(os.environ["SER_TEST_READS"]).open("a") as log:
        log.write(f"{os.getpid()} {name}\n")
    if "crash" in name:
        ctypes.string_at(0)
    if "compute" in name:
        end_s = time.monotonic() + 60
        while time.monotonic() < end_s:
            pass
    if "louder" in name:
        return [Clip(np.full(sample_rate_hz, 0.5, np.float32), sample_rate_hz, sample_rate_hz, 1)]
    return None
