"""A node's folder for what its workers write, on a disk of its own machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ser_batch.errors import ConfigError, RunError
from ser_batch.run.local import local_folder

__all__ = ["node_scratch"]


@contextmanager
def node_scratch(base: str | os.PathLike[str] | None, run_dir: Path) -> Iterator[Path]:
    """A folder below `base`, or where temporary files lie; it is gone at the end, or when another node begins there.

    Raises
    ------
    ConfigError
        `base` lies in the run, which all nodes share.
    RunError
        It cannot be made.
    """
    parent = Path(base or tempfile.gettempdir())
    if parent.resolve().is_relative_to(run_dir.resolve()):
        raise ConfigError(f"`work --scratch {parent}` lies in the run {run_dir}. Give a folder on a disk of this node.")
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(local_folder(parent, "ser-batch-node-"))
        except OSError as error:
            raise RunError(f"Workers need a folder, and none can be made in {parent}: {error.strerror}.") from None
        yield folder
