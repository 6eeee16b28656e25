"""The report as a file: whole, small, escaped, and honest about what it leaves out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, RunError
from ser_batch.plugins import PluginRecipe
from ser_batch.report.build import build_report
from ser_batch.report.drawing import Drawing
from ser_batch.report.facts import score_text
from ser_batch.report.filetable import AudioPlace, find_audio
from ser_batch.report.sections import plugin_sections
from ser_batch.run.read import open_run

HOSTILE = [
    "<script>document.title='taken'</script>.wav",
    '"><img src=x onerror="document.title=1">.wav',
    "</script><script>document.title='taken'</script>.wav",
    "<!--<script>.wav",
    "'; DROP TABLE files; --.wav",
    "line\nbreak\rand\ttab.wav",
    "\x1b[31mred\x1b[0m.wav",
    "\u202etxt.exe.wav",
    "{{ 7 * 7 }}{% raw %}.wav",
    "=cmd|calc!A1.wav",
    "latin\\xe9.wav",
    "ж中😀.wav",
    "-rf.wav",
    "x" * 251 + ".wav",
    "a&amp;b%41#c?d.wav",
]


class Page(HTMLParser):
    """Elements and text of a page, as a browser's parser would take them apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        """The JSON that the page's script reads."""
        return json.loads(next(text for text in self.texts if text.startswith('{"')))


#: One chart engine for the reports of this file.
ENGINE: list[Drawing] = []


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    with Drawing() as drawing:
        ENGINE.append(drawing)
        yield
        ENGINE.clear()


def build(run: Path, **options: Any) -> Path:
    return build_report(run, drawing=next(iter(ENGINE), None), **options)


def report(run: Path, **options: Any) -> Page:
    return Page(build(run, **options).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "archive", 2_000, RunPlan(seed=2))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return report(run)


def test_the_report_is_one_file_that_names_nothing_outside_of_itself(page: Page, run: Path) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith("#"), (tag, name, target)
    assert {path.name for path in run.iterdir()} == {"run.json", "files", "windows", "report.html"}


def test_its_own_policy_forbids_the_network_and_foreign_scripts(page: Page) -> None:
    (policy,) = (meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}' blob:", rules["script-src"])
    assert not any(source in policy for source in ("unsafe-eval", "http", "*"))


def test_it_tells_what_was_scanned_how_sure_it_is_and_what_failed(page: Page, run: Path) -> None:
    files = load_results(run)
    assert f"{files.emotion.notna().sum():,} of 2,000 files were analysed" in page.text
    for label, n in files.emotion.value_counts().items():
        assert re.search(rf"{label}\s+{n:,}\s", page.text), label
    for heading in ("Emotions", "By folder", "Confidence", "Inside long recordings", "Worth a listen", "Files",
                    "Failures and skips", "Speed", "How this was made", "What this report leaves out"):  # fmt: skip
        assert heading in page.texts, heading
    assert "95 % Wilson intervals" in page.text
    assert "quality__snr_db below 10 dB" in page.text
    assert "worker killed by signal 11 in extract" in page.text
    assert "Do not use it to judge a person" in page.text.replace("\n", " ")


@pytest.mark.parametrize(
    ("side", "words"),
    [
        ("test", "on speakers kept apart"),
        ("validation", "though not from choosing the model"),
        ("cross_validation", "on speakers that networks trained in the same way had not heard"),
        ("", "on its own check"),
    ],
)
def test_it_tells_on_whom_the_model_was_scored(side: str, words: str) -> None:
    scores = {"side": side, "uar": 0.6, "uar_interval": [0.5, 0.7], "corpora": {"tapes": 0.6}}
    text = score_text(scores)
    assert words in text
    assert "60.0 % (95 % interval by speaker 50.0 % to 70.0 %)" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_model_scored_on_one_speaker_has_no_interval_to_tell() -> None:
    scores = {"side": "test", "uar": 0.6, "uar_interval": [None, None], "corpora": {"tapes": 0.6}}
    assert "interval" not in score_text(scores)


def test_the_table_holds_every_file_with_its_strongest_moment(page: Page, run: Path) -> None:
    files = load_results(run)
    data = page.data
    rows = [dict(zip(data["fields"], row, strict=True)) for row in data["rows"]]
    assert [row["clip_id"] for row in rows] == files.clip_id.tolist()
    shown = [data["labels"][row["emotion"]] if row["emotion"] >= 0 else "none" for row in rows]
    assert shown == files.emotion.astype(object).fillna("none").tolist()
    for row, n_windows in zip(rows, files.n_windows, strict=True):
        assert (row["moment_s"] is not None) == (n_windows > 1)


def test_every_chart_has_a_description_and_its_numbers_beside_it(page: Page) -> None:
    charts = list(page.of("svg"))
    assert len(charts) >= 12
    for chart in charts:
        assert chart["role"] == "img"
        assert len(chart["aria-label"] or "") > 30
    assert page.texts.count("The numbers") >= 4


def test_names_and_messages_of_any_kind_are_text(tmp_path: Path) -> None:
    info = {
        "inputs": HOSTILE[:3],
        "root": f"/archive/{HOSTILE[0]}",
        "model": {"name": HOSTILE[1], "sha256": HOSTILE[2]},
    }
    info["host"] = {"platform": HOSTILE[0]}
    plan = RunPlan(clip_ids=HOSTILE, failed_share=0.3, long_every=2, info=info)
    html = build(make_run(tmp_path / "run<b>", 0, plan)).read_text(encoding="utf-8")
    page = Page(html)
    assert [kind["type"] for kind in page.of("script")] == ["application/json", "text/plain", "module"]
    assert not list(page.of("img"))
    assert {row[0] for row in page.data["rows"]} == set(HOSTILE)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7 * 7 }}" in page.text
    played = {button.get("data-clip") for button in page.of("button")} - {None}
    assert played <= set(HOSTILE)


def test_the_text_of_the_page_cannot_end_or_open_a_script(tmp_path: Path) -> None:
    html = build(make_run(tmp_path / "run", 0, RunPlan(clip_ids=HOSTILE))).read_text(encoding="utf-8")
    inside = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    assert len(inside) == 3
    assert not any("<!--" in part for part in inside)


# Runs that are not as they should be


def test_an_empty_run_gives_a_report_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "labels": LABELS, "state": "complete"}))
    page = report(tmp_path)
    assert "This run holds no file yet." in page.text
    assert "There is no file in this run yet." in page.text


def test_a_run_in_which_everything_failed_shows_the_reasons(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", 50, RunPlan(failed_share=1.0)))
    assert "0 of 50 files were analysed" in page.text
    assert "Format not recognised." in page.text
    assert "Emotions" not in page.texts


def test_a_run_without_a_model_shows_features_files_and_failures(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", 200, RunPlan(labels=(), info={"model": {}})))
    assert "features alone" in page.text
    assert "What a label means." not in page.texts
    assert len(page.data["rows"]) == 200


def test_a_single_file_is_enough(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", 1, RunPlan(failed_share=0.0, seed=1)))
    assert "1 of 1 files" in page.text


def test_unfinished_and_damaged_runs_are_shown_with_a_note(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 600, RunPlan(info={"state": "interrupted"}))
    broken = run / "files" / "part-00001.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    page = report(run)
    assert "is interrupted: the same scan command finishes it" in page.text
    assert "part-00001.parquet cannot be read and is left out" in page.text
    assert len(page.data["rows"]) == 600 - 256


def test_a_run_of_a_newer_schema_is_refused_with_the_cure(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 10, RunPlan(info={"schema_version": 99}))
    with pytest.raises(RunError, match="Upgrade ser-batch"):
        build(run)


def test_a_report_that_cannot_be_written_says_where(run: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written to /nowhere/report\.html"):
        build(run, output="/nowhere/report.html")


# The recordings


def make_audio(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names(*clip_ids: str) -> pa.Table:
    return pa.table({"clip_id": list(clip_ids)})


def test_recordings_are_linked_relative_to_the_report(tmp_path: Path) -> None:
    audio = make_audio(tmp_path / "my audio", ["a/x.wav"])
    run = make_run(tmp_path / "runs" / "one", 0, RunPlan(clip_ids=["a/x.wav"], info={"root": str(audio)}))
    assert report(run).data["audio"] == "../../my%20audio/"
    opened = open_run(run)
    assert find_audio(opened, tmp_path, None, names("a/x.wav")) == AudioPlace("my%20audio/")
    odd = tmp_path / "100% #1 \udce9"
    odd.mkdir()
    assert find_audio(opened, tmp_path, odd, None) == AudioPlace("100%25%20%231%20%E9/")


def test_moved_recordings_are_said_and_can_be_pointed_to(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=["a/x.wav", "a/y.wav"], info={"root": str(tmp_path / "old")}))
    page = report(run)
    assert f"The recordings are no longer at {tmp_path / 'old'}" in page.text
    assert page.data["audio"] == ""
    new = make_audio(tmp_path / "new", ["a/x.wav"])
    place = find_audio(open_run(run), run, new, names("a/x.wav", "a/y.wav"))
    assert place == AudioPlace("../new/", f"1 of 2 recordings looked for in {new} are not there to be played.")


def test_a_run_that_does_not_say_where_its_recordings_are_says_that(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1, RunPlan(info={"root": ""}))
    assert "does not say where its recordings are" in find_audio(open_run(run), run, None, None).notice


# Plugins


PLUGIN = """
import ser_batch

@ser_batch.hookimpl
def report_sections(run_dir):
    files = ser_batch.load_results(run_dir)
    return [("Sizes", f"<p id='sizes'>{len(files)} files</p>")]
"""


def plugin(folder: Path, name: str, code: str) -> str:
    (folder / name).write_text(code)
    return str(folder / name)


def test_a_plugin_adds_a_section_under_its_name(run: Path, tmp_path: Path) -> None:
    recipe = PluginRecipe(files=(plugin(tmp_path, "sizes.py", PLUGIN),))
    page = report(run, output=tmp_path / "report.html", recipe=recipe)
    assert any(attributes.get("id") == "sizes" for _, attributes in page.tags)
    assert "Section by the plugin sizes.py." in page.text
    assert "Sizes" in page.texts


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise RuntimeError('no <b>luck</b>')", "RuntimeError: no <b>luck</b>"),
        ("return ['only a title']", "must return (title, HTML) pairs of strings, not 'only a title'"),
        ("return 7", "must return a list of sections, not 7"),
    ],
)
def test_a_plugin_that_fails_costs_its_section_only(run: Path, tmp_path: Path, body: str, told: str) -> None:
    bad = plugin(tmp_path, "bad.py", f"import ser_batch\n@ser_batch.hookimpl\ndef report_sections():\n    {body}\n")
    failed, sizes = plugin_sections(run, PluginRecipe(files=(bad, plugin(tmp_path, "sizes.py", PLUGIN))))
    assert (failed["plugin"], failed["html"]) == ("bad.py", "")
    assert "Plugin 'bad.py'" in failed["error"]
    assert told in failed["error"]
    assert (sizes["title"], sizes["error"]) == ("Sizes", "")
    assert "2000 files" in sizes["html"]


def test_what_a_failing_plugin_says_is_text(run: Path, tmp_path: Path) -> None:
    code = "import ser_batch\n@ser_batch.hookimpl\ndef report_sections():\n    raise ValueError('<b id=bold>')\n"
    recipe = PluginRecipe(files=(plugin(tmp_path, "bad.py", code),))
    page = report(run, output=tmp_path / "report.html", recipe=recipe)
    assert "ValueError: <b id=bold>" in page.text
    assert not any(attributes.get("id") == "bold" for _, attributes in page.tags)


def test_a_plugin_that_cannot_be_loaded_is_said(run: Path, tmp_path: Path) -> None:
    (section,) = plugin_sections(run, PluginRecipe(files=(str(tmp_path / "missing.py"),)))
    assert "missing.py does not exist" in section["error"]


# Size


def test_a_large_run_is_cut_to_a_size_that_a_browser_opens_and_says_so(tmp_path: Path) -> None:
    names = [f"{'long-folder-name/' * 12}{i:06}.flac" for i in range(12_000)]
    run = make_run(tmp_path / "run", 0, RunPlan(clip_ids=names, shard_size=4_000))
    path = build(run)
    assert path.stat().st_size < 5_000_000
    page = Page(path.read_text())
    n_shown = len(page.data["rows"])
    assert 1_000 < n_shown < 12_000
    assert f"The table of files shows {n_shown:,} of 12,000 files. The rest is in the Parquet tables." in page.text


def test_a_report_without_its_table_is_small_enough_to_mail(run: Path, tmp_path: Path) -> None:
    path = build(run, output=tmp_path / "small.html", table=False)
    page = Page(path.read_text())
    assert path.stat().st_size < 500_000
    assert page.data["rows"] == []
    assert "The table of files was left out" in page.text
    assert "The table of files shows 0 of 2,000 files." in page.text
    assert "Failures and skips" in page.texts


# The command


def test_the_command_builds_reports_and_comparisons(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "one.html")]) == ExitCode.OK
    assert main(["report", str(run), str(run), "-o", str(tmp_path / "two.html")]) == ExitCode.OK
    assert capsys.readouterr().out.count(" MB)") == 2
    assert main(["report", str(run), str(run), "--no-table"]) == ExitCode.USAGE
    assert "are for the report of one run" in capsys.readouterr().err
