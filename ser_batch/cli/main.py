"""Builds the command line and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from ser_batch._version import __version__
from ser_batch.cli.streams import OutputLostError
from ser_batch.errors import ExitCode, PluginError, SerBatchError
from ser_batch.hookspecs import ENTRY_POINT_GROUP
from ser_batch.text import did_you_mean, message_of, printable

__all__ = ["build_cli", "main"]

#: What ends a command on purpose, also one of a plugin.
_OWN_ERRORS = (SerBatchError, click.ClickException, click.Abort, click.exceptions.Exit, OutputLostError)

#: Command -> (module, one line of help). The module holds a click command named `command`; it is imported when called.
COMMANDS = {
    "scan": ("ser_batch.cli.scan", "Label every audio file below a directory."),
    "predict": ("ser_batch.cli.predict", "Show the emotion of single files, with a bar per emotion."),
    "features": ("ser_batch.cli.features", "Extract features alone, without a model."),
    "show": ("ser_batch.cli.show", "Summarise a run in the terminal."),
    "report": ("ser_batch.cli.report", "Build the HTML report of a run, or compare two runs."),
    "export": ("ser_batch.cli.export", "Export a run to CSV, JSON lines, Audacity, ELAN, Praat or RTTM."),
    "status": ("ser_batch.cli.status", "Say what a run has done, what failed and what is left."),
    "verify": ("ser_batch.cli.verify", "Check that a run is whole and sound."),
    "retry": ("ser_batch.cli.retry", "Process the failed files of a run again."),
    "work": ("ser_batch.cli.work", "Do files of a planned run, on any machine that sees it."),
    "complete": ("ser_batch.cli.complete", "Take in what nodes have done of a planned run."),
    "slurm": ("ser_batch.cli.slurm", "Print a script that has SLURM work on a planned run."),
    "label": ("ser_batch.cli.label", "Label a run anew, without audio: another model or other labels."),
    "diff": ("ser_batch.cli.diff", "Compare the labels of two runs."),
    "review": ("ser_batch.cli.review", "Listen to clips of a run in the browser, and say what they are."),
    "audit": ("ser_batch.cli.audit", "Say how right the labels of a run are, by answers of listeners."),
    "adapt": ("ser_batch.cli.adapt", "Fit the model of a run to its archive, by answers of listeners."),
    "bench": ("ser_batch.cli.bench", "Measure the speed of this machine."),
    "train": ("ser_batch.cli.train", "Train a model on labelled audio."),
    "evaluate": ("ser_batch.cli.evaluate", "Score a model on labelled audio."),
    "organize": ("ser_batch.cli.organize", "Sort a downloaded corpus into data/raw/<emotion>/."),
    "model": ("ser_batch.cli.model", "Describe a model: parameters, features, scores, licences; export it to ONNX."),
    "listen": ("ser_batch.cli.listen", "Label a microphone as it is heard."),
    "plugins": ("ser_batch.cli.plugins", "List plugins, hooks and columns; check one."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that ``--help`` costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *(name for name in super().list_commands(ctx) if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in COMMANDS.items()]
        rows += [(name, self.commands[name].get_short_help_str()) for name in sorted(self.commands)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = did_you_mean(args[0], self.list_commands(ctx)) if args else ""
            if not near:
                raise
            raise click.UsageError(f"No such command {args[0]!r}.{near}", ctx) from error


def build_cli() -> click.Group:
    """Return the group of all commands, those of installed plugins included."""

    @click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    @click.version_option(__version__, prog_name="ser-batch")
    def cli() -> None:
        """Label large audio archives with emotion."""

    _add_plugin_commands(cli)
    return cli


def _add_plugin_commands(cli: click.Group) -> None:
    import importlib.metadata  # noqa: PLC0415 - with PluginRecipe's own, the only price of plugins for --help

    # Built-in plugins add no commands: without installed plugins there is nothing to load for --help.
    if not importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        return
    from ser_batch import hooks  # noqa: PLC0415 - loads numpy
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415

    try:
        manager = PluginRecipe(built_in=()).build()
        for name, plugin in hooks.register_commands(manager, cli).items():
            subject = f"Plugin {plugin!r} failed in its command {name!r}"
            command = cli.commands[name]
            command.invoke = partial(_invoke, command.invoke, subject)  # type: ignore[method-assign]
    except PluginError as error:
        # Help, `plugins` and runs that leave the plugin out must stay possible; what needs it fails by itself.
        click.echo(f"Warning: commands of plugins are missing. {printable(str(error))}", err=True)


def _invoke(invoke: Callable[[click.Context], Any], subject: str, ctx: click.Context) -> Any:
    """Run a command of a plugin; what it raises names the plugin."""
    from ser_batch.plugins import blamed  # noqa: PLC0415

    with blamed(subject, passing=_OWN_ERRORS):
        return invoke(ctx)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    # Names of files may hold bytes that are not UTF-8: show them escaped instead of failing on print.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = build_cli().main(args=argv, prog_name="ser-batch", standalone_mode=False)
        return int(result) if isinstance(result, int) else ExitCode.OK
    except SerBatchError as error:
        _say_error(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        click.echo(str(error) or "Interrupted.", err=True)
        return ExitCode.INTERRUPTED
    except OutputLostError as lost:
        if lost.error.errno == errno.EPIPE:  # whoever read it, such as head, has enough
            return ExitCode.OK
        _say_error(f"Standard output cannot be written: {lost}.")
        return ExitCode.INPUT
    except (Exception, SystemExit) as error:
        _say_unforeseen(error)
        return ExitCode.UNFORESEEN


def _say_error(message: str) -> None:
    # A message may quote file names and what plugins said.
    lines = [printable(line) for line in f"Error: {message}".split("\n")]
    click.echo("\n".join(lines), err=True)


def _say_unforeseen(error: BaseException) -> None:
    """Say in one line what happened and where, and keep the traceback in a file for whoever mends it."""
    import tempfile  # noqa: PLC0415 - only when something is wrong
    import traceback  # noqa: PLC0415

    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{type(error).__name__}: {message_of(error)} (in {frame.filename}, line {frame.lineno})"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ser-batch-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write("".join(traceback.format_exception(error)))
        kept = f"The traceback is in {log.name}."
    except OSError as unwritable:
        kept = f"The traceback could not be kept: {unwritable.strerror}."
    _say_error(f"Unforeseen, please report it: {' '.join(message.split())} {kept}")
