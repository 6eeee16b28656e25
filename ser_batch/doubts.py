"""What makes the labels of a model worth nothing, by its card and by its answers: said wherever they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["doubts_of_run", "doubts_of_scores", "scores_of_run"]

#: Fewer files may well be all alike.
_N_FILES_ALIKE = 20


def doubts_of_scores(block: Mapping[str, Any], name: str = "The model") -> list[str]:
    """Return what scores on labelled clips say against a model.

    Parameters
    ----------
    block : mapping
        ``uar``, ``uar_interval`` (95 %, None where it is not known), ``chance``, and ``confusion``, (true, predicted),
        where it is known.
    name : str
        What the model is called in the sentence.
    """
    uar, chance = block.get("uar"), block.get("chance")
    if not isinstance(uar, int | float) or not isinstance(chance, int | float):
        return []
    low, _ = block.get("uar_interval") or (None, None)
    confusion = block.get("confusion") or []
    n_answers = sum(any(row[column] for row in confusion) for column in range(len(confusion)))
    if n_answers == 1 and sum(map(sum, confusion)) > 1:
        return [f"{name} gives every clip the same label: it has learnt nothing that tells them apart."]
    if (uar if low is None else low) <= chance:
        return [f"{name} may be no better than chance: UAR {uar:.3f}, chance {chance:.3f}, on speakers it never heard."]
    return []


def scores_of_run(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores on the card of the model of a run, by its ``run.json``, with ``chance`` where that is known."""
    scores = dict((info.get("model") or {}).get("scores") or {})
    some = ((info.get("config") or {}).get("predict") or {}).get("labels")
    # Cards of earlier versions do not state it; it is that of all labels of the model.
    if scores and info.get("labels") and not some:
        scores.setdefault("chance", 1 / len(info["labels"]))
    return scores


def doubts_of_run(info: Mapping[str, Any], emotions: Mapping[str, int]) -> list[str]:
    """Return what speaks against the labels of a run.

    Parameters
    ----------
    info : mapping
        What ``run.json`` says: ``model`` with its ``scores``, and ``labels``.
    emotions : mapping
        Emotion -> files.
    """
    labels = info.get("labels") or ()
    model = info.get("model") or {}
    if len(labels) < 2:
        return []
    name = f"model {model.get('name', '')!r}"
    doubts = doubts_of_scores(scores_of_run(info), f"The {name}")
    given = [emotion for emotion, n_files in emotions.items() if n_files]
    n_labelled = sum(emotions.values())
    if len(given) == 1 and n_labelled >= _N_FILES_ALIKE:
        doubts.append(f"All {n_labelled:,} files are labelled {given[0]}: the {name} tells nothing apart here.")
    return doubts
