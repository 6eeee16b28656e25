"""A real browser plays a segment from its row and from the line of its speaker, to its end."""

from __future__ import annotations

from typing import Any

import pytest
import soundfile
from test_browser import Visit, axe

import ser_batch
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice

pytestmark = pytest.mark.browser

TURNS = ("SPEAKER one 1 0.5 1.0 <NA> <NA> anna <NA> <NA>\n", "SPEAKER one 1 3.0 0.7 <NA> <NA> <b>ben</b> <NA> <NA>\n")


@pytest.fixture(scope="module")
def visit(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("segments")
    (folder / "calls").mkdir()
    soundfile.write(folder / "calls/one.wav", synthetic_voice(6.0), 22_050)
    (folder / "calls/one.rttm").write_text("".join(TURNS))
    config = Config().with_values({"extract": {"jobs": 1}, "predict": {"device": "cpu"}})
    ser_batch.scan(folder / "calls", folder / "run", config=config)
    return Visit(chromium, folder / "run/report.html", viewport={"width": 1280, "height": 900})


def played(visit: Visit, button: Any) -> tuple[float, float]:
    """Click, and return from where to where it was played."""
    at = "document.getElementById('player-audio')"
    button.click()
    visit.wait_until(f"!{at}.paused && {at}.currentTime >= {button.get_attribute('data-at')}")
    start_s = visit.page.evaluate(f"{at}.currentTime")
    visit.wait_until(f"{at}.paused")
    return start_s, visit.page.evaluate(f"{at}.currentTime")


def test_a_segment_is_played_from_its_row_and_from_the_line_of_its_speaker(visit: Visit) -> None:
    section = visit.page.locator("#spoken")
    assert section.locator(".lane .who").all_inner_texts() == ["<b>ben</b>", "anna"]
    assert section.locator("tbody tr").count() == len(TURNS)
    for button in (section.locator("tbody .play").nth(1), section.locator(".lane .stretch").first):
        button.scroll_into_view_if_needed()
        start_s, end_s = played(visit, button)
        assert start_s == pytest.approx(3.0, abs=0.5)
        assert end_s == pytest.approx(3.7, abs=0.5)
    assert visit.page.inner_text("#player-name").startswith("one.wav, from 0:03")
    assert visit.complaints == []


def test_the_section_has_no_fault_of_access(visit: Visit) -> None:
    visit.page.keyboard.press("Escape")
    found = axe.Axe().run(visit.page, context="#spoken").response["violations"]
    assert [(item["id"], item["nodes"][0]["html"][:200]) for item in found] == []
