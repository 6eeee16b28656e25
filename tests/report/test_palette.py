"""The colours of emotions can be told apart, also by colour-blind readers, and stand out from the page."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ser_batch.report.palette import COLOURS, css_variables

#: Simulation of total protanopia, deuteranopia and tritanopia in linear RGB (Machado, Oliveira and Fernandes 2009).
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}

SIX = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
BACKGROUND = {"light": "#ffffff", "dark": "#1a1d22"}


def linear(colour: str) -> np.ndarray:
    encoded = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def oklab(colour: np.ndarray) -> np.ndarray:
    """Oklab coordinates (Ottosson 2020); a distance of 0.02 is just noticeable."""
    to_lms = np.array(
        [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    )
    to_lab = np.array(
        [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
    )
    return to_lab @ np.cbrt(to_lms @ np.clip(colour, 0, 1))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
def test_the_six_emotions_are_four_noticeable_differences_apart(theme: int, vision: str) -> None:
    seen = {label: oklab(VISION[vision] @ linear(COLOURS[label][theme])) for label in SIX}
    for one, other in itertools.combinations(SIX, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 0.08, (one, other)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("label", COLOURS)
def test_each_colour_stands_out_from_the_page_by_three_to_one(theme: int, label: str) -> None:
    assert contrast(COLOURS[label][theme], list(BACKGROUND.values())[theme]) >= 3.0


def test_labels_of_other_models_get_colours_of_their_own() -> None:
    labels = ["calm", "anger", "boredom", "contempt", "pain", "relief"]
    colours = [line.split(": ")[1] for line in css_variables(labels, dark=False).split(";") if line.strip()]
    assert len(colours) == 6
    assert len(set(colours)) >= 5
    assert colours[1] == COLOURS["anger"][0]
