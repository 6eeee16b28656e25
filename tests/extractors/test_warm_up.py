"""Kernels are compiled before a worker's first file, and workers load little."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from ser_batch.config import Config
from ser_batch.extractors import mel, prosodic, quality, voice_quality
from ser_batch.plugins import PluginRecipe
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.worker import Workshop
assert "numba" not in sys.modules, "importing loads numba"
config = Config()
import numpy as np
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.records import Clip
from ser_batch.windows import plan_windows

def compiled():
    from numba.core.registry import CPUDispatcher
    kernels = (item for item in gc.get_objects() if isinstance(item, CPUDispatcher))
    return {
        (kernel.py_func.__module__, kernel.py_func.__name__, str(signature))
        for kernel in kernels
        if kernel.py_func.__module__.startswith("ser_batch")
        for signature in kernel.signatures
    }

from ser_batch.extractors.units import units

clip = Clip(synthetic_voice(3.5), 22_050, 22_050, 1)
for unit in units(clip, plan_windows(clip.duration_s), config.extract.extractors).values():
    unit()
in_units = compiled()
Workshop(Setup(PluginRecipe(entry_points=()), config, config.extract.extractors, model="", predict=True))
before = compiled()
assert in_units == before, f"no unit compiles {before - in_units}, or no clip needs {in_units - before}"

samples = (0.3 * np.sin(np.arange(80_000) * 0.05) ** 5).astype(np.float32)
for kind in (samples, samples[:100], samples * 0):
    clip = Clip(kind.copy(), 22_050, 22_050, 1)
    for module in (mel, prosodic, quality, voice_quality):
        for extractor in module.register_extractors(config):
            extractor.extract(clip, plan_windows(clip.duration_s))
missed = compiled() - before
assert not missed, f"warming up does not compile {missed}"
heavy = {"scipy.fft", "scipy.signal", "librosa", "torch", "pandas"} & sys.modules.keys()
assert not heavy, f"extraction loads {heavy}"
"""


def test_after_warming_up_no_clip_compiles_anything_and_nothing_heavy_is_loaded():
    outcome = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr
