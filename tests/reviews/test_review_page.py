"""The page of a review in a real browser, served by the real command: nothing is lost, nothing gets in."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import RunPlan, make_run
from test_server import tone

from ser_batch.reviews.answers import read_answers

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the browser tests need axe-playwright-python"
)

pytestmark = pytest.mark.browser

N_FILES = 44
HOSTILE = "<img src=x onerror=\"document.title='taken'\">\u202egpj.wav"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run over short tones, one of which has a name that HTML and text direction would act upon."""
    names = [HOSTILE, *(f"tape/{i:02d}.wav" for i in range(N_FILES - 1))]
    for name in names:
        tone(tmp_path / "audio" / name, 1.0)
    plan = RunPlan(clip_ids=names, failed_share=0.0, long_every=10**9, info={"root": str(tmp_path / "audio")})
    return make_run(tmp_path / "run", 0, plan)


class Review:
    """A running ``ser-batch review``."""

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-m", "ser_batch", "review", str(run), "--no-browser", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)
        assert found, line
        self.address = found.group()

    def end(self, number: int = signal.SIGINT) -> str:
        self.process.send_signal(number)
        told, _ = self.process.communicate(timeout=30)
        return told


@contextmanager
def reviewing(run: Path, reviewer: str = "anna", *options: str) -> Iterator[Review]:
    review = Review(run, "--reviewer", reviewer, *options)
    try:
        yield review
    finally:
        if review.process.poll() is None:
            review.end(signal.SIGKILL)


class Listener:
    """Somebody at the page, with all that it asked for and complained of."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_context(**options).new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def start(self) -> None:
        self.page.keyboard.press("Space")
        self.until_shown("")

    def until_shown(self, before: str) -> str:
        """Wait for another clip than `before` that can be answered; return its number."""
        end_s = time.monotonic() + 30
        ready = "document.querySelector('.answers button').disabled ? '' : document.documentElement.dataset.shown || ''"
        while (now := str(self.page.evaluate(ready))) in ("", before):
            assert time.monotonic() < end_s, self.page.inner_text("main")
            self.page.wait_for_timeout(10)
        return now

    def press(self, key: str) -> None:
        before = self.until_shown("")
        self.page.keyboard.press(key)
        self.until_shown(before)

    def count(self) -> int:
        return int(self.page.inner_text("#count").split(" of ")[0])


def test_answers_survive_undo_reload_and_kill_9_and_a_second_reviewer_begins_anew(  # noqa: PLR0915 - one story
    chromium: Any, run: Path
) -> None:
    with reviewing(run) as review:
        listener = Listener(chromium, review.address)
        page = listener.page
        listener.start()
        for key in "1234567vmx":
            listener.press(key)
        assert listener.count() == 10
        assert "Kept: cannot tell." in page.inner_text("#last")
        assert "The model" not in page.inner_text("#last")
        page.check("#reveal")
        assert "The model: " in page.inner_text("#last")
        number = listener.until_shown("")
        page.keyboard.press("u")
        listener.until_shown(number)
        assert listener.count() == 9
        page.keyboard.press("n")
        page.keyboard.type("1 is a sigh")
        page.keyboard.press("Enter")
        page.wait_for_timeout(400)
        listener.press("v")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert listener.count() == 10
        listener.start()
        for key in "123":
            listener.press(key)
        assert listener.complaints == []
        assert {url for url in listener.requests if not url.startswith((review.address, "blob:", "data:"))} == set()
        review.end(signal.SIGKILL)
        page.keyboard.press("1")
        page.wait_for_selector("#problem:not([hidden])")
        assert "The review has ended. Start `ser-batch review` again" in page.inner_text("#problem")
        page.context.close()
    assert len(read_answers(run).answers) == 13

    with reviewing(run) as review:
        listener = Listener(chromium, review.address)
        assert listener.count() == 13
        listener.start()
        for key in "676":
            listener.press(key)
        listener.page.context.close()
        assert "+3 answers, 16 in " in review.end()
        assert review.process.returncode == 0
    given = read_answers(run).answers
    assert len({answer.clip_id for answer in given}) == 16
    assert [answer.answer for answer in given[:3]] == ["anger", "disgust", "fear"]
    (noted,) = [answer for answer in given if answer.note]
    assert (noted.note, noted.answer) == ("1 is a sigh", "no voice")
    assert 0.3 < noted.time_s < 60

    with reviewing(run, "ben") as review:
        listener = Listener(chromium, review.address)
        assert listener.count() == 0
        listener.start()
        listener.press("5")
        listener.page.context.close()
    both = read_answers(run)
    assert both.reviewers == ["anna", "ben"]
    # Both are asked the same in the same order, so that their agreement can be told.
    assert both.answers[-1].clip_id == given[0].clip_id


def test_hostile_names_and_labels_are_text_and_no_barrier_is_found(chromium: Any, run: Path) -> None:
    wanted = run.parent / "wanted.txt"
    wanted.write_text(f"{HOSTILE}\ntape/01.wav\n", encoding="utf-8")
    with reviewing(run, "anna", "--files-from", str(wanted)) as review:
        for scheme, width in (("light", 1280), ("dark", 390)):
            listener = Listener(chromium, review.address, viewport={"width": width, "height": 844}, color_scheme=scheme)
            page = listener.page
            for _ in range(2):
                found = axe.Axe().run(page)
                told = [f"{rule['id']}: {rule['nodes'][0]['html'][:160]}" for rule in found.response["violations"]]
                assert told == []
                if not page.is_visible("#work"):
                    listener.start()
                    listener.page.keyboard.press("n")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.inner_text("#clip") == HOSTILE.replace("\u202e", "\\u202e")
            assert page.query_selector("#clip img") is None
            # By mouse alone, with a label of one's own; then the next scheme begins with the same clip.
            page.keyboard.press("Escape")
            before = listener.until_shown("")
            page.fill("#own-text", "<b>laughter</b>")
            page.click("#own button")
            listener.until_shown(before)
            assert "<b>laughter</b>" in page.inner_text("#labels")
            page.click("#undo")
            assert page.title() == "Review of run"
            page.context.close()
