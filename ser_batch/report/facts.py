"""What a run was made of, and what its report leaves out: the small print."""

from __future__ import annotations

import json
from typing import Any

from ser_batch.doubts import scores_of_run
from ser_batch.report import charts
from ser_batch.report.filetable import FileTable
from ser_batch.report.formats import count, percent
from ser_batch.report.moments import MOST_STEPS
from ser_batch.report.survey import Survey
from ser_batch.run.read import Run

__all__ = ["left_out", "run_facts", "score_text"]


#: Longer values of run.json are for programs.
_LONGEST_VALUE = 300


def run_facts(run: Run, survey: Survey) -> list[dict[str, Any]]:
    """Return groups of (name, value) facts out of run.json."""
    info = run.info
    device = info.get("device") or {}
    facts = {
        "Run": [
            ("run", info.get("run_id")),
            ("ser-batch", info.get("tool_version")),
            ("begun, last updated", ", ".join(str(info[key]) for key in ("created", "updated") if key in info)),
            ("inputs", ", ".join(map(str, info.get("inputs") or []))),
            ("folder of the recordings", info.get("root")),
            ("state", info.get("state")),
            ("counts", _listed(info.get("counts"))),
            ("fingerprint of what changes results", info.get("fingerprint")),
        ],
        "Model": _model_facts(info, info.get("labels") or survey.labels),
        "Settings": [(section, _listed(values)) for section, values in (info.get("config") or {}).items()],
        "Machine": [
            ("device", " ".join(str(device[key]) for key in ("chosen", "note") if device.get(key))),
            ("host", _listed(info.get("host"))),
        ],
        "Plugins": [
            (plugin.get("name"), _listed({key: value for key, value in plugin.items() if key != "name"}))
            for plugin in info.get("plugins") or []
        ],
    }
    groups = []
    for title, pairs in facts.items():
        told = [(str(name), str(value)) for name, value in pairs if name and value not in (None, "")]
        if told:
            groups.append({"title": title, "facts": told})
    return groups


def _model_facts(info: dict[str, Any], labels: Any) -> list[tuple[str, Any]]:
    """Sum up the card that the model file carries; a model of other origin may carry none."""
    model = info.get("model") or {}
    if not model:
        return []
    training = model.get("training") or {}
    corpora = [
        f"{item.get('title') or item.get('name')} ({item.get('licence')})" for item in training.get("corpora") or []
    ]
    licences = [str(licence) for licence in training.get("licences") or []]
    learnt = f"{', '.join(corpora)}; {training.get('n_clips', '?')} clips of {training.get('n_speakers', '?')} speakers"
    return [
        ("name", model.get("name")),
        ("labels", ", ".join(labels)),
        ("learnt from", learnt if corpora else ""),
        ("licence of the weights", _licence_note(licences)),
        ("scores", score_text(scores_of_run(info))),
        ("limits", _LIMITS if corpora else ""),
        ("pooling of windows", _listed(model.get("pooling"))),
        ("temperature of calibration", model.get("temperature")),
        ("features used", _listed(model.get("features"))),
        ("needs", _listed(model.get("needs"))),
        ("made", model.get("created")),
        ("sha256", model.get("sha256")),
    ]


_LIMITS = (
    "Learnt from acted or posed emotion. Spontaneous speech, other languages, children, telephones and music behind "
    "speech were not measured. It always answers with one of its labels."
)


def _licence_note(licences: list[str]) -> str:
    if any("NC" in licence for licence in licences):
        return f"that of the corpora: {', '.join(licences)}; NC means that the model may not be used commercially"
    return f"that of the corpora: {', '.join(licences)}" if licences else ""


def score_text(scores: dict[str, Any]) -> str:
    """Say how well the model did by its own card; an empty string where it does not tell."""
    uar, interval = scores.get("uar"), list(scores.get("uar_interval") or [])
    if not isinstance(uar, int | float):
        return ""
    text = f"the mean recall of its emotions was {percent(uar)}"
    # One speaker alone gives no interval.
    if len(interval) == 2 and None not in interval:
        text += f" (95 % interval by speaker {percent(interval[0])} to {percent(interval[1])})"
    sides = {
        "test": "speakers kept apart",
        "validation": "speakers kept apart from learning, though not from choosing the model",
        "cross_validation": "speakers that networks trained in the same way had not heard",
    }
    text += f", chance being {percent(scores['chance'])}," if "chance" in scores else ""
    text += f" on {sides.get(str(scores.get('side')), 'its own check')}"
    parts = [f"{name} {percent(value)}" for name, value in (scores.get("corpora") or {}).items()]
    return f"{text}; by corpus: {', '.join(parts)}" if parts else text


def _listed(value: Any) -> str:
    """Return nested values of run.json in one readable line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_listed(item) or 'none'}" for key, item in value.items())
    if isinstance(value, list):
        # Pairs, such as an extractor and its version.
        return ", ".join(" ".join(map(str, item)) if isinstance(item, list) else _listed(item) for item in value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}…"
    return json.dumps(value)


def left_out(survey: Survey, table: FileTable) -> list[str]:
    """Return one line for each limit that this report has, whether it was reached or not."""
    most = charts.MOST_CHARTED_GROUPS
    lines = [
        f"The table of files shows {count(table.n_shown)} of {count(table.n_files)} files."
        + ("" if table.n_shown >= table.n_files else " The rest is in the Parquet tables."),
        f"Charts by group show at most {most} groups, their tables at most 100.",
        f"A timeline is drawn in at most {MOST_STEPS} steps; beyond that, neighbouring windows are averaged.",
        "Charts are pictures: the numbers behind each are in the table under it.",
    ]
    if survey.n_vanished:
        lines.append(
            f"{count(survey.n_vanished)} files of an earlier scan are gone from the disk: their rows stay in the "
            "Parquet tables, marked vanished, and are left out of every figure here."
        )
    return lines
