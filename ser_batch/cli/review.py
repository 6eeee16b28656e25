"""``ser-batch review``: listen to clips of a run and say what they are, in the browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import OneOf, audio_option, plugin_option, run_argument
from ser_batch.errors import ConfigError, ExitCode, InputError
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.reviews.session import Visit
    from ser_batch.run.read import Run

__all__ = ["command"]


@click.command("review")
@run_argument
@click.option(
    "--for", "purpose", type=OneOf(["audit", "adapt"]), default="audit", show_default=True,
    help="What comes next: a random sample that stands for the run, or clips from which a model learns most.",
)  # fmt: skip
@click.option("--like", metavar="CLIP_ID", help="Ask about what sounds most like this clip.")
@click.option("--only", metavar="LABEL", help="Ask about clips that were given this label, in random order.")
@click.option("--files-from", metavar="FILE", type=click.Path(), help="Ask about the files of a list, one path a line.")
@click.option(
    "--half-width", metavar="POINTS", type=click.FloatRange(0.5, 50),
    help="Wanted precision of the audit, in points of accuracy; 5 unless an earlier review said otherwise.",
)  # fmt: skip
@click.option("--reviewer", metavar="NAME", help="Who answers; by default the name of the user.")
@click.option("--label", "own", metavar="LABEL", multiple=True, help="Offer a label of your own, too; may be repeated.")
@audio_option
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port; any that is free by default.")
@click.option("--no-browser", is_flag=True, help="Do not open the page; its address is printed.")
@plugin_option
def command(run_dir: str, **options: Any) -> int:
    """Listen to clips of RUN in the browser and answer by a key each; `ser-batch audit` says what follows.

    The page is on this machine alone and asks nothing of any network. What the model thought is not shown before the
    answer. Each answer is on disk, in RUN/reviews/NAME.jsonl, before the next clip comes: end with
    Ctrl-C, and go on with the same command. Needs the extra: pip install "ser-batch[review]".
    """
    given = [name for name in ("like", "only", "files_from") if options[name] is not None]
    if len(given) > 1:
        raise ConfigError("--like, --only and --files-from each say what comes next: give one of them.")
    if options["half_width"] is not None and (given or options["purpose"] != "audit"):
        raise ConfigError("--half-width is the precision of an audit: it goes with none of the other purposes.")
    if lacking := [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise InputError(f'{" and ".join(lacking)} is not installed: pip install "ser-batch[review]".')
    from ser_batch.interrupt import Interruptions  # noqa: PLC0415 - not for --help
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415
    from ser_batch.reviews.answers import AnswerJournal, default_reviewer  # noqa: PLC0415
    from ser_batch.reviews.excerpts import Excerpts, root_of  # noqa: PLC0415
    from ser_batch.reviews.server import HOST, application, listening, new_token, serve  # noqa: PLC0415
    from ser_batch.reviews.session import Session  # noqa: PLC0415
    from ser_batch.run.read import open_run  # noqa: PLC0415

    run = open_run(run_dir)
    reviewer = options["reviewer"] or default_reviewer()
    visit = _visit(run, given[0] if given else options["purpose"], options)
    excerpts = Excerpts(root_of(run, options["audio"]), PluginRecipe(files=options["plugins"]).build(), _rate_hz(run))
    excerpts.refuse_if_moved([task.unit for task in visit.tasks])
    with AnswerJournal.open(run.folder, reviewer, str(run.info.get("run_id", ""))) as journal:
        n_before = len(journal.standing)
        with listening(options["port"]) as listener:
            port, token = listener.getsockname()[1], new_token()
            address = f"http://{HOST}:{port}/{token}/"
            for notice in (*run.notices, *visit.notices):
                click.echo(f"Note: {printable(notice)}", err=True)
            click.echo(f"{printable(reviewer)} listens to {printable(run_dir)}: {address} (Ctrl-C ends)")
            if not options["no_browser"]:
                click.launch(address)
            try:
                with Interruptions():
                    serve(application(Session(visit, journal), excerpts, token, port), listener)
            except KeyboardInterrupt:
                pass
        n_new = len(journal.standing) - n_before
        click.echo(f"{n_new:+d} answers, {len(journal.standing):,} in {printable(journal.path)}")
    if visit.purpose == "audit":
        click.echo(f"`ser-batch audit {printable(run_dir)}` says how right the labels are.")
    return ExitCode.OK


def _visit(run: Run, purpose: str, options: dict[str, Any]) -> Visit:
    from ser_batch.reviews import choice  # noqa: PLC0415
    from ser_batch.reviews.session import Visit  # noqa: PLC0415
    from ser_batch.stages.discover import read_file_list  # noqa: PLC0415

    notices: list[str] = []
    aim = ""
    if purpose == "audit":
        half_width = options["half_width"]
        sample, tasks = choice.tasks_for_audit(run, half_width / 100 if half_width else None)
        n_wanted = sample.n_wanted
        aim = f"±{100 * sample.half_width:g} points need about {n_wanted:,} answers"
    elif purpose == "files_from":
        tasks, notices = choice.tasks_for_files(run, read_file_list(Path(options["files_from"])).paths)
        n_wanted, purpose = len(tasks), "files"
    else:
        if purpose == "adapt":
            tasks = choice.tasks_for_adapt(run)
        else:
            tasks = (choice.tasks_like if purpose == "like" else choice.tasks_for_label)(run, options[purpose])
        n_wanted = min(len(tasks), 100)
    return Visit(run.folder.resolve().name, purpose, tasks, n_wanted, run.labels, options["own"], aim, tuple(notices))


def _rate_hz(run: Run) -> int:
    return int(((run.info.get("config") or {}).get("audio") or {}).get("sample_rate_hz") or 22_050)
