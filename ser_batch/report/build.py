"""Builds the report of a run: one HTML file that works offline."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.compute as pc
from markupsafe import Markup

from ser_batch._version import __version__
from ser_batch.atomic import write_atomic
from ser_batch.doubts import scores_of_run
from ser_batch.errors import RunError
from ser_batch.plugins import PluginRecipe
from ser_batch.report import formats
from ser_batch.report.context import Page, report_context
from ser_batch.report.drawing import Drawing
from ser_batch.report.facts import left_out, run_facts, score_text
from ser_batch.report.filetable import AudioPlace, as_script_json, file_table, find_audio
from ser_batch.report.moments import find_moments
from ser_batch.report.palette import css_variables
from ser_batch.report.rightness import rightness_of
from ser_batch.report.sections import plugin_sections
from ser_batch.report.spoken import spoken
from ser_batch.report.survey import Survey, survey_run
from ser_batch.run.read import Run, open_run
from ser_batch.run.summary import gaps_of

__all__ = ["build_report"]


def build_report(
    run_dir: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    recipe: PluginRecipe | None = None,
    table: bool = True,
    drawing: Drawing | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Path:
    """Write the report of a run, or of what differs between two, and return its path.

    Reads ``run.json`` and Parquet alone, in memory that does not grow with the run; the file stays below 5 MB and makes
    no network request.

    Parameters
    ----------
    run_dir : path
        A run folder, finished or not.
    other : path, optional
        A second run: the report compares the labels of `run_dir` with those of `other`.
    output : path, optional
        File to write; by default ``report.html`` in the run folder, ``comparison.html`` in the second one's.
    audio : path, optional
        Folder that holds the recordings now, where they were moved after the scan.
    recipe : PluginRecipe, optional
        Plugins that may add sections; by default all installed ones.
    table : bool
        Include the table of files; without it the report takes about 0.3 MB, for a mail or a page.
    drawing : Drawing, optional
        Draws the charts; one of its own, unless given.
    step : callable, optional
        Is told what comes next.

    Raises
    ------
    RunError
        Not a run, a run of a newer schema, or the report cannot be written.
    """
    with ExitStack() as stack:
        step("while its tables were read")
        draws = drawing or stack.enter_context(Drawing())
        if other is not None:
            from ser_batch.report.compare import comparison_page  # noqa: PLC0415 - only for two runs

            target = Path(output) if output else Path(other) / "comparison.html"
            return _written(target, _filled(comparison_page(run_dir, other, target.parent, audio), draws))
        target = Path(output) if output else Path(run_dir) / "report.html"
        run = open_run(run_dir)
        survey = survey_run(run)
        place = find_audio(run, target.parent, Path(audio) if audio else None, survey.table)
        sections = plugin_sections(run.folder, recipe, step)
        step("while its page was made")
        page = _report_page(run, survey, place, sections, table)
        return _written(target, _filled(page, draws))


def _report_page(run: Run, survey: Survey, place: AudioPlace, plugins: list[dict[str, Any]], with_table: bool) -> Page:
    picked = [row for rows in survey.confident.values() for row in rows] + survey.unsure
    picked += [outlier.row for outlier in survey.outliers]
    if survey.table is not None and survey.labels:
        names = ["clip_id", "emotion"]
        several = pc.greater(survey.table.column("n_windows"), 1)
        picked += survey.table.select(names).filter(several).to_pylist()
    moments = find_moments(run, picked if survey.labels else [], survey.longest if survey.labels else [])
    table = file_table(survey, place, moments.strongest_s, included=with_table)
    context = report_context(run, survey, moments, table)
    context |= {
        "notices": [*run.notices, *gaps_of(run.info), *([place.notice] if place.notice and survey.n_rows else [])],
        "spoken": spoken(run),
        "plugin_sections": plugins,
        "rightness": rightness_of(run),
        "facts": run_facts(run, survey),
        "left_out": left_out(survey, table),
        "score": score_text(scores_of_run(run.info)),
    }
    sections = [
        ("overview", "Overview", True),
        ("rightness", "How right?", bool(context["rightness"])),
        ("emotions", "Emotions", bool(survey.n_labelled)),
        ("time", "Over time", bool(context["periods"])),
        ("confidence", "Confidence", bool(survey.n_labelled)),
        ("timelines", "Inside recordings", bool(context["timelines"])),
        ("spoken", "Who says what", bool(context["spoken"])),
        ("listen", "Worth a listen", bool(context["listen"])),
        ("files", "Files", True),
        ("problems", "Failures and skips", True),
        ("speed", "Speed", True),
        *((section["id"], section["title"], True) for section in context["plugin_sections"]),
        ("about", "How this was made", True),
    ]
    context["sections"] = [(anchor, title) for anchor, title, shown in sections if shown]
    return Page("report.html.j2", survey.labels, table.payload, context)


def _filled(page: Page, drawing: Drawing) -> str:
    """Fill a template that extends ``base.html.j2``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ser_batch.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in formats.__all__} | {"drawn": drawing.markup}
    script = _template("report.js")
    colours = environment.get_template("colours.css.j2")
    frame = {
        "tool_version": __version__,
        # Only this very script may run: anything that slipped in from a file name or a plugin may not.
        "script": Markup(script),
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": Markup(_template("style.css")),
        "colours_light": Markup(colours.render(dark=False, emotions=css_variables(page.labels, dark=False))),
        "colours_dark": Markup(colours.render(dark=True, emotions=css_variables(page.labels, dark=True))),
        "data": as_script_json(page.payload),
        "table_library": Markup(_table_library()) if page.payload["rows"] else "",
    }
    return environment.get_template(page.template).render(**frame, **page.context)


def _template(name: str) -> str:
    return resources.files("ser_batch.report").joinpath("templates", name).read_text(encoding="utf-8")


def _table_library() -> str:
    """Return DataTables as itables packs it: one JavaScript module."""
    # Found without being imported, which would take longer than all the rest of the report.
    spec = importlib.util.find_spec("itables")
    if spec is None or spec.origin is None:
        raise RunError(
            "The report needs the package itables for its table: pip install itables. Without the table, "
            "`ser-batch report RUN --no-table` builds it."
        )
    code = (Path(spec.origin).parent / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    # Neither the end of the script element nor what makes HTML look for a second one may stand in it as it is.
    return code.replace("</script", "<\\/script").replace("<!--", "<\\u0021--")


def _written(target: Path, page: str) -> Path:
    try:
        write_atomic(target, page)
    except OSError as error:
        raise RunError(
            f"The report cannot be written to {target}: {error.strerror}. `ser-batch report -o FILE` writes another."
        ) from None
    return target
