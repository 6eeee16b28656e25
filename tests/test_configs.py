"""The shipped configurations of a scan are valid, and the default one says what the code does."""

from __future__ import annotations

import tomllib

from ser_batch.config import Config, load_config
from ser_batch.resources import config_path


def test_the_default_configuration_spells_out_every_default():
    path = config_path("default")
    assert load_config(path) == Config()
    assert tomllib.loads(path.read_text(encoding="utf-8")) == Config().as_dict()


def test_long_recordings_get_overlapping_windows():
    audio = load_config(config_path("long-recordings")).audio
    assert audio.window_hop_s < audio.window_s
