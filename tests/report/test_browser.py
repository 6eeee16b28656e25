"""The report in a real browser: nothing loaded from elsewhere, no error, and everything that can be clicked works."""

from __future__ import annotations

import re
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import LABELS, RunPlan, default_names, make_run
from test_build import HOSTILE, plugin

from ser_batch import load_results
from ser_batch.plugins import PluginRecipe
from ser_batch.report.build import build_report

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the browser tests need axe-playwright-python"
)

pytestmark = pytest.mark.browser

N_FILES = 10_000
N_SHORT = 60


class Visit:
    """A page opened from a file, with all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_context(accept_downloads=True, **options).new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type != "log" else None)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-table=ready]")

    def rows(self) -> list[list[str]]:
        rows: list[list[str]] = self.page.evaluate(
            "[...document.querySelectorAll('#files-table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        )
        return rows

    def wait_until(self, expression: str, arg: Any = None) -> None:
        """Wait for a JavaScript expression to hold; Playwright's own waiting evaluates text, which the page forbids."""
        end_s = time.monotonic() + 60
        while not self.page.evaluate(expression, arg):
            assert time.monotonic() < end_s, f"never true: {expression}"
            self.page.wait_for_timeout(20)

    def wait_for_order(self, heading: str, direction: str) -> None:
        """Wait until the table is sorted as asked: it sorts after the click, not within it."""
        self.wait_until(
            "([heading, direction]) => [...document.querySelectorAll('#files-table thead th')]"
            ".some(th => th.innerText.trim() === heading && (th.getAttribute('aria-sort') || '') === direction)",
            arg=[heading, direction],
        )

    def shown(self) -> str:
        return self.page.inner_text(".dt-info")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of 10,000 files; the first ones exist as sound, the first and longest as two minutes."""
    folder = tmp_path_factory.mktemp("browser")
    root = folder / "the archive"
    names = default_names(N_FILES)
    run = make_run(folder / "run", N_FILES, RunPlan(info={"root": str(root)}))
    for name, seconds in ((names[0], 120), (names[1], 2)):
        tone(root / name, seconds)
    return run


def tone(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 8_000 * np.sin(2 * np.pi * 220 * np.arange(int(8_000 * seconds)) / 8_000)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="module")
def report(run: Path) -> Path:
    return build_report(run)


@pytest.fixture(scope="module")
def short_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same page over as many files as a table shows, and some more."""
    return build_report(make_run(tmp_path_factory.mktemp("short") / "run", N_SHORT))


@pytest.fixture(scope="module")
def visit(chromium: Any, report: Path) -> Visit:
    return Visit(chromium, report, viewport={"width": 1280, "height": 900})


def test_ten_thousand_files_open_without_error_and_without_any_request(visit: Visit, report: Path) -> None:
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith("blob:")] == [report.as_uri()]
    assert visit.shown() == "1 to 25 of 10,000"
    assert report.stat().st_size < 5_000_000


def test_a_heading_sorts(visit: Visit, run: Path) -> None:
    confidence = load_results(run).confidence.dropna().astype(float)
    place = [cell.inner_text().strip() for cell in visit.page.query_selector_all("#files-table thead th")].index(
        "Confidence"
    )
    heading = visit.page.locator("#files-table thead th").nth(place)
    for direction in ("ascending", "descending"):
        heading.click()
        visit.wait_for_order("Confidence", direction)
    assert visit.rows()[0][place] == f"{100 * confidence.max():.1f}\u00a0%"
    shown = [float(row[place].rstrip("\u00a0%")) for row in visit.rows()]
    assert shown == sorted(shown, reverse=True)
    heading.click()
    visit.wait_for_order("Confidence", "")


def test_search_and_filters_show_what_pandas_would_select(visit: Visit, run: Path) -> None:
    files = load_results(run)
    page = visit.page
    page.fill("#filter-text", "theatre/tape-07")
    n_found = files.clip_id.str.contains("theatre/tape-07").sum()
    assert f"of {n_found:,} " in visit.shown()
    page.select_option("#filter-emotion", label="fear")
    n_found = (files.clip_id.str.contains("theatre/tape-07") & (files.emotion == "fear")).sum()
    assert f"of {n_found:,} " in visit.shown()
    page.fill("#filter-text", "")
    page.select_option("#filter-confidence", "0.9")
    # The page holds confidence rounded to three digits.
    n_found = ((files.emotion == "fear") & (files.confidence.astype(float).round(3) >= 0.9)).sum()
    assert f"of {n_found:,} " in visit.shown()
    page.click("#filter-clear")
    page.select_option("#filter-status", "failed")
    assert f"of {(files.status == 'failed').sum():,} " in visit.shown()
    page.click("#filter-clear")
    page.select_option("#filter-flag", label="noisy")
    assert f"of {(files.quality__snr_db < 10).sum():,} " in visit.shown()
    page.fill("#filter-text", "no file is called this")
    assert "No file fits these filters." in page.inner_text("#files-table")
    page.click("#filter-clear")
    assert visit.shown() == "1 to 25 of 10,000"


def test_the_rows_shown_can_be_saved(visit: Visit, run: Path, tmp_path: Path) -> None:
    visit.page.select_option("#filter-status", "skipped")
    with visit.page.expect_download() as download:
        visit.page.click("#download")
    download.value.save_as(tmp_path / "files.csv")
    visit.page.click("#filter-clear")
    files = load_results(run, where=[("status", "==", "skipped")])
    lines = (tmp_path / "files.csv").read_text().splitlines()
    assert lines[0].startswith("clip_id,status,emotion,")
    assert [line.split(",")[0] for line in lines[1:]] == files.clip_id.tolist()


def test_a_click_plays_a_file_and_jumps_to_its_strongest_moment(visit: Visit, run: Path) -> None:
    page = visit.page
    name = default_names(N_FILES)[0]
    windows = load_results(run, "windows", where=[("clip_id", "==", name)])
    emotion = load_results(run, where=[("clip_id", "==", name)]).emotion[0]
    moment_s = windows.start_s[windows[f"p_{emotion}"].argmax()]
    page.fill("#filter-text", name)
    button = page.locator("#files-table .play").first
    assert button.get_attribute("aria-label").startswith(f"Play {name} from ")
    button.click()
    visit.wait_until(
        "wanted => document.getElementById('player-audio').currentTime >= wanted && "
        "!document.getElementById('player-audio').paused",
        arg=moment_s,
    )
    assert page.evaluate("document.getElementById('player-audio').currentTime") < moment_s + 10
    assert page.inner_text("#player-name").startswith(name)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.evaluate("document.getElementById('player-audio').paused")
    page.click("#filter-clear")
    assert visit.complaints == []


def test_a_click_into_a_timeline_plays_from_there(visit: Visit) -> None:
    page = visit.page
    figure = page.locator(".timeline").first
    figure.scroll_into_view_if_needed()
    plot = figure.locator("svg.chart-wide .background").first.bounding_box()
    page.mouse.click(plot["x"] + plot["width"] / 2, plot["y"] + plot["height"] / 2)
    duration_s = float(figure.get_attribute("data-end"))
    visit.wait_until("document.getElementById('player-audio').currentTime > 40")
    found = page.evaluate("document.getElementById('player-audio').currentTime")
    assert found == pytest.approx(duration_s / 2, abs=8)
    page.click("#player-close")
    assert not page.is_visible("#player")


def test_a_file_that_is_not_there_is_said_in_words(visit: Visit) -> None:
    page = visit.page
    n_before = len(visit.complaints)
    page.fill("#filter-text", default_names(N_FILES)[500])
    page.locator("#files-table .play").first.click()
    visit.wait_until("document.getElementById('player-message').textContent.startsWith('It cannot be played')")
    page.click("#player-close")
    page.click("#filter-clear")
    # The browser itself notes the missing file; the page adds nothing to it.
    assert all("ERR_FILE_NOT_FOUND" in text for text in visit.complaints[n_before:])
    del visit.complaints[n_before:]


def test_the_keyboard_reaches_everything(chromium: Any, short_report: Path) -> None:
    visit = Visit(chromium, short_report)
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator(".numbers summary").first.focus()
    page.keyboard.press("Enter")
    assert page.is_visible(".numbers table")
    page.locator("#filter-clear").focus()
    # The button beside it, in some browsers the scrolled box of the table, then the headings that sort.
    while not page.evaluate("document.activeElement.closest('th')"):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('th').innerText.trim()") == "File"
    for direction in ("ascending", "descending"):
        page.keyboard.press("Enter")
        visit.wait_for_order("File", direction)
    assert visit.rows()[0][1] == max(default_names(N_SHORT))
    page.context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)], ids=["desktop, light", "phone, dark"])
def test_axe_finds_no_barrier(chromium: Any, report: Path, short_report: Path, scheme: str, width: int) -> None:
    # The short one says, besides, that no recording can be played.
    path = short_report if width < 1000 else report
    visit = Visit(chromium, path, viewport={"width": width, "height": 844}, color_scheme=scheme)
    visit.page.evaluate("for (const item of document.querySelectorAll('details')) item.open = true")
    found = axe.Axe().run(visit.page)
    told = [f"{rule['id']}: {rule['nodes'][0]['html'][:160]}" for rule in found.response["violations"]]
    assert told == []
    visit.page.context.close()


def test_nothing_is_wider_than_a_phone(chromium: Any, short_report: Path) -> None:
    visit = Visit(chromium, short_report, viewport={"width": 390, "height": 844})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visit.page.is_visible(".chart-narrow")
    assert not visit.page.is_visible(".chart-wide")
    visit.page.context.close()


def test_light_and_dark_follow_the_system_and_the_switch(chromium: Any, short_report: Path) -> None:
    visit = Visit(chromium, short_report, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(background)
    visit.page.click("#theme")
    light = visit.page.evaluate(background)
    bar = visit.page.evaluate("getComputedStyle(document.querySelector('[aria-roledescription=bar]')).fill")
    visit.page.click("#theme")
    assert visit.page.evaluate(background) == dark
    assert visit.page.evaluate("getComputedStyle(document.querySelector('[aria-roledescription=bar]')).fill") != bar
    assert [sum(map(int, re.findall(r"\d+", colour)[:3])) > 384 for colour in (dark, light)] == [False, True]
    visit.page.context.close()


def test_on_paper_there_is_no_player_and_no_filter(chromium: Any, short_report: Path) -> None:
    visit = Visit(chromium, short_report)
    visit.page.emulate_media(media="print")
    assert not visit.page.is_visible(".filters")
    assert not visit.page.is_visible("nav")
    assert visit.page.is_visible(".chart svg")
    assert len(visit.page.pdf()) > 50_000
    visit.page.context.close()


def test_hostile_names_are_shown_as_text_and_run_nothing(chromium: Any, tmp_path: Path) -> None:
    inject = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><p id=told>kept</p>"
    code = f"import ser_batch\n@ser_batch.hookimpl\ndef report_sections():\n    return [('Injected', {inject!r})]\n"
    names = [name for name in HOSTILE if len(name) < 100]
    info = {"root": str(tmp_path), "model": {"name": HOSTILE[1], "sha256": HOSTILE[2]}}
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=names, failed_share=0.3, long_every=2, info=info, seed=1))
    recipe = PluginRecipe(files=(plugin(tmp_path, "injected.py", code),))
    visit = Visit(chromium, build_report(run, recipe=recipe))
    assert visit.page.title().startswith("run: emotions of")
    shown = [row.text_content() for row in visit.page.query_selector_all("#files-table td.name")]
    assert sorted(shown) == sorted(names)
    assert visit.page.inner_text("#told") == "kept"
    # What the plugin brought was refused by the page's own policy, and said so in the console.
    assert all("Content Security Policy" in text for text in visit.complaints)
    assert [url for url in visit.requests if not url.startswith(("blob:", "file:"))] == []
    visit.page.context.close()


def test_a_name_with_odd_characters_is_found_on_the_disk(chromium: Any, tmp_path: Path) -> None:
    names = ["a&amp;b%41#c?d.wav", "line\nbreak\rand\ttab.wav", "ж中😀/ü \"'.wav"]
    for name in names:
        tone(tmp_path / "audio" / name, 1)
    odd = tmp_path / "audio" / "latin\udce9.wav"
    tone(odd, 1)
    plan = RunPlan(clip_ids=[*names, "latin\\xe9.wav"], failed_share=0.0, info={"root": str(tmp_path / "audio")})
    visit = Visit(chromium, build_report(make_run(tmp_path / "run", 0, plan)))
    for button in visit.page.query_selector_all("#files-table .play"):
        button.click()
        visit.wait_until(
            "name => document.getElementById('player-audio').dataset.clip === name && "
            "document.getElementById('player-audio').readyState >= 1",
            arg=button.get_attribute("data-clip"),
        )
    assert visit.complaints == []
    visit.page.context.close()


def test_a_comparison_names_the_changed_files_and_plays_them(chromium: Any, run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", N_FILES, RunPlan(seed=9))
    path = build_report(other, run, output=tmp_path / "comparison.html")
    visit = Visit(chromium, path)
    before, after = load_results(other), load_results(run)
    both = before.emotion.notna() & after.emotion.notna()
    n_changed = (before.emotion.astype(object) != after.emotion.astype(object))[both].sum()
    assert f"of {n_changed:,}" in visit.shown()
    visit.page.fill("#filter-text", default_names(N_FILES)[1])
    assert visit.rows()[0][2].strip() in LABELS
    assert visit.complaints == []
    found = axe.Axe().run(visit.page)
    assert [rule["id"] for rule in found.response["violations"]] == []
    visit.page.context.close()
