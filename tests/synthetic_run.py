"""Makes run folders without a scan: the layout and schema of real ones, values drawn from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ser_batch.records import FeatureSpec
from ser_batch.run.parquet import as_parquet
from ser_batch.run.schema import SCHEMA_VERSION, files_schema, windows_schema

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")

SPECS = (
    FeatureSpec(
        "prosodic",
        1,
        (("f0_median", "hz"), ("f0_median", "st"), ("f0_sd", "st"), ("voiced_fraction", ""), ("intensity_mean", "db")),
    ),
    FeatureSpec(
        "quality", 1, (("active", "s"), ("bandwidth", "hz"), ("snr", "db"), ("clipped_fraction", ""), ("level", "dbfs"))
    ),
    FeatureSpec("voice_quality", 1, (("jitter_local", ""), ("shimmer_local", ""), ("hnr", "db"), ("cpps", "db"))),
)

#: Median and spread of each synthetic feature.
_FEATURES = {
    "prosodic__f0_median_hz": (190.0, 40.0),
    "prosodic__f0_median_st": (33.5, 4.0),
    "prosodic__f0_sd_st": (3.0, 0.8),
    "prosodic__voiced_fraction": (0.55, 0.12),
    "prosodic__intensity_mean_db": (-28.0, 5.0),
    "quality__active_s": (2.2, 0.5),
    "quality__bandwidth_hz": (9_000.0, 1_500.0),
    "quality__snr_db": (28.0, 7.0),
    "quality__clipped_fraction": (0.0, 0.002),
    "quality__level_dbfs": (-24.0, 4.0),
    "voice_quality__jitter_local": (0.012, 0.004),
    "voice_quality__shimmer_local": (0.06, 0.02),
    "voice_quality__hnr_db": (14.0, 3.0),
    "voice_quality__cpps_db": (11.0, 3.0),
}

FAILURES = (
    ("decode", "LibsndfileError", "Format not recognised."),
    ("decode", "EOFError", "The file ends inside its header."),
    ("extract", "WorkerKilled", "worker killed by signal 11 in extract"),
)


@dataclass(frozen=True)
class RunPlan:
    """What a synthetic run holds."""

    labels: tuple[str, ...] = LABELS
    #: Names of the files, sorted; drawn as ``<collection>/<tape>/<n>.flac`` where not given.
    clip_ids: Sequence[str] | None = None
    shard_size: int = 256
    seed: int = 0
    failed_share: float = 0.02
    #: Every how manieth file is a long recording of `long_windows` windows.
    long_every: int = 50
    long_windows: int = 40
    info: dict[str, Any] = field(default_factory=dict)
    row_group_size: int | None = None


def make_run(folder: Path, n_files: int, plan: RunPlan | None = None) -> Path:
    """Write a run of `n_files` rows into `folder` and return the folder."""
    plan = plan or RunPlan()
    clip_ids = sorted(plan.clip_ids) if plan.clip_ids is not None else default_names(n_files)
    generator = np.random.default_rng(plan.seed)
    provenance = {"run_id": f"synthetic-{plan.seed}"}
    schemas = {
        "files": files_schema(plan.labels, SPECS, provenance),
        "windows": windows_schema(plan.labels, SPECS, provenance),
    }
    for table in schemas:
        (folder / table).mkdir(parents=True, exist_ok=True)
    totals = {"found": 0, "ok": 0, "partial": 0, "skipped": 0, "failed": 0}
    audio_s = 0.0
    for part, first in enumerate(range(0, len(clip_ids), plan.shard_size)):
        files, windows = _shard(clip_ids[first : first + plan.shard_size], first, plan, generator)
        for name, columns in (("files", files), ("windows", windows)):
            table = pa.table(columns, schema=schemas[name])
            data = as_parquet(table, **({"row_group_size": plan.row_group_size} if plan.row_group_size else {}))
            (folder / name / f"part-{part:05d}.parquet").write_bytes(data)
        for status in files["status"].to_pylist():
            totals[status] += 1
        totals["found"] += len(files["status"])
        audio_s += float(np.nansum(np.asarray(files["duration_s"].to_pylist(), dtype=float)))
    (folder / "run.json").write_text(json.dumps(_run_json(plan, totals, audio_s)))
    return folder


def default_names(n_files: int) -> list[str]:
    """Names in four collections of some tapes each, sorted."""
    collections = ("interviews", "letters", "radio", "theatre")
    return sorted(f"{collections[i % 4]}/tape-{i // 4 % 25:02d}/clip-{i:07d}.flac" for i in range(n_files))


def _shard(
    clip_ids: Sequence[str], first: int, plan: RunPlan, generator: np.random.Generator
) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    n = len(clip_ids)
    failed = generator.random(n) < plan.failed_share
    kind = generator.integers(0, len(FAILURES), n)
    status = np.where(failed, "failed", "ok").astype(object)
    status[(generator.random(n) < 0.003) & ~failed] = "partial"
    status[(generator.random(n) < 0.003) & ~failed] = "skipped"
    analysed = (status == "ok") | (status == "partial")
    n_windows = np.where((first + np.arange(n)) % plan.long_every == 0, plan.long_windows, 1) * analysed
    duration_s = np.where(analysed, n_windows * 3.0 - generator.uniform(0.2, 1.5, n), np.nan)

    place = np.repeat(np.arange(n), n_windows)
    index = np.arange(len(place)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    sharpness = generator.gamma(2.0, 1.0, (len(place), 1))
    logits = generator.normal(0, 1, (len(place), len(plan.labels))) * sharpness
    window_p = np.exp(logits - logits.max(axis=1, keepdims=True)) if plan.labels else logits
    window_p /= window_p.sum(axis=1, keepdims=True)
    file_p = np.full((n, len(plan.labels)), np.nan)
    if plan.labels:
        sums = np.zeros((n, len(plan.labels)))
        np.add.at(sums, place, window_p)
        file_p[analysed] = sums[analysed] / n_windows[analysed, None]

    features = {
        name: generator.normal(median, spread, n).clip(0 if median >= 0 else None)
        for name, (median, spread) in _FEATURES.items()
    }
    undefined = generator.random(n) < 0.03
    features["prosodic__f0_median_hz"][undefined] = np.nan
    files: dict[str, Any] = {
        "clip_id": pa.array(clip_ids, pa.string()),
        "status": _enum(status),
        "stage": _enum([FAILURES[k][0] if f else "" for k, f in zip(kind, failed, strict=True)]),
        "error_type": _enum([FAILURES[k][1] if f else "" for k, f in zip(kind, failed, strict=True)]),
        "error_message": pa.array(_messages(status, kind), pa.string()),
        "vanished": pa.array(np.zeros(n, bool)),
        "size_bytes": pa.array(generator.integers(10_000, 900_000, n)),
        "modified": pa.array(np.full(n, 1_700_000_000_000_000_000), pa.timestamp("ns", tz="UTC")),
        "duration_s": _floats(duration_s, pa.float64(), ~analysed),
        "source_rate_hz": pa.array(np.where(analysed, 44_100, 0).astype("int32"), mask=~analysed),
        "source_channels": pa.array(np.ones(n, "int16"), mask=~analysed),
        "reader": _enum(["libsndfile 1.2.2"] * n),
        "n_windows": pa.array(n_windows.astype("int32")),
        "n_segments": pa.array(np.zeros(n, "int32")),
        "segments_key": pa.nulls(n, pa.int64()),
    }
    if plan.labels:
        files |= _prediction_columns(file_p, analysed, plan.labels)
    files |= {name: _floats(values, missing=~analysed) for name, values in features.items()}
    files["time_decode_s"] = _floats(generator.gamma(2, 0.002, n))
    files["time_extract_s"] = _floats(generator.gamma(2, 0.006, n))
    files["time_predict_s"] = _floats(generator.gamma(2, 0.001, n))

    windows: dict[str, Any] = {
        "clip_id": pa.array(np.asarray(clip_ids, dtype=object)[place], pa.string()),
        "window_index": pa.array(index.astype("int32")),
        "start_s": pa.array(index * 3.0),
        "end_s": pa.array(index * 3.0 + 3.0),
        "channel": pa.nulls(len(place), pa.int16()),
    }
    windows |= {f"p_{label}": _floats(window_p[:, i]) for i, label in enumerate(plan.labels)}
    windows |= {name: _floats(values[place]) for name, values in features.items()}
    return files, windows


def _prediction_columns(
    file_p: np.ndarray[Any, Any], analysed: np.ndarray[Any, Any], labels: Sequence[str]
) -> dict[str, Any]:
    ranked = np.sort(np.nan_to_num(file_p), axis=1)
    best = np.nan_to_num(file_p).argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(file_p * np.log(file_p), axis=1) / np.log(len(labels))
    return {
        "emotion": _enum([labels[i] if ok else None for i, ok in zip(best, analysed, strict=True)]),
        "confidence": _floats(ranked[:, -1], missing=~analysed),
        "entropy": _floats(entropy, missing=~analysed),
        "margin": _floats(ranked[:, -1] - ranked[:, -2], missing=~analysed),
        "uncertain": pa.array(ranked[:, -1] < 0.4, mask=~analysed),
        **{f"p_{label}": _floats(file_p[:, i], missing=~analysed) for i, label in enumerate(labels)},
    }


def _messages(status: Sequence[str], kind: Sequence[int]) -> list[str]:
    told = {"partial": "Decoding stopped at 1.2 s: the file is cut off.", "skipped": "The file holds no samples."}
    return [FAILURES[k][2] if s == "failed" else told.get(s, "") for s, k in zip(status, kind, strict=True)]


def _enum(values: Sequence[str | None]) -> pa.Array:
    return pa.array(list(values), pa.string()).cast(pa.dictionary(pa.int32(), pa.string()))


def _floats(
    values: np.ndarray[Any, Any], kind: pa.DataType | None = None, missing: np.ndarray[Any, Any] | None = None
) -> pa.Array:
    return pa.array(values.astype("float64"), mask=missing).cast(kind or pa.float32())


def _run_json(plan: RunPlan, totals: dict[str, int], audio_s: float) -> dict[str, Any]:
    info: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"synthetic-{plan.seed}",
        "tool_version": "0.1.0",
        "created": "2026-03-01T21:00:00+00:00",
        "updated": "2026-03-01T23:10:00+00:00",
        "inputs": ["archive"],
        "root": "/nowhere/archive",
        "config": {"audio": {"sample_rate_hz": 22_050, "window_s": 3.0, "window_hop_s": 3.0, "piece_s": 60.0}},
        "fingerprint": "f" * 16,
        "labels": list(plan.labels),
        "model": {"name": "ser6", "sha256": "0" * 64},
        "plugins": [{"name": "ser_batch.prosodic", "version": "0.1.0", "extractors": ["prosodic"]}],
        "device": {"requested": "auto", "chosen": "cpu", "note": ""},
        "host": {"platform": "Linux", "cpu_count": 2, "python": "3.11.7"},
        "counts": {**totals, "vanished": 0, "hidden_skipped": 0, "unmatched": 0},
        "audio_s": audio_s,
        "wall_s": 120.0,
        "stage_s": {"decode": 30.0, "extract": 80.0, "predict": 10.0, "store": 4.0},
        "state": "complete",
    }
    return info | plan.info
