"""What a model that learnt from answers would have said of them, had it not: so that an audit is not flattered.

`ser-batch adapt` finds it out on the way, since it scores itself by cross-validation, and keeps it beside the answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.atomic import make_folder, read_file, write_atomic
from ser_batch.errors import DataError
from ser_batch.kinds import read_json
from ser_batch.reviews.answers import Stretch, reviews_folder
from ser_batch.run.folder import writing

__all__ = ["read_unlearnt", "store_unlearnt"]

Floats = NDArray[np.float64]


def _path(run_dir: Path, model_sha256: str) -> Path:
    return reviews_folder(run_dir) / f"unlearnt-{model_sha256[:16]}.json"


def store_unlearnt(
    run_dir: Path, model_sha256: str, labels: Sequence[str], stretches: Sequence[Stretch], probabilities: Floats
) -> None:
    """Keep probabilities (n_stretches, n_labels) beside the answers of a run.

    Raises
    ------
    RunError
        They cannot be written.
    """
    path = _path(run_dir, model_sha256)
    rows = [[*stretch, np.round(row, 6).tolist()] for stretch, row in zip(stretches, probabilities, strict=True)]
    with writing(f"reviews/{path.name}"):
        make_folder(path.parent)
        write_atomic(path, json.dumps({"model_sha256": model_sha256, "labels": list(labels), "stretches": rows}))


def read_unlearnt(run_dir: Path, model_sha256: str, labels: Sequence[str]) -> dict[Stretch, Floats]:
    """Return the probabilities (n_labels,) of the answers that a model learnt from; empty where it learnt from none.

    Among `labels` alone, where a run answers among some of those of the model.

    Raises
    ------
    DataError
        They are there, and cannot be read.
    """
    path = _path(run_dir, model_sha256)
    try:
        told = read_json(read_file(path))
        if told["model_sha256"] != model_sha256:
            return {}
        places = [told["labels"].index(label) for label in labels]
        found: dict[Stretch, Floats] = {}
        for clip_id, start_ms, end_ms, *channel, row in told["stretches"]:
            chosen = np.array([float(row[place]) for place in places])
            stretch = Stretch(str(clip_id), int(start_ms), int(end_ms), *map(int, channel))
            found[stretch] = chosen / max(chosen.sum(), 1e-12)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), so nobody knows what the model says of answers that it learnt from. "
            f"`ser-batch adapt` with the same answers writes it again; an audit without it would flatter the model."
        ) from None
    return found
