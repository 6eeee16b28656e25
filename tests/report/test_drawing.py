"""Charts are drawn whatever stands in names and labels; where they cannot be, that is said in their place."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic_run import RunPlan, make_run
from test_build import Page

from ser_batch.report.build import build_report
from ser_batch.report.charts import Chart, stages_chart
from ser_batch.report.drawing import Drawing


@pytest.fixture(scope="module")
def drawing() -> Iterator[Drawing]:
    with Drawing() as drawing:
        yield drawing


def pictures(markup: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg role=.*?</svg>", markup, re.DOTALL)]


#: What ended the engine, or kept it busy for an hour.
HARMFUL = ["\x1b[31m", "\ufffe", "\x00", "\ud800", "\udce9", "x" * 2**20, "<&>\"'", "\N{GRINNING FACE}\n\t"]


@pytest.mark.parametrize("name", HARMFUL, ids=lambda name: ascii(name)[:12])
def test_a_name_of_any_kind_is_drawn(drawing: Drawing, name: str) -> None:
    wide, narrow = pictures(drawing.markup(stages_chart({name: 2.0, "decode": 1.0})))
    for picture in (wide, narrow):
        texts = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert "decode" in texts
        assert any(text[:1] == ascii(name)[1] or text[:1] == name[0] for text in texts)


def test_long_names_that_begin_alike_stay_two(drawing: Drawing) -> None:
    wide, _ = pictures(drawing.markup(stages_chart({"x" * 500 + "a": 1.0, "x" * 500 + "b": 1.0})))
    bars = [element for element in wide.iter() if element.get("aria-roledescription") == "bar"]
    assert len({bar.get("aria-label") for bar in bars}) == 2


def test_a_run_whose_folders_have_harmful_names_has_a_whole_report(tmp_path: Path) -> None:
    names = [f"{folder}/{i}.wav" for folder in ("\x1b[31mred", "\ufffe", "a\x00b", "fine") for i in range(3)]
    html = build_report(make_run(tmp_path / "run", 0, RunPlan(clip_ids=names, failed_share=0.0))).read_text()
    assert "There is no picture here" not in html
    assert len(pictures(html)) >= 8


def test_an_engine_that_ends_costs_the_pictures_and_says_so() -> None:
    with Drawing() as drawing:
        assert drawing._engine is not None
        drawing._engine.kill()
        assert "There is no picture here: the chart engine ended with -9." in drawing.markup(stages_chart({"a": 1.0}))
        assert "There is no picture here" in drawing.markup(stages_chart({"a": 1.0}))


def test_an_engine_that_takes_too_long_is_ended() -> None:
    points = [{"a": i, "b": i % 7} for i in range(200_000)]
    spec = {"data": {"values": points}, "mark": "point", "encoding": {"x": {"field": "a"}, "y": {"field": "b"}}}
    with Drawing(limit_s=0.5) as drawing:
        assert "the chart engine took too long" in drawing.markup(Chart("endless", spec, spec))


def test_what_the_engine_refuses_costs_that_picture_alone(drawing: Drawing) -> None:
    assert "the chart engine refused it" in drawing.markup(Chart("no chart", {"mark": 7}, {"mark": 7}))
    assert len(pictures(drawing.markup(stages_chart({"a": 1.0})))) == 2


def test_where_addresses_are_limited_the_report_has_no_pictures_and_all_else(tmp_path: Path) -> None:
    """As on many clusters: ``ulimit -v``."""
    run = make_run(tmp_path / "run", 50)
    code = f"from ser_batch.report.build import build_report; build_report({str(run)!r})"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, preexec_fn=limited)
    html = (run / "report.html").read_text()
    assert pictures(html) == []
    page = Page(html)
    assert "There is no picture here: the chart engine ended with" in page.text
    assert page.texts.count("The numbers") >= 4
    assert len(page.data["rows"]) == 50
