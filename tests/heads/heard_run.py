"""Makes a run as a scan leaves it, out of embeddings that are drawn: no audio, of the network only the head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from random_model import random_checkpoint

from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.checkpoint import load, save
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.run.rows import RowMaker
from ser_batch.run.store import RunStore

LABELS = ("anger", "fear", "sadness")
N_INPUTS = 12


class HeadOnly(CheckpointClassifier):
    """Labels what was heard, and cannot hear."""

    def embed(self, mel, features):
        raise NotImplementedError


@dataclass(frozen=True)
class Voice:
    """One file: who speaks, what is heard, and the embeddings of its windows (n_windows, N_INPUTS)."""

    clip_id: str
    speaker: str
    emotion: str
    heard: NDArray[np.float64]


def make_run(folder: Path, voices: list[Voice], labels: tuple[str, ...] = LABELS) -> Path:
    """Write a run of these voices, and beside it ``parent.safetensors``, which labelled them."""
    folder.mkdir()
    model = folder.parent / "parent.safetensors"
    if not model.exists():
        config = NetworkConfig(fusion_units=N_INPUTS, n_labels=len(labels))
        save(model, random_checkpoint(3, config=config, labels=labels, name="parent"))
    checkpoint = load(model)
    classifier = HeadOnly(checkpoint, "cpu")
    provenance = {"run_id": "r1", "fingerprint": "f", "tool_version": "0"}
    rows = RowMaker(labels, (), provenance, n_embedding=N_INPUTS)
    store = RunStore(folder)
    store.create(("embeddings", "windows", "files"))
    ordered = sorted(voices, key=lambda voice: voice.clip_id)
    for part, first in enumerate(range(0, len(ordered), 50)):
        outcomes = []
        for voice in ordered[first : first + 50]:
            n_windows = len(voice.heard)
            weights = np.ones(n_windows, np.float32)
            prediction = classifier.pool(classifier.label(voice.heard), weights)
            starts_s = 3.0 * np.arange(n_windows)
            outcomes.append(
                ClipOutcome(
                    ClipRef(voice.clip_id, "", 1, 1),
                    Status.OK,
                    duration_s=3.0 * n_windows,
                    windows_s=np.column_stack([starts_s, starts_s + 3.0]),
                    prediction=prediction,
                    embeddings=voice.heard.astype(np.float16),
                    weights=weights,
                )
            )
        store.commit(store.stage(part, rows.tables(outcomes), len(outcomes)))
    info = {
        "schema_version": 1,
        "run_id": "r1",
        "fingerprint": "f",
        "state": "complete",
        "root": "/archive",
        "config": {"predict": {"model": str(model)}},
        "settings": {},
        "labels": list(labels),
        "tables": ["embeddings", "windows", "files"],
        "embeddings": {"n_numbers": N_INPUTS, "note": ""},
        "model": {"name": "parent", "listening_sha256": checkpoint.listening_sha256},
        "counts": {"found": len(voices)},
    }
    (folder / "run.json").write_text(json.dumps(info))
    return folder
