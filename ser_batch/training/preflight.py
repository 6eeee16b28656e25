"""What is checked before hours of work: that what comes of it can be written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from ser_batch.errors import ConfigError, RunError
from ser_batch.text import printable

__all__ = ["check_model_names", "require_file", "require_folder"]


def check_model_names(output: Path, also: Iterable[str]) -> None:
    """See that a training can call its model files what it is to call them.

    Raises
    ------
    ConfigError
        Another suffix than ``.safetensors``, a name that is a path or none, or two files of one name.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(
            f"`ser-batch train --output {output}`: the name must end in .safetensors, not {output.suffix!r}."
        )
    for name in also:
        if Path(name).name != name:
            raise ConfigError(
                f"`train --also {name}=…` must begin with a name, not a path: its file lies in {output.parent}."
            )
        if name == output.stem:
            raise ConfigError(f"`train --also {name}=…` has the name of the model itself, {output}; give it another.")


def require_folder(folder: Path, option: str) -> None:
    """Make a folder where it is missing, and see that it can be written to.

    Raises
    ------
    RunError
        It cannot; the message names `option`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"{option} {printable(folder)} cannot be written: {error.strerror or error}. Give another folder, or mend "
            f"this one."
        ) from error


def require_file(path: Path, option: str) -> None:
    """See that a file can be put there, in the place of one that is there; its folder is made where it is missing.

    Raises
    ------
    RunError
        It cannot; the message names `option`.
    """
    if path.is_dir():
        raise RunError(f"{option} {printable(path)} is a folder; give the name of a file.")
    require_folder(path.parent, f"The folder of {option}")
