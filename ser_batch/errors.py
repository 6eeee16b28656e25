"""Errors that a user can act on. Each owns the exit code of the command that it ends.

A message says what was wrong, where (file, plugin, option), and the cure. A file that cannot be read is not an
error here: it is a row with a status (`ser_batch.records.ClipOutcome`).
"""

from enum import IntEnum

__all__ = [
    "ConfigError",
    "DataError",
    "ExitCode",
    "InputError",
    "ModelError",
    "NoVoiceError",
    "NothingToDoError",
    "PluginError",
    "RunError",
    "SerBatchError",
]


class ExitCode(IntEnum):
    """What a `ser-batch` command returns to the shell."""

    OK = 0
    #: The run is complete, but at least one file failed; its row says why.
    SOME_FILES_FAILED = 1
    #: A wrong option, value or configuration key (click uses the same code).
    USAGE = 2
    #: An input is missing or cannot be read, or an output cannot be written.
    INPUT = 3
    #: No audio file was found where the user pointed.
    NOTHING_TO_DO = 4
    #: A plugin broke its contract.
    PLUGIN = 5
    #: A model file is missing, damaged or does not fit.
    MODEL = 6
    #: A run folder cannot be written, continued or read.
    RUN = 7
    #: Labels, speakers or folds of training data, or a table about the files, are not usable.
    DATA = 8
    #: A fault of `ser-batch` itself or of a plugin; the message says where the traceback is.
    UNFORESEEN = 70
    #: Ctrl-C or SIGTERM; what was committed stays and the same command goes on.
    INTERRUPTED = 130


class SerBatchError(Exception):
    """Base of all errors that `ser-batch` raises on purpose."""

    exit_code = ExitCode.USAGE


class ConfigError(SerBatchError):
    """A configuration key, value or option is wrong."""

    exit_code = ExitCode.USAGE


class InputError(SerBatchError):
    """An input path is missing or cannot be read, or an output path cannot be written."""

    exit_code = ExitCode.INPUT


class NoVoiceError(InputError):
    """Nobody is heard in a recording, so that there is nothing to label."""


class NothingToDoError(SerBatchError):
    """No audio file was found."""

    exit_code = ExitCode.NOTHING_TO_DO


class PluginError(SerBatchError):
    """A plugin could not be loaded or broke its contract; the message names it."""

    exit_code = ExitCode.PLUGIN


class ModelError(SerBatchError):
    """A model is missing, damaged, or does not fit the extractors."""

    exit_code = ExitCode.MODEL


class RunError(SerBatchError):
    """A run folder cannot be written, continued, verified or read."""

    exit_code = ExitCode.RUN


class DataError(SerBatchError):
    """Training or evaluation data, or a table about the files, cannot be used as they are."""

    exit_code = ExitCode.DATA
